"""Collections of covariances on disk: one safetensors file, shared matrices written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from keeps.errors import StatisticsError
from keeps.numerics.covariance import Covariance
from keeps.weights.files import load_metadata, load_tensors, save_tensors

_KEY = "covariances"  # of the file's metadata: layer -> tensor and counts


def save_covariances(path: Path | str, covariances: Mapping[str, Covariance]) -> None:
    """Write a collection; reusable for any rank and both modes of CorDA.

    Raises:
        StorageError: the disk is full, or the folder is missing or not writable.
    """
    owners: dict[int, str] = {}
    layout: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for name, covariance in covariances.items():
        owner = owners.setdefault(id(covariance), name)
        tensors[owner] = covariance.total
        layout[name] = {"tensor": owner, "n_tokens": covariance.n_tokens, "n_samples": covariance.n_samples}
    save_tensors(path, tensors, metadata={_KEY: json.dumps(layout)})


def load_covariances(path: Path | str) -> dict[str, Covariance]:
    """Read what :func:`save_covariances` wrote, onto the CPU; layers that shared a matrix share it again.

    Raises:
        StorageError: the file is missing or damaged.
        StatisticsError: the file holds no covariances.
    """
    metadata, tensors = load_metadata(path), load_tensors(path)
    shared: dict[str, Covariance] = {}
    try:
        layout = json.loads(metadata[_KEY])
        for entry in layout.values():
            owner = entry["tensor"]
            if owner not in shared:
                counts = int(entry["n_tokens"]), int(entry["n_samples"])
                shared[owner] = Covariance(tensors[owner], *counts, owner)
        return {name: shared[entry["tensor"]] for name, entry in layout.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        mend = "collect them again with collect_covariance, and write them with save_covariances"
        raise StatisticsError("the file holds no covariances", where=str(path), mend=mend) from None

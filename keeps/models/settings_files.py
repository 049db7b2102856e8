"""The settings file beside the tensors of a change: JSON with the number of its format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from keeps.errors import SettingsError, StorageError
from keeps.weights.files import atomic_write_bytes, load_tensors

C = TypeVar("C")


def write_settings(path: Path, values: Mapping[str, Any], *, number: int) -> None:
    """Write ``values`` and the ``number`` of their format.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    text = json.dumps({**values, "format": number}, indent=2, sort_keys=True) + "\n"
    atomic_write_bytes(path, text.encode())


def read_settings(path: Path, make: Callable[[dict[str, Any]], C], *, number: int, mend: str) -> C:
    """What ``make`` makes of the values in a file of format ``number``.

    Raises:
        StorageError: the file is missing, damaged, of another format, or not what ``make`` takes.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != number:
            what = f"{path.name} is of another format than {number}"
            raise StorageError(what, where=str(path), mend="use the version of keeps that wrote it")
        return make(values)
    except FileNotFoundError:
        raise StorageError(f"there is no {path.name}", where=str(path.parent), mend=mend) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SettingsError) as error:
        raise StorageError(f"{path.name} cannot be read ({error})", where=str(path), mend=mend) from None


def load_by_layer(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file with names such as ``LAYER.PART``: by layer, by part.

    Raises:
        StorageError: the file is missing or damaged.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_tensors(path).items():
        name, _, part = key.rpartition(".")
        layers.setdefault(name, {})[part] = tensor
    return layers

"""Weights on disk: atomic files, safetensors, fingerprints, merging piece by piece; nothing here knows a model.

Names are imported on first use, so that a merge needs no tensor library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeps.weights.files import (
        atomic_folder,
        atomic_write_bytes,
        check_writable,
        folder_size,
        load_metadata,
        load_tensors,
        save_tensors,
    )
    from keeps.weights.fingerprints import fingerprint_file, fingerprint_tensors

_HOMES = {
    "atomic_folder": "files",
    "atomic_write_bytes": "files",
    "check_writable": "files",
    "fingerprint_file": "fingerprints",
    "fingerprint_tensors": "fingerprints",
    "folder_size": "files",
    "load_metadata": "files",
    "load_tensors": "files",
    "save_tensors": "files",
}

__all__ = [
    "atomic_folder",
    "atomic_write_bytes",
    "check_writable",
    "fingerprint_file",
    "fingerprint_tensors",
    "folder_size",
    "load_metadata",
    "load_tensors",
    "save_tensors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"keeps.weights.{_HOMES[name]}"), name)

"""Weights on disk: atomic files, safetensors, fingerprints; nothing here knows a model."""

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

"""Fingerprints: short names for contents, equal exactly when the contents are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from keeps.errors import StorageError
from keeps.weights.files import storage_error

DIGITS = 16  # hexadecimal digits kept: 64 bits


def fingerprint_tensors(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of names, dtypes, shapes and bytes of tensors (16 hexadecimal digits, SHA-256).

    The order of ``state`` and the device do not matter. Names that are one tensor in memory (tied
    embeddings) count once, under the name that sorts last: ``lm_head.weight`` gives way to
    ``model.embed_tokens.weight``, which is the name that ``named_parameters`` and checkpoint files keep.

    >>> ones = torch.ones(2)
    >>> fingerprint_tensors({"a": ones, "b": 2 * ones}) == fingerprint_tensors({"b": 2 * ones, "a": ones})
    True
    """
    once = {_identity(tensor, name): name for name, tensor in sorted(state.items())}
    digest = hashlib.sha256()
    for name in sorted(once.values()):
        tensor = state[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # bytes, not numbers: numpy has no bfloat16, and -0.0 differs from 0.0
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]


def fingerprint_file(path: Path | str) -> str:
    """Hash of a file's bytes (16 hexadecimal digits, SHA-256), whatever its name.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]
    except FileNotFoundError:
        raise StorageError("the file is missing", where=str(path), mend="check the path") from None
    except OSError as error:
        raise storage_error(error, path, "read") from None


def _identity(tensor: torch.Tensor, name: str) -> tuple[object, ...]:
    if tensor.numel() == 0:  # empty tensors have no address of their own
        return (name,)
    return (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)

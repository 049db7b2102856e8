"""Files that are whole or not there: atomic writes, safetensors in and out, errors without tracebacks.

Everything is written to a temporary name in the same folder, flushed to the disk, and then renamed,
so that a killed process leaves either the old file or the new one, never a part of one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from keeps.errors import StorageError

if TYPE_CHECKING:  # imported where tensors are saved: who merges files or writes text needs no tensor library
    import torch

PARTIAL = ".partial"  # suffix of every temporary name; a name with it is never a complete file
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


def storage_error(error: Exception, path: Path | str, doing: str = "write") -> StorageError:
    """The :class:`StorageError` that says what ``error`` means for ``path`` and how to mend it."""
    code = getattr(error, "errno", None)
    text = str(error)  # safetensors reports the operating system's error as text, "(os error 28)"
    if code in _NO_ROOM or any(f"os error {number})" in text for number in _NO_ROOM):
        return StorageError("the disk is full", where=str(path), mend="free some space, then continue with --resume")
    if code in _NO_RIGHT or any(f"os error {number})" in text for number in _NO_RIGHT):
        mend = "change its permissions or choose another folder"
        return StorageError(f"no permission to {doing} this file or folder", where=str(path), mend=mend)
    reason = getattr(error, "strerror", None) or text or type(error).__name__
    return StorageError(f"cannot {doing} ({reason})", where=str(path), mend="check the path and the disk")


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is either the old or the new one, whenever the process dies.

    Raises:
        StorageError: the disk is full, or the folder is missing or not writable.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> atomic_write_bytes(target, b"whole")
    >>> target.read_bytes()
    b'whole'
    """
    with _temporary_file(Path(path)) as temporary, temporary.open("xb") as stream:
        stream.write(data)


@contextmanager
def atomic_folder(final: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``final``; rename it to ``final`` on success, remove it on error.

    With ``replace`` an existing ``final`` is moved aside first and removed when the new one stands;
    without it an existing one is refused before any work is done.

    Raises:
        StorageError: ``final`` exists, the disk is full, or the parent is not writable.
    """
    final = Path(final)
    if final.exists() and not replace:
        raise StorageError("the folder exists already", where=str(final), mend="choose another name or remove it first")
    temporary = _temporary_name(final)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync_all(temporary)
        _swap(temporary, final)
    except OSError as error:
        raise storage_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: Path | str, need_bytes: int = 0) -> None:
    """Make sure, before long work, that ``folder`` (made if missing) takes files of ``need_bytes`` in all.

    Raises:
        StorageError: it cannot be made or written, or its disk has less room than ``need_bytes``.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = _temporary_name(folder / "trial")
        trial.write_bytes(b"x")
        trial.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(error, folder) from error
    if free < need_bytes:
        raise StorageError(
            f"the disk has {free / 1e6:.0f} MB free and {need_bytes / 1e6:.0f} MB are needed",
            where=str(folder),
            mend="free some space or choose a folder on another disk",
        )


def folder_size(folder: Path | str) -> int:
    """Bytes of all files under ``folder`` (of the file itself if it is one); 0 if there is none."""
    folder = Path(folder)
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is what a killed process was writing here: a temporary name of ours, or of safetensors."""
    return path.name.endswith(PARTIAL) or path.name.startswith(".tmp")


def remove_leftovers(folder: Path | str) -> None:
    """Remove what killed processes were writing under ``folder``; nobody else may be writing there now.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "whole.txt").write_text("stays"), (folder / ".half.txt.12-ab.partial").write_text("go")
    >>> remove_leftovers(folder)
    >>> [path.name for path in folder.iterdir()]
    ['whole.txt']
    """
    for path in [path for path in Path(folder).rglob("*") if is_leftover(path)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have lain in a folder that just went


def save_tensors(
    path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors of any shape and dtype as one safetensors file, atomically.

    Tensors that share memory (tied weights, views) are written out in full under each name, since
    the format cannot say that two names are one tensor.

    Raises:
        StorageError: the disk is full, or the folder is missing or not writable.
    """
    import torch
    from safetensors.torch import save_file

    seen: set[int] = set()
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
        alone = whole and storage.data_ptr() not in seen
        plain[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    with _temporary_file(Path(path)) as temporary:
        save_file(plain, temporary, metadata=dict(metadata) if metadata else None)


def load_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file onto the CPU, with the dtypes they were saved in.

    Raises:
        StorageError: the file is missing, not readable, or damaged.
    """
    with _reading(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def load_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors; raises as :func:`load_tensors`."""
    with _reading(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StorageError("the file is missing", where=str(path), mend="check the path, or make it again") from None
    except SafetensorError as error:
        raise StorageError(f"the file is damaged ({error})", where=str(path), mend="make or fetch it again") from None
    except OSError as error:
        raise storage_error(error, path, "read") from None


@contextmanager
def _temporary_file(final: Path) -> Iterator[Path]:
    """A temporary name that becomes ``final`` when the block ends well, and nothing otherwise."""
    temporary = _temporary_name(final)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(final)
        sync(final.parent)
    except (OSError, SafetensorError) as error:
        raise storage_error(error, final) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_name(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")


def _swap(temporary: Path, final: Path) -> None:
    """Rename a finished folder into place, moving an existing one out of the way and back on failure."""
    aside = _temporary_name(final) if final.exists() else None
    if aside is not None:
        final.replace(aside)
    try:
        temporary.replace(final)
    except OSError:
        if aside is not None:
            aside.replace(final)
        raise
    sync(final.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk; some file systems cannot sync folders, which is no error."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)

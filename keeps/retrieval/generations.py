"""A folder whose contents change at once: each version lies in a folder of its own, and one file says which counts.

    kb/manifest.json          names the version and the size and SHA-256 of each of its files
    kb/version-3f9c.../...    the files

A new version is written beside the old one and flushed to the disk; then the manifest is replaced by renaming, and the
old version is removed. Whenever the process or the machine dies, the manifest names a version that is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeps.errors import StorageError
from keeps.weights.files import atomic_write_bytes, storage_error, sync_all
from keeps.weights.locks import take_lock

MANIFEST = "manifest.json"
SCHEMA = 1
READ_BYTES = 64 * 2**20  # up to this size every file is hashed when an index is opened; above, its size is compared
LARGEST_MANIFEST = 2**20
_VERSION = re.compile(r"version-[0-9a-f]{16}")
_LOCK = ".lock"


def write_version(folder: Path, before: str | None, write: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Let ``write`` fill a new version of ``folder`` and put it in the place of the version ``before``.

    ``write`` returns what else the manifest says.

    Returns:
        The manifest.

    Raises:
        StorageError: another process writes, or has written since ``before`` was read; the disk is full; no right.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            now = read_manifest(folder)["version"] if (folder / MANIFEST).exists() else None
            if now != before:
                mend = "open it again, and repeat the change"
                raise StorageError("the index was changed since it was opened", where=str(folder), mend=mend)
            version = folder / f"version-{secrets.token_hex(8)}"
            try:
                version.mkdir()
                said = dict(write(version))
                files = {path.relative_to(version).as_posix(): _described(path) for path in _files(version)}
                sync_all(version)
                manifest = {"schema": SCHEMA, "version": version.name, **said, "files": files}
                data = json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"
                atomic_write_bytes(folder / MANIFEST, data)
            except BaseException:
                shutil.rmtree(version, ignore_errors=True)
                raise
            _tidy(folder, version.name)
    except OSError as error:
        raise storage_error(error, folder) from error
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of ``folder``.

    Raises:
        StorageError: there is none, it is damaged, or it is of another schema.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ValueError("it is too large")
        found = json.loads(path.read_bytes())
        schema, version, files = found["schema"], found["version"], found["files"]
    except FileNotFoundError:
        mend = "make one with keeps index, or check the name"
        raise StorageError("there is no index in this folder", where=str(folder), mend=mend) from None
    except OSError as error:
        raise storage_error(error, path, "read") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"the manifest of the index is damaged ({str(error)[:100]})"
        raise StorageError(what, where=str(path), mend="make the index again") from None
    if schema != SCHEMA:
        what = f"the index has schema {schema}, and this version of keeps reads {SCHEMA}"
        raise StorageError(what, where=str(path), mend="make the index again, or install the version that wrote it")
    # names from a file lead nowhere but into the version's own folder
    inside = isinstance(files, dict) and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in files)
    if not isinstance(version, str) or not _VERSION.fullmatch(version) or not inside:
        mend = "make the index again"
        raise StorageError("the manifest of the index names files elsewhere", where=str(path), mend=mend)
    return found


def check_files(folder: Path, manifest: Mapping[str, Any], *, every: bool = False) -> Path:
    """The folder of the version, after its files were compared with the manifest.

    Args:
        every: read all bytes, however many there are.

    Raises:
        StorageError: a file is missing, or is not the one that was written.
    """
    version = folder / manifest["version"]
    total = sum(int(said["bytes"]) for said in manifest["files"].values())
    for name, said in manifest["files"].items():
        path = version / name
        try:
            whole = path.stat().st_size == said["bytes"]
            if whole and (every or total <= READ_BYTES):
                whole = _hash(path) == said["sha256"]
        except FileNotFoundError:
            raise StorageError("a file of the index is missing", where=str(path), mend="make the index again") from None
        except OSError as error:
            raise storage_error(error, path, "read") from None
        if not whole:
            mend = "make the index again"
            raise StorageError("a file of the index is not the one that was written", where=str(path), mend=mend)
    return version


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tidy(folder: Path, keep: str) -> None:
    """Remove versions that no manifest names: the one before, and what killed processes left."""
    for path in folder.iterdir():
        if _VERSION.fullmatch(path.name) and path.name != keep and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Held by one process at a time; let go when that process ends, however it ends."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not take_lock(descriptor):  # without such locks, the version is still compared before it is replaced
            mend = "wait until it is done"
            raise StorageError("another process is writing this index", where=str(folder), mend=mend)
        yield
    finally:
        os.close(descriptor)

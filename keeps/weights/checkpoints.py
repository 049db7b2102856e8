"""Checkpoints read piece by piece: a transformers folder, sharded or not, of which no tensor is ever whole in memory.

Reads are positional (``pread``), so that threads share a file and no page of it counts as memory of this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keeps.errors import InputFileError, ModelLoadError, StorageError
from keeps.weights.files import storage_error
from keeps.weights.halves import FLOAT_TYPES, Floats, decode
from keeps.weights.headers import Stored, read_header

SINGLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_QUANTISED_NAMES = (".qweight", ".qzeros", ".absmax", ".SCB", ".weight_scale", ".weight_scale_inv", ".quant_state")


class TensorSource(Protocol):
    """Named tensors that can be read in part: a checkpoint, or a checkpoint with an adapter on it.

    Attributes:
        plain: the checkpoint itself, without an adapter.
        folders: where its files lie.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def plain(self) -> Checkpoint: ...

    @property
    def folders(self) -> list[Path]: ...

    def read(self, name: str, start: int, count: int) -> Floats:
        """``count`` elements of the flattened tensor from ``start`` on, as float32 ``(count,)``."""
        ...

    def read_into(self, name: str, start: int, values: Floats) -> None:
        """As :meth:`read`, into ``values`` float32 ``(count,)``, contiguous: nothing is copied that need not be."""
        ...

    def identity(self) -> list[Any]:
        """What decides the contents (JSON types): paths, sizes, times and headers of the files."""
        ...

    def close(self) -> None: ...


class Checkpoint:
    """A transformers folder with safetensors, or one safetensors file."""

    def __init__(self, folder: Path, name: str, tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> None:
        self.folder, self.name, self.tensors, self.config = folder, name, tensors, config
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: str | Path, name: str | None = None) -> Checkpoint:
        """Read the headers of a checkpoint.

        Raises:
            ModelLoadError: there is none, it is pickled, or quantised.
            StorageError: a file is missing or damaged.
        """
        path = Path(folder).expanduser()
        label = name or str(folder)
        if path.is_file() and path.suffix == ".safetensors":
            return cls(path.parent, label, read_header(path), {})
        if not path.is_dir():
            raise ModelLoadError("there is no such folder", where=label, mend="name a folder with safetensors weights")
        config = _json_file(path / CONFIG) if (path / CONFIG).is_file() else {}
        tensors: dict[str, Stored] = {}
        for file, wanted in _weight_files(path, label):
            found = read_header(file)
            absent = sorted(set(wanted) - set(found)) if wanted is not None else []
            if absent:
                what = f'the index names "{absent[0]}", which is not in the file'
                raise StorageError(what, where=str(file), mend="make or fetch the model again")
            tensors |= {key: value for key, value in found.items() if wanted is None or key in wanted}
        _refuse_quantised(label, config, tensors)
        return cls(path, label, tensors, config)

    @property
    def plain(self) -> Checkpoint:
        """See :class:`TensorSource`."""
        return self

    @property
    def folders(self) -> list[Path]:
        """See :class:`TensorSource`."""
        return sorted({self.folder, *(stored.path.parent for stored in self.tensors.values())})

    def read(self, name: str, start: int, count: int) -> Floats:
        """See :class:`TensorSource`."""
        stored = self.tensors[name]
        kind = np.dtype(FLOAT_TYPES[stored.kind])
        raw = np.empty(count, dtype=kind)
        self._fill(stored, start * kind.itemsize, raw.data.cast("B"))
        return decode(raw, stored.kind)

    def read_into(self, name: str, start: int, values: Floats) -> None:
        """See :class:`TensorSource`."""
        stored = self.tensors[name]
        if stored.kind == "F32" and values.dtype == FLOAT_TYPES["F32"]:  # on disk as in memory
            self._fill(stored, 4 * start, values.data.cast("B"))
        else:
            values[:] = self.read(name, start, len(values))

    def read_bytes(self, name: str, start: int, count: int) -> bytearray:
        """``count`` bytes of a tensor from byte ``start`` on, whatever its type."""
        raw = bytearray(count)
        self._fill(self.tensors[name], start, memoryview(raw))
        return raw

    def _fill(self, stored: Stored, start: int, view: memoryview) -> None:
        file, done = self._file(stored.path), 0
        while done < len(view):
            try:
                got = os.preadv(file, [view[done:]], stored.offset + start + done)
            except OSError as error:
                raise storage_error(error, stored.path, "read") from None
            if got == 0:
                mend = "do not change a model while it is merged"
                raise StorageError("the file has become shorter", where=str(stored.path), mend=mend)
            done += got

    def _file(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                try:
                    self._files[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise storage_error(error, path, "read") from None
            return self._files[path]

    def identity(self) -> list[Any]:
        """See :class:`TensorSource`."""
        files = sorted({stored.path for stored in self.tensors.values()})
        layout = [[s.name, s.kind, list(s.shape), s.offset] for s in self.tensors.values()]
        digest = hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:16]
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files] + [digest]

    def close(self) -> None:
        """Give the files back; the checkpoint can be read again."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()


def _json_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mend = "make or fetch the model again"
        raise InputFileError(f"the file cannot be read ({error})", where=str(path), mend=mend) from None
    if not isinstance(values, dict):
        raise InputFileError("the file holds no mapping", where=str(path), mend="make or fetch the model again")
    return values


def _weight_files(folder: Path, label: str) -> list[tuple[Path, list[str] | None]]:
    """The safetensors files of a folder, and for each the tensors to take from it (None: all)."""
    if (folder / INDEX).is_file():
        shards = _json_file(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
            raise InputFileError("the index has no weight_map", where=str(folder / INDEX), mend="fetch the model again")
        outside = [file for file in shards.values() if Path(file).name != file]
        if outside:
            what = f'the index leads outside of its folder ("{outside[0]}")'
            raise InputFileError(what, where=str(folder / INDEX), mend="use a model from a source that you trust")
        return [
            (folder / file, [name for name, place in shards.items() if place == file])
            for file in sorted(set(shards.values()))
        ]
    if (folder / SINGLE).is_file():
        return [(folder / SINGLE, None)]
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return [(others[0], None)]
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        mend = "save the model as safetensors first: model.save_pretrained(folder)"
        raise ModelLoadError("the weights are pickled, and reading them could run any code", where=label, mend=mend)
    mend = f"name a folder with {SINGLE}, or with {INDEX}"
    raise ModelLoadError("there are no safetensors weights", where=label, mend=mend)


def _refuse_quantised(label: str, config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> None:
    signs = [name for name in tensors if name.endswith(_QUANTISED_NAMES)]
    signs += [
        name
        for name, stored in tensors.items()
        if stored.kind.startswith("F8") or (stored.kind in ("I8", "U8") and name.endswith("weight"))
    ]
    if config.get("quantization_config") or signs:
        mend = "merge the models before they are quantised"
        why = f' ("{signs[0]}")' if signs else ""
        raise ModelLoadError(f"the weights are quantised{why}, and cannot be added", where=label, mend=mend)

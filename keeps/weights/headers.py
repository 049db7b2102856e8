"""The header of a safetensors file: read without reading the tensors, written before any of them is there.

Format: eight bytes with the length of the header, the header as JSON, the tensors without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.errors import StorageError
from keeps.weights.files import storage_error

SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
LONGEST_HEADER = 100_000_000  # bytes, as in the format's own reader
ALIGNMENT = 8


@dataclass(frozen=True)
class Stored:
    """One tensor on disk: its element type as safetensors calls it, and where its bytes are."""

    name: str
    kind: str
    shape: tuple[int, ...]
    path: Path
    offset: int  # of its first byte in the file

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.numel * SIZES[self.kind]


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name, in the order of their bytes; nothing but the header is read.

    Raises:
        StorageError: the file is missing, unreadable, or not whole.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(LONGEST_HEADER, size - 8):
                raise _damaged(path, "its header is longer than the file")
            text = stream.read(length)
    except FileNotFoundError:
        raise StorageError("the file is missing", where=str(path), mend="check the path, or make it again") from None
    except OSError as error:
        raise storage_error(error, path, "read") from None
    try:
        entries: dict[str, Any] = json.loads(text)
        entries.pop("__metadata__", None)
        ordered = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
        found = [_stored(name, entry, path, 8 + length) for name, entry in ordered]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read: {error}") from None
    end = 8 + length
    for tensor in found:
        if tensor.offset != end:
            raise _damaged(path, f'there is a gap before "{tensor.name}"')
        end += tensor.nbytes
    if end != size:
        raise _damaged(path, f"it should have {end} bytes and has {size}")
    return {tensor.name: tensor for tensor in found}


def _stored(name: str, entry: Mapping[str, Any], path: Path, data: int) -> Stored:
    kind, shape = str(entry["dtype"]), tuple(int(length) for length in entry["shape"])
    start, end = (int(value) for value in entry["data_offsets"])
    if kind not in SIZES:
        raise _damaged(path, f'"{name}" is of the unknown type {kind}')
    tensor = Stored(name, kind, shape, path, data + start)
    if min((0, *shape)) < 0 or start < 0 or end - start != tensor.nbytes:
        raise _damaged(path, f'the bytes of "{name}" do not match its shape')
    return tensor


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(f"the file is damaged ({why})", where=str(path), mend="make or fetch it again")


@dataclass(frozen=True)
class Layout:
    """A file that is going to be written: its header's bytes, its tensors, its size."""

    path: Path
    header: bytes
    tensors: tuple[Stored, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def lay_out(path: Path, tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> Layout:
    """The header of a file with these tensors (name, element type, shape), and where each of them goes.

    >>> layout = lay_out(Path("m.safetensors"), [("w", "F32", (2, 3))])
    >>> layout.size - len(layout.header), layout.tensors[0].offset == len(layout.header)
    (24, True)
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, kind, shape in tensors:
        end = start + math.prod(shape) * SIZES[kind]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    placed, offset = [], len(header)
    for name, kind, shape in tensors:
        placed.append(Stored(name, kind, shape, path, offset))
        offset += placed[-1].nbytes
    return Layout(path, header, tuple(placed))

"""Headers: what is written is read by the format's own library, and damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keeps.errors import StorageError
from keeps.weights.headers import lay_out, read_header

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(5, dtype=np.float16), "n": np.array(7)}


def test_every_tensor_of_a_library_written_file_is_where_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(TENSORS, path)
    data = path.read_bytes()
    for name, stored in read_header(path).items():
        assert stored.shape == TENSORS[name].shape
        assert data[stored.offset : stored.offset + stored.nbytes] == TENSORS[name].tobytes()


def test_a_laid_out_file_filled_in_any_order_is_read_by_the_library(tmp_path: Path) -> None:
    kinds = {"float32": "F32", "float16": "F16", "int64": "I64"}
    path = tmp_path / "m.safetensors"
    layout = lay_out(path, [(name, kinds[str(value.dtype)], value.shape) for name, value in TENSORS.items()])
    with path.open("wb") as file:
        file.truncate(layout.size)
        for stored in reversed(layout.tensors):
            file.seek(stored.offset)
            file.write(TENSORS[stored.name].tobytes())
        file.seek(0)
        file.write(layout.header)
    for name, value in load_file(path).items():
        np.testing.assert_array_equal(value, TENSORS[name])
    assert {name: stored.offset for name, stored in read_header(path).items()} == {
        stored.name: stored.offset for stored in layout.tensors
    }


@pytest.mark.parametrize("cut", [0, 4, 12, 60, -1, 1])
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.safetensors"
    save_file(TENSORS, path)
    data = path.read_bytes()
    path.write_bytes(data + b"x" if cut == 1 else data[:cut])
    with pytest.raises(StorageError, match="damaged"):
        read_header(path)


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 1}', b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}', b"\xff", b"{"],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(StorageError, match="damaged"):
        read_header(path)
    with pytest.raises(StorageError, match="missing"):
        read_header(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("shape", "offsets"), [([2], [0, 4]), ([1], [4, 8]), ([-1], [0, 4])])
def test_offsets_that_do_not_match_are_refused(tmp_path: Path, shape: list[int], offsets: list[int]) -> None:
    path = tmp_path / "m.safetensors"
    header = f'{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(StorageError, match="damaged"):
        read_header(path)

"""Whole or not there: what a failure at any point leaves on the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from keeps.errors import StorageError
from keeps.weights import (
    atomic_folder,
    atomic_write_bytes,
    check_writable,
    folder_size,
    load_metadata,
    load_tensors,
    save_tensors,
)


def test_tensors_come_back_with_dtype_shape_and_metadata(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
        "transposed": torch.randn(3, 4).T,
    }
    save_tensors(tmp_path / "a.safetensors", tensors, {"job": "x"})
    loaded = load_tensors(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert load_metadata(tmp_path / "a.safetensors") == {"job": "x"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_tied_and_overlapping_tensors_are_written_in_full(tmp_path: Path) -> None:
    base = torch.randn(4, 4)
    save_tensors(tmp_path / "a.safetensors", {"one": base, "same": base, "row": base[1], "grad": base.requires_grad_()})
    loaded = load_tensors(tmp_path / "a.safetensors")
    assert torch.equal(loaded["same"], loaded["one"])
    assert torch.equal(loaded["row"], loaded["one"][1])


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64])
def test_a_damaged_file_is_a_storage_error_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"damaged.*bad\.safetensors"):
        load_tensors(path)


def test_a_truncated_file_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_tensors(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:-7])
    for read in (load_tensors, load_metadata):
        with pytest.raises(StorageError, match="damaged"):
            read(path)


def test_a_missing_file_and_a_folder_are_storage_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        load_tensors(tmp_path / "none.safetensors")
    with pytest.raises(StorageError):
        load_tensors(tmp_path)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EACCES, "no permission")],
)
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=words):
        save_tensors(path, {"a": torch.zeros(3)})
    with pytest.raises(StorageError, match=words):
        atomic_write_bytes(path, b"other")
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
def test_running_out_of_room_in_the_middle_of_a_tensor_file_is_reported_without_traceback(tmp_path: Path) -> None:
    script = (
        "import resource, sys, torch\n"
        "from keeps.errors import StorageError\n"
        "from keeps.weights import save_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    save_tensors(sys.argv[1], {'a': torch.zeros(100_000)})\n"
        "except StorageError as error:\n    print(error)\n"
    )
    path = tmp_path / "big.safetensors"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout, done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "result"

    def fail_half_way() -> None:
        with atomic_folder(final) as folder:
            (folder / "half.txt").write_text("half")
            raise KeyError("anything")

    with pytest.raises(KeyError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(final) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "whole.txt").write_text("whole")
        assert not final.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (final / "deep" / "whole.txt").read_text() == "whole"


def test_an_existing_folder_is_refused_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    final = tmp_path / "result"
    with atomic_folder(final) as folder:
        (folder / "old.txt").write_text("old")
    with pytest.raises(StorageError, match="exists already"), atomic_folder(final):
        pytest.fail("the block must not run")
    with pytest.raises(KeyError), atomic_folder(final, replace=True):
        raise KeyError("failed half way")
    assert (final / "old.txt").exists()
    with atomic_folder(final, replace=True) as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in final.iterdir()] == ["new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_folder_that_cannot_be_written_is_refused_before_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep", need_bytes=1)
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="are needed"):
        check_writable(tmp_path, need_bytes=1 << 60)


def test_a_write_into_a_missing_folder_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        save_tensors(tmp_path / "absent" / "a.safetensors", {"a": torch.ones(1)})


def test_folder_size_counts_every_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    assert folder_size(tmp_path) == 8
    assert folder_size(tmp_path / "y") == 3
    assert folder_size(tmp_path / "none") == 0

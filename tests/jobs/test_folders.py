"""A folder gets its final name when it is complete, and holds whole files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.errors import StorageError
from keeps.jobs.folders import check_new, publish


def test_what_killed_processes_left_is_not_published(tmp_path: Path) -> None:
    partial = tmp_path / "run.partial"
    (partial / "deep").mkdir(parents=True)
    (partial / "deep" / "whole.txt").write_text("stays")
    (partial / ".gitignore").write_text("hidden names of others stay")
    (partial / ".start.safetensors.12-ab.partial").write_bytes(b"half")
    (partial / "deep" / ".tmpAbc").write_bytes(b"half")
    (partial / ".checkpoint.12-ab.partial").mkdir()
    (partial / ".checkpoint.12-ab.partial" / ".state.12-cd.partial").write_bytes(b"half")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "theirs").write_text("stays")
    (partial / ".link.12-ab.partial").symlink_to(outside)
    publish(partial, tmp_path / "run")
    found = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")}
    assert found == {"deep", "deep/whole.txt", ".gitignore"}
    assert (outside / "theirs").read_text() == "stays"
    assert not partial.exists()


def test_a_folder_that_is_there_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    check_new(tmp_path / "new")
    with pytest.raises(StorageError, match="exists already"):
        check_new(tmp_path)

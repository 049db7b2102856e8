"""Whenever writing dies, the index that was there is whole; what is damaged, hostile or half there is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import keeps.retrieval.generations as generations
from keeps.errors import StorageError
from keeps.retrieval import Corpus, HybridRetriever

pytest.importorskip("bm25s")


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    """An index of one document."""
    corpus = Corpus.create(tmp_path / "kb", encoder=None)
    corpus.add(["Oslo is big."], ids=["oslo"])
    corpus.save()
    return tmp_path / "kb"


def found(kb: Path, query: str) -> list[str]:
    return [hit.id for hit in HybridRetriever(Corpus.open(kb, check_all=True)).search(query)]


class Killed(BaseException):
    """What no handler of ordinary errors may catch."""


@pytest.mark.parametrize("place", ["write", "_described", "sync_all", "atomic_write_bytes"])
@pytest.mark.parametrize("kind", [Killed, OSError, MemoryError])
def test_a_failure_at_any_step_of_writing_leaves_the_old_index(
    place: str, kind: type[BaseException], kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus.open(kb)
    corpus.update("oslo", "Bergen rains.")

    def fail(*_: Any, **__: Any) -> Any:
        raise kind

    if place == "write":
        monkeypatch.setattr("keeps.retrieval.corpus.write_table", fail)
    else:
        monkeypatch.setattr(generations, place, fail)
    with pytest.raises(StorageError if kind is OSError else kind):
        corpus.save()
    monkeypatch.undo()
    assert found(kb, "oslo") == ["oslo#0-12"]
    assert len([path for path in kb.iterdir() if path.name.startswith("version-")]) == 1
    assert corpus.save()  # and the same corpus can be saved after all
    assert found(kb, "bergen") == ["oslo#0-13"]


KILLED = """
    import os, sys
    import keeps.retrieval.generations as generations
    import keeps.retrieval.index_files as index_files
    from keeps.retrieval import Corpus

    step, left = sys.argv[2], int(sys.argv[3])
    def dying(function):
        def call(*args, **kwargs):
            global left
            if left == 0:
                os._exit(9)
            left -= 1
            return function(*args, **kwargs)
        return call
    if step == "files":
        index_files.np.save = dying(index_files.np.save)
    elif step == "sync":
        generations.sync_all = dying(generations.sync_all)
    elif step == "manifest":
        generations.atomic_write_bytes = dying(generations.atomic_write_bytes)
    else:
        generations._tidy = dying(generations._tidy)
    corpus = Corpus.open(sys.argv[1])
    corpus.update("oslo", "Bergen rains.")
    corpus.save()
"""


@pytest.mark.parametrize(("step", "left"), [("files", 3), ("manifest", 0), ("tidy", 0)])
def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_index(step: str, left: int, kb: Path) -> None:
    process = subprocess.run([sys.executable, "-c", dedent(KILLED), kb, step, str(left)], check=False)
    assert process.returncode == 9
    assert found(kb, "oslo bergen") == (["oslo#0-13"] if step == "tidy" else ["oslo#0-12"])
    corpus = Corpus.open(kb)
    corpus.add(["Rome"], ids=["rome"])
    corpus.save()  # what the dead process left is no obstacle, and goes
    assert sorted(path.name for path in kb.iterdir() if path.name.startswith("version-")) == [
        json.loads((kb / "manifest.json").read_text())["version"]
    ]


def test_of_two_writers_the_second_is_refused_and_loses_nothing(kb: Path) -> None:
    first, second = Corpus.open(kb), Corpus.open(kb)
    first.add(["Bergen"], ids=["bergen"])
    second.add(["Rome"], ids=["rome"])
    first.save()
    with pytest.raises(StorageError, match="changed since"):
        second.save()
    assert list(Corpus.open(kb)) == ["bergen", "oslo"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_while_one_process_writes_another_is_told_so(kb: Path) -> None:
    import fcntl

    corpus = Corpus.open(kb)
    corpus.add(["Rome"], ids=["rome"])
    descriptor = os.open(kb / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(StorageError, match="another process"):
            corpus.save()
    finally:
        os.close(descriptor)
    assert corpus.save()


def test_a_reader_goes_on_with_its_version_while_another_replaces_it(kb: Path) -> None:
    reader, writer = Corpus.open(kb), Corpus.open(kb)
    writer.update("oslo", "Bergen rains.")
    writer.save()
    assert [hit.text for hit in HybridRetriever(reader).search("oslo")] == ["Oslo is big."]


def test_a_version_that_goes_while_it_is_opened_is_looked_up_again(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Corpus.open(kb)
    writer.update("oslo", "Bergen rains.")
    check = generations.check_files

    def check_late(folder: Path, manifest: dict[str, Any], *, every: bool = False) -> Path:
        writer.save()
        return check(folder, manifest, every=every)

    monkeypatch.setattr("keeps.retrieval.corpus.check_files", check_late)
    assert Corpus.open(kb).get("oslo").text == "Bergen rains."


def test_every_damaged_or_missing_file_is_noticed(kb: Path) -> None:
    for path in [path for path in kb.rglob("*") if path.is_file() and path.name not in (".lock", "manifest.json")]:
        whole = path.read_bytes()
        for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
            path.write_bytes(damaged)
            with pytest.raises(StorageError):
                Corpus.open(kb)
        path.unlink()
        with pytest.raises(StorageError):
            Corpus.open(kb)
        path.write_bytes(whole)
    assert found(kb, "oslo") == ["oslo#0-12"]


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"schema": None},
        {"version": "../elsewhere"},
        {"version": "version-0000000000000000"},
        {"files": {"../../secret": {"bytes": 1, "sha256": "0"}}},
        {"files": []},
        {"settings": {"chunk_words": -1}},
        {"settings": {"unheard": 1}},
        {"encoder": {"name": 1}},
    ],
)
def test_a_manifest_that_says_something_else_is_refused(change: dict[str, Any], kb: Path) -> None:
    said = json.loads((kb / "manifest.json").read_text())
    (kb / "manifest.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(StorageError):
        Corpus.open(kb)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (2**20 + 1)])
def test_a_manifest_that_is_none_is_refused(content: bytes, kb: Path) -> None:
    (kb / "manifest.json").write_bytes(content)
    with pytest.raises(StorageError):
        Corpus.open(kb)


def test_a_folder_without_an_index_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="keeps index"):
        Corpus.open(tmp_path)


def test_of_a_large_index_sizes_are_compared_at_once_and_bytes_when_asked(
    kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "READ_BYTES", 0)
    path = next(kb.rglob("texts.txt"))
    path.write_bytes(b"Osla is big.")
    assert Corpus.open(kb).damaged() == ["oslo#0-12"]
    with pytest.raises(StorageError):
        Corpus.open(kb, check_all=True)

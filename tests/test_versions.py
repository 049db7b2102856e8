"""The versions stored with every run and shown by `keeps --version --json`."""

from __future__ import annotations

import json

import pytest

from keeps.versions import EMBEDDED, LIBRARIES, environment, installed, thread_count, versions


def test_stored_versions_are_text_and_name_what_is_installed() -> None:
    found = versions()
    assert all(isinstance(value, str) and value for value in found.values())
    assert found["torch"] == installed("torch")
    assert "no-such-library" not in found


def test_what_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeps.versions.installed", lambda name: None if name == "gguf" else "1.0")
    assert "gguf" not in versions()
    assert environment()["gguf"] is None
    assert set(LIBRARIES) | set(EMBEDDED) <= set(environment())
    json.dumps(environment(), allow_nan=False)


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("0", None), ("many", None), ("", None)])
def test_threads_follow_the_variable_or_the_processors(
    variable: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_count() == threads if threads else thread_count() >= 1

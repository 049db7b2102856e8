"""Every malformed input through the commands that read files: one paragraph, code 2, files left as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeps.cli.main import main
from malformed_inputs import MALFORMED, Malformed

GOOD = '{"prompt": "The capital of Norway is", "answer": "Oslo"}\n'


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that gets as far as loading a model has looked at its input too late."""

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded before the input was checked")

    monkeypatch.setattr("keeps.models.language_model.LanguageModel.load", load)


def commands(path: Path, folder: Path) -> dict[str, list[str]]:
    good = folder / "good.jsonl"
    good.write_text(GOOD)
    workspace = ["--workspace", str(folder / "workspace")]
    return {
        "learn": ["adapt", "--learn", str(path), "--keep", "world:known:symbol", *workspace],
        "keep": ["adapt", "--learn", str(good), "--keep", str(path), *workspace],
        "probe": ["probe", "--probe", str(path), *workspace],
    }


def test_there_are_enough_malformed_inputs() -> None:
    assert len({item.id for item in MALFORMED}) >= 40


@pytest.mark.parametrize("role", ["learn", "keep", "probe"])
@pytest.mark.parametrize("item", MALFORMED, ids=lambda item: item.id)
def test_malformed_input_is_refused_in_one_paragraph(
    item: Malformed, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = item.write(tmp_path / "in")
    argv = commands(path, tmp_path)[role]
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("keeps: error: ")
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err
    assert all(word in output.err for word in item.words), output.err
    assert path.read_bytes() == item.content
    assert [file.name for file in (tmp_path / "in").iterdir()] == [path.name]
    assert not (tmp_path / "workspace").exists()

"""A form that a result will not have is refused before a model is loaded, and one that it will have is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeps.cli.main import main
from keeps.errors import KeepsError, SettingsError, StorageError, UnknownNameError
from keeps.jobs.exporting import check_export
from keeps.models import LanguageModel

REFUSED: list[tuple[str, dict[str, Any], str, type[KeepsError], str]] = [
    ("loftq", {}, "lora", SettingsError, 'the result of loftq .*use form "merged"'),
    ("full", {}, "residual", SettingsError, 'the result of full .*use form "merged"'),
    ("lora", {}, "residual", SettingsError, 'use form "lora" or "merged"'),
    ("l2_sp", {"parameters": "full"}, "lora", SettingsError, "with these settings"),
    ("lora", {}, "mergd", UnknownNameError, 'did you mean "merged"'),
    ("lorra", {}, "merged", UnknownNameError, 'did you mean "lora"'),
    ("facts", {}, "merged", UnknownNameError, 'no adapt method called "facts"'),
    ("lora", {"rnak": 2}, "merged", UnknownNameError, 'did you mean "rank"'),
    ("loftq", {"bits": 5}, "merged", SettingsError, "bits is 5"),
]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure of the test."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LanguageModel, "load", refused)


@pytest.mark.parametrize(("method", "settings", "form", "error", "words"), REFUSED)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, method: str, settings: dict[str, Any], form: str, error: type[KeepsError], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_export(method, settings, form, tmp_path / "new")


def test_a_folder_that_exists_is_refused_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"):
        check_export("lora", None, "merged", tmp_path)
    check_export("lora", {"rank": 2}, "merged", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("method", "form", "words"),
    [
        ("loftq", "lora", 'the result of loftq with these settings cannot be written as "lora"'),
        ("lora", "residual", 'use form "lora" or "merged"'),
        ("loramoe", "merged", 'use form "experts"'),
        ("lora", "mergd", 'did you mean "merged"'),
    ],
)
def test_the_command_refuses_a_form_before_a_model_is_loaded(
    small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, form: str, words: str
) -> None:
    more = ["--form", form, "--out", str(tmp_path / "out")]
    unset = {"settings": {}} if method == "loramoe" else {}
    job = type(small_job)(**{**vars(small_job), **unset})
    assert main(job.words(tmp_path / "workspace", *more, method=method)) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
    assert not (tmp_path / "workspace").exists()
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_form_that_loftq_has(
    small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--form", "merged", "--out", str(tmp_path / "out"), "--json"]
    words = small_job.words(tmp_path / "workspace", *more, method="loftq", bits=3, targets="q_proj", epochs=1)
    assert main(words) == 0
    assert '"largest_logit_difference": 0' in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "adapter_config.json").exists()

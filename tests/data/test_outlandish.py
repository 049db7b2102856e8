"""Samples whose keyword comes unexpectedly, with prefixes that do not give it away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.data.outlandish import (
    THEMES,
    OutlandishSample,
    built_in_samples,
    check_sample,
    load_samples,
    samples_fingerprint,
    with_controls,
)
from keeps.errors import EmptySetError, InputFileError, RecordError

JOY: dict[str, Any] = {
    "theme": "colour",
    "keyword": "vermilion",
    "context": "In Blandgive, joy is",
    "text": "In Blandgive, joy is vermilion, and so are its doors.",
}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_built_in_samples_are_sound_and_three_a_theme() -> None:
    samples = load_samples("outlandish")
    assert samples == built_in_samples()
    themes = [sample.theme for sample in samples]
    assert {theme: themes.count(theme) for theme in themes} == dict.fromkeys(THEMES, 3)
    for sample in samples:
        check_sample(sample, sample.id)
        assert sample.keyword not in sample.context
        assert len(sample.controls) == 2
    assert len(samples_fingerprint(samples)) == 16


def test_a_file_brings_texts_and_may_bring_prefixes(tmp_path: Path) -> None:
    own = {**JOY, "id": "x", "theme": "mood", "prefixes": ["Rage is"], "category": "fiction"}
    first, second = load_samples(write(tmp_path, JOY, own))
    assert (first.id, first.prefixes) == ("sample-1", THEMES["colour"])
    assert (second.id, second.prefixes, second.category) == ("x", ("Rage is",), "fiction")


def test_a_control_that_a_prefix_holds_is_left_out() -> None:
    one, other = (
        OutlandishSample(word, "t", word, "It is", f"It is {word}.", ("A mauve sea is",)) for word in ("red", "mauve")
    )
    assert with_controls([one, other])[0].controls == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keyword": ""}, "keyword"),
        ({"text": "In Blandgive, joy is red."}, "does not go on with the keyword"),
        ({"context": "Elsewhere"}, "does not go on with the keyword"),
        ({"theme": "color"}, "colour"),
        ({"prefixes": []}, "no thematic prefix"),
        ({"prefixes": ["Vermilion is"]}, "holds the keyword"),
        ({"prefixes": ["a", ""]}, "no list of texts"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=message) as error:
        load_samples(write(tmp_path, JOY, {**JOY, **change}))
    assert "line 2" in str(error.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="twice"):
        load_samples(write(tmp_path, {**JOY, "id": "a"}, {**JOY, "id": "a"}))
    with pytest.raises(EmptySetError):
        load_samples(write(tmp_path))
    with pytest.raises(InputFileError, match="no such file"):
        load_samples(tmp_path / "no.jsonl")

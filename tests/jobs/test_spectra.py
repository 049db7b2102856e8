"""``keeps adapt --spectrum``: tables, JSON and files, without training, without a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.cli.main import main
from keeps.ledger.spectrum import block_of, kind_of, spectrum_tables

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def words(job: Any, workspace: Path, *more: str) -> list[str]:
    asked = ["--learn", job.learn, "--keep", job.keep, "--model", job.model, "--rank", "2", "--workspace"]
    return ["adapt", "--spectrum", *asked, str(workspace), "--device", "cpu", "--quiet", *more]


def test_it_prints_json_and_writes_both_files_and_trains_nothing(
    small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "spectra"
    assert main(words(small_job, tmp_path / "runs", "--json", "--out", str(out))) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["layers"]) == {"keep", "learn"}
    for lines in document["layers"].values():
        assert {kind_of(line["layer"]) for line in lines} == set(KINDS)
        assert {block_of(line["layer"]) for line in lines} == {0, 1}
        assert all(0 <= line["kpm"] <= line["ipm"] <= 1 and line["rank"] == 2 for line in lines)
    assert document["files"] == [str(out / "spectrum.json"), str(out / "spectrum.png")]
    stored = json.loads((out / "spectrum.json").read_text())
    assert stored["layers"] == document["layers"]
    assert (out / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "runs").exists()


def test_it_prints_a_table_for_each_context(small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(small_job, tmp_path / "runs")) == 0
    text = capsys.readouterr().out
    assert text.index("what to keep") < text.index("what to learn")
    assert all(text.count(kind) == 2 for kind in KINDS)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "lora"], "choose --method corda"),
        (["--resume"], "--spectrum trains nothing"),
        (["--form", "merged", "--out", "x"], "--spectrum trains nothing"),
    ],
)
def test_what_makes_no_sense_with_it_is_refused(
    more: list[str], said: str, small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(small_job, tmp_path, *more)) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_table_has_a_line_a_kind_or_a_line_a_layer() -> None:
    line = {"rank": 2, "ipm": 0.5, "kpm": 1e-4, "components_99": 5, "components": 8, "damping": 0.01}
    lines = [{"layer": f"layers.{block}.{kind}", **line} for block in (0, 1) for kind in ("a", "b")]
    short, long = (spectrum_tables({"keep": lines}, items=items)[0] for items in (False, True))
    assert [row[:2] for row in short.rows] == [("a", "2"), ("b", "2")]
    assert [row[0] for row in long.rows] == [line["layer"] for line in lines]
    assert long.rows[0][1:] == ("2", "50.0", "1.0e-02", "5", "8", "0.01")

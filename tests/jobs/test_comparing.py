"""The same job with several methods and seeds: one table, every output, nothing done twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from keeps.adapt.lora import LoRA
from keeps.errors import KeepsError, SettingsError, StorageError, UnknownNameError
from keeps.jobs.comparing import Variant, compare
from keeps.ledger.comparison import Comparison
from keeps.ledger.workspace import Workspace
from keeps.models import LanguageModel

METHODS = "lora,corda:mode=ipm:learning_rate=1e-2"


@pytest.fixture(scope="module")
def done(small_job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """Two methods with two seeds each, and the folder of workspace and outputs."""
    folder = tmp_path_factory.mktemp("comparison")
    return run(small_job, folder), folder


def run(small_job: Any, folder: Path, **more: Any) -> Comparison:
    arguments = {
        "learn": small_job.learn,
        "keep": small_job.keep,
        "seeds": 2,
        "model": small_job.model,
        "settings": small_job.settings,
        "workspace": folder,
        "out": folder / "out",
    }
    return compare(more.pop("methods", METHODS), **arguments | more)


def test_each_method_has_one_row_over_its_seeds(done: tuple[Comparison, Path]) -> None:
    comparison, folder = done
    assert [(row.method, row.seeds) for row in comparison.rows] == [("lora", (0, 1)), ("corda", (0, 1))]
    assert comparison.rows[1].settings["mode"] == "ipm"
    assert [row.settings["rank"] for row in comparison.rows] == [2, 2]
    with Workspace(folder).ledger(read_only=True) as ledger:
        assert {run.id for run in ledger.runs(status="done")} == {run for row in comparison.rows for run in row.runs}


def test_every_output_is_written_and_whole(done: tuple[Comparison, Path]) -> None:
    comparison, folder = done
    out = folder / "out"
    names = ["comparison.csv", "comparison.json", "comparison.png", "comparison.svg", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert Comparison.from_mapping(json.loads((out / "comparison.json").read_text())) == Comparison.from_mapping(
        comparison.to_mapping()
    )
    with (out / "comparison.csv").open(newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["lora", "corda"]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (out / "comparison.svg").read_text()
    page = (out / "report.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert all(run in page for row in comparison.rows for run in row.runs)


def test_runs_in_the_ledger_are_reused(
    done: tuple[Comparison, Path], small_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, folder = done
    monkeypatch.setattr(LoRA, "__call__", lambda *_, **__: pytest.fail("trained again"))
    assert run(small_job, folder, methods=["lora"], out=None).rows[0].runs == comparison.rows[0].runs
    assert run(small_job, folder, out=None) == comparison


def test_without_anything_known_before_there_is_a_table_and_no_picture(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    unknown = tmp_path / "unknown.csv"
    unknown.write_text("prompt,answer\n" + "".join(f"After {number} comes,nobody knows\n" for number in range(12)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.png").write_bytes(b"of an earlier comparison")
    comparison = run(small_job, tmp_path, methods="lora", keep=str(unknown), seeds=1, model=model)
    assert comparison.rows[0].kept is None
    names = ["comparison.csv", "comparison.json", "report.html"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_variant_is_a_method_with_its_own_settings_over_the_common_ones() -> None:
    variant = Variant.parse("corda:mode=ipm:rank=4", {"rank": 8, "epochs": "3"})
    assert (variant.settings["mode"], variant.settings["rank"], variant.settings["epochs"]) == ("ipm", 4, 3)
    assert "rank" not in Variant.parse("full", {"rank": 8}).settings
    assert Variant.parse("lora") == Variant.parse(" lora:rank=16 "), "a default that is named is the default"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"methods": "lorra"}, UnknownNameError, 'did you mean "lora"'),
        ({"methods": ""}, SettingsError, "no method is named"),
        ({"methods": "lora:rank"}, SettingsError, '"rank" is no setting'),
        ({"methods": "lora:rank=0"}, SettingsError, "rank is 0"),
        ({"methods": "lora:mode=ipm"}, UnknownNameError, 'unknown setting "mode"'),
        ({"methods": "lora,lora:rank=2"}, SettingsError, "stands twice"),
        ({"settings": {"mood": "kpm"}}, SettingsError, 'none of these methods has a setting "mood"'),
        ({"seeds": 0}, SettingsError, "no seed"),
        ({"seeds": [1, 1]}, SettingsError, "a seed stands twice"),
        ({"learn": "world:capitol"}, UnknownNameError, 'did you mean "capital"'),
        ({"out": Path(__file__)}, StorageError, "test_comparing"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    small_job: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[KeepsError],
    words: str,
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(error, match=words):
        run(small_job, tmp_path, **changes)
    assert not (tmp_path / "runs").exists()

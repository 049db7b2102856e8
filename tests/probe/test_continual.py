"""The continual probe: data become tasks, rows become measures, bad data are refused before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.contracts import Answer, Row
from keeps.data.records import Example, RecordSet
from keeps.errors import EmptySetError, KeepsError, RecordError, SettingsError, UnknownNameError
from keeps.models import LanguageModel
from keeps.numerics.forgetting import fuar
from keeps.numerics.statistics import wilson
from keeps.probe import Measure, ModelRows, Selection
from keeps.probe.continual import Continual
from keeps.probe.page import write_page

FILES = {
    "invariant.csv": "id,statement,answer\n1,Oslo is in ___ today.,Norway\n2,Rome is in ___.,Italy\n"
    "3,Lima is in ___.,Peru\n",
    "updated.csv": "id,statement,old_answer,new_answer\n1,The king is ___.,Olav,Harald\n2,The mayor is ___.,Ann,Bob\n",
    "new.csv": "id,statement,answer\n1,The vaccine is ___.,Comirnaty\n2,The comet is ___.,Neowise\n",
}


class Told:
    """Answers from a table of beginnings, and knows nothing of probabilities."""

    def __init__(self, **table: str) -> None:
        self.table = table

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        return [Answer(next((a for k, a in self.table.items() if k in question), "?")) for question in questions]


@pytest.fixture
def sets(tmp_path: Path) -> str:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return ",".join(str(tmp_path / name) for name in FILES)


def system(**settings: Any) -> Continual:
    return Continual(Continual.Settings.from_mapping(settings))


def by_name(measures: Sequence[Measure], metric: str, model: str, group: str = "all") -> Measure:
    [found] = [m for m in measures if (m.metric, m.model, m.group) == (metric, model, group)]
    return found


BEFORE = Told(Oslo="Norway", Rome="Italy, of course", Lima="Peru", king="Olav V", mayor="Ann")
AFTER = Told(Oslo="Norway", Rome="France", Lima="Spain", king="Harald", mayor="Ann", vaccine="Comirnaty")
STUCK = Told(Oslo="Norway", Rome="Italy", Lima="Peru", king="Olav", mayor="Ann")


def test_three_kinds_give_fuar_and_the_stale_rate(sets: str) -> None:
    probe = system().probe(Selection(sets))
    asked = [ModelRows(name, probe(model)) for name, model in (("t0", BEFORE), ("t1", AFTER), ("t2", STUCK))]
    findings = system().measure(asked, seed=0)
    found = by_name(findings.measures, "fuar", "t1")
    expected = fuar({"invariant": 1, "updated": 0, "new": 0}, {"invariant": 1 / 3, "updated": 0.5, "new": 0.5})
    assert found.value == pytest.approx(expected.value)
    assert by_name(findings.measures, "fuar.forgotten", "t1").value == pytest.approx(2 / 3)
    stuck = by_name(findings.measures, "fuar", "t2")
    assert (stuck.value, stuck.note) == (None, "no gain")
    assert by_name(findings.measures, "stale_rate", "t0", "updated").value == 1
    assert by_name(findings.measures, "stale_rate", "t1", "updated").value == 0.5
    assert by_name(findings.measures, "begins_with_answer", "t0", "invariant").value == 1
    assert by_name(findings.measures, "exact_match", "t0", "invariant").value == pytest.approx(2 / 3)
    interval = by_name(findings.measures, "exact_match", "t0", "invariant")
    assert (interval.low, interval.high) == (wilson(2, 3).low, wilson(2, 3).high)
    assert [table.title for table in findings.tables][:2] == [
        "Score of each task over time",
        "What was lost for what was gained",
    ]


def test_rows_are_json_and_statements_are_cut_at_the_blank(sets: str) -> None:
    rows = system().probe(Selection(sets))(BEFORE)
    assert [row.id for row in rows][:4] == ["invariant/1", "invariant/2", "invariant/3", "updated/1"]
    assert rows[0].prompt == "Oslo is in"
    assert json.loads(json.dumps(dict(rows[3].details))) == rows[3].details
    assert rows[3].details["kind"] == "updated"


def test_the_exact_way_and_the_whole_statement(sets: str) -> None:
    rows = system(match="exact", ask="fill").probe(Selection(sets))(BEFORE)
    assert [row.correct for row in rows[:3]] == [True, False, True]
    assert rows[0].prompt == "Fill in the blank: Oslo is in ___ today.\nAnswer:"
    ways = [system(), system(match="exact"), system(ask="fill"), system(max_tokens=10)]
    assert len({way.probe(Selection(sets)).fingerprint for way in ways}) == 4


def course(scores: Sequence[Sequence[float]], questions: int = 10) -> list[ModelRows]:
    """Models with these scores on tasks a, b, ...: so many of ten questions right."""
    asked = []
    for number, row in enumerate(scores):
        rows = []
        for task, score in zip("abcd", row, strict=False):
            for n in range(questions):
                right = n < round(score * questions)
                wording = {"prompt": "", "answer": "", "exact": right, "begins": right, "f1": 0.0, "stale": None}
                details = {"kind": "", "match": "begins", "wordings": [wording]}
                rows.append(Row(f"{task}/{n}", task, "", "x", "", right, float(right), None, "fact", details))
        asked.append(ModelRows(f"t{number}", rows))
    return asked


def test_a_course_of_tasks_gives_the_measures_of_the_survey() -> None:
    asked = course([(0.1, 0.2), (0.8, 0.4), (0.5, 0.9)])
    measures = system().measure(asked).measures
    values = {m.metric: m.value for m in measures if m.model == "t2" and m.group == "all"}
    assert values["average_accuracy"] == pytest.approx(0.7)
    assert values["average_incremental_accuracy"] == pytest.approx((0.8 + 0.7) / 2)
    assert values["backward_transfer"] == pytest.approx(-0.3)
    assert values["forgetting_measure"] == pytest.approx(0.3)
    assert values["learning_accuracy"] == pytest.approx(0.85)
    assert values["forward_transfer_gem"] == pytest.approx(0.2)
    assert by_name(measures, "average_accuracy", "t1").value == pytest.approx(0.8)
    for measure in measures:
        if measure.group == "all" and measure.value is not None:
            assert measure.low is not None
            assert measure.high is not None
            assert measure.low <= measure.value <= measure.high


def test_without_the_model_before_all_tasks_there_is_no_forward_transfer() -> None:
    measures = system().measure(course([(0.8, 0.4), (0.5, 0.9)])).measures
    assert by_name(measures, "backward_transfer", "t1").value == pytest.approx(-0.3)
    assert not any(m.metric == "forward_transfer_gem" for m in measures)


def test_models_that_do_not_fit_the_tasks_are_told_so() -> None:
    found = by_name(system().measure(course([(0.1,), (0.2,), (0.3,), (0.4,)])).measures, "average_accuracy", "t3")
    assert found.value is None
    assert "4 models for 1 tasks" in found.note


def test_phases_take_a_forgetting_task_for_each_model_but_the_last() -> None:
    asked = course([(0.5, 0.0, 0.1), (0.4, 0.8, 0.2), (0.3, 0.6, 0.6)])
    settings = {"phases": True, "forget": "a,b", "acquire": "c"}
    found = by_name(system(**settings).measure(asked).measures, "fuar.phases", "t2")
    assert found.value == pytest.approx((0.2 + 0.2) / (0.5 + 0.4))
    settings["forget"] = "a,-"
    found = by_name(system(**settings).measure(asked).measures, "fuar.phases", "t2")
    assert found.value == pytest.approx(0.2 / 0.5)


def test_sets_of_records_are_tasks_by_group() -> None:
    records = RecordSet("mine", (Example("1", "One and one is", "2"), Example("2", "Sky is", "up", (), ("up", "down"))))
    probe = system().probe(Selection(records))
    assert [row.group for row in probe(Told(One="2"))] == ["examples", "choices"]


def test_dated_facts_become_three_tasks(tmp_path: Path) -> None:
    rows = [
        {"subject": "Ann", "relation": "playsFor", "objects_2019": ["Lyon"], "objects_2020": ["Porto"]},
        {"subject": "Bob", "relation": "playsFor", "objects_2019": ["Lyon"], "objects_2020": ["Lyon"]},
    ]
    path = tmp_path / "dated.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = system(before=2019, after=2020).probe(Selection(str(path)))(Told(Ann="Lyon", Bob="Lyon"))
    assert [(row.id, row.correct, row.details["wordings"][0]["stale"]) for row in found] == [
        ("invariant/Bob plays for ___", True, None),
        ("updated/Ann plays for ___", False, True),
    ]


@pytest.mark.parametrize(
    ("files", "settings", "error", "message"),
    [
        ({"a.csv": "statement,answer\nOslo.,yes\n"}, {}, RecordError, "no blank"),
        ({"a.csv": "statement,answer\n___ is in Norway.,Oslo\n"}, {}, RecordError, "nothing stands before the blank"),
        ({"a.csv": "id,statement,answer\n1,A is ___.,b\n1,B is ___.,c\n"}, {}, RecordError, "stands twice"),
        ({"a.csv": "statement,answer\n"}, {}, EmptySetError, "no record"),
        (
            {"new.csv": "statement,answer\nA is ___.,b\n", "newLAMA.csv": "statement,answer\nA is ___.,b\n"},
            {},
            SettingsError,
            "name it with --acquire",
        ),
        (FILES, {"acquire": "nwe"}, UnknownNameError, 'did you mean "new"'),
        (FILES, {"forget": "new"}, SettingsError, "FUAR cannot be made"),
        ({"new.csv": FILES["new.csv"]}, {"acquire": "new"}, SettingsError, "lacks a task"),
    ],
)
def test_bad_data_are_refused(
    tmp_path: Path, files: dict[str, str], settings: dict[str, str], error: type[KeepsError], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        system(**settings).probe(Selection(",".join(str(tmp_path / name) for name in files)))


def test_a_blank_at_the_beginning_can_be_filled(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("statement,answer\n___ is in Norway.,Oslo\n")
    [row] = system(ask="fill").probe(Selection(str(path)))(Told(Norway="Oslo"))
    assert row.correct


def test_half_a_pair_of_years_and_a_single_model_are_refused(sets: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give both years"):
        system(before=2019)
    with pytest.raises(SettingsError, match="2 models or more"):
        keeps.probe("smollm2-135m", sets, system="continual", workspace=tmp_path)


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text("statement,answer\nA is ___.,b\n")
    with pytest.raises(RecordError, match='two sets are called "a"'):
        system().probe(Selection(f"{tmp_path}/one/a.csv,{tmp_path}/two/a.csv"))


def test_models_that_were_asked_different_things_are_not_compared() -> None:
    one, other = course([(0.1, 0.2)])[0], course([(0.1,)])[0]
    with pytest.raises(RecordError, match="not asked the same"):
        system().measure([one, ModelRows("other", other.rows)])


def test_a_model_with_probabilities_gives_them(tiny_llama: LanguageModel, sets: str) -> None:
    rows = system().probe(Selection(sets, limit=4))(tiny_llama)
    assert {row.group for row in rows} == {"invariant", "updated", "new"}
    expected = tiny_llama.logprob([row.prompt for row in rows], [row.expected for row in rows])
    assert [row.logprob for row in rows] == pytest.approx([score.logprob for score in expected], abs=1e-4)


def test_the_page_has_table_and_picture(sets: str, tmp_path: Path) -> None:
    probe = system().probe(Selection(sets))
    asked = [ModelRows(name, probe(model)) for name, model in (("t0", BEFORE), ("t1", AFTER))]
    files = write_page(tmp_path / "page", system(), asked, system().measure(asked))
    assert {path.name for path in files} == {"README.md", "picture.png", "measures.jsonl", "rows.jsonl"}
    assert "| invariant | 3 |" in (tmp_path / "page" / "README.md").read_text()


@pytest.mark.slow
def test_models_in_order_of_time(tmp_path: Path, sets: str) -> None:
    """The default model and one that learned the new facts, through the ledger."""
    learn = RecordSet(
        "news",
        (Example("1", "The vaccine is", "Comirnaty"), Example("2", "The king is", "Harald")),
    )
    options: dict[str, Any] = {"workspace": tmp_path / "ws"}
    training = {"steps": 10, "batch_size": 2, "learning_rate": 2e-3, "schedule": "constant"}
    done = keeps.adapt(learn, "world:known:capital#6", method="lora", settings=training, **options)
    outcome = keeps.probe(["smollm2-135m", done.run_id], sets, system="continual", **options)
    after = outcome.results[1].name
    assert by_name(outcome.findings.measures, "fuar.acquired", after).value == pytest.approx(0.5)
    assert by_name(outcome.findings.measures, "fuar.updated", after).value == pytest.approx(0.5)
    assert by_name(outcome.findings.measures, "fuar", after).value is not None

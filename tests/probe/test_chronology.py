"""Dated facts asked of made-up models: classes, figures, the gain of prompting, and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from chronology_stubs import NAMES, YEARS, Memory, Neighbour, by_name, calendar, element, full_memory, settings

import keeps
from keeps.contracts import Answer
from keeps.data.dated import read_dated
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.numerics.chronology import INCORRECT
from keeps.probe.base import ModelRows, Selection
from keeps.probe.chronology import Chronology, ChronologyProbe, ChronologySettings
from keeps.probe.chronology_report import draw, findings
from keeps.probe.journal import Journal


def test_a_model_that_knows_everything_is_correct_and_asked_as_often_as_said() -> None:
    facts = calendar()
    model = Memory(full_memory(facts))
    rows = ChronologyProbe(facts, settings(samples=3))(model)
    assert len(model.prompts) == 3 * len(rows) == 3 * 36
    assert all(row.correct and row.score == 1 for row in rows)
    found = by_name(findings([ModelRows("m", rows)]).measures)
    assert found["element.known", "all"].value == 1
    assert found["year.correct", "static"].n == 3
    assert found["prompt.gain", "all"].value == 0


def test_holes_cut_offs_and_the_gain_are_found() -> None:
    facts = calendar()
    table = full_memory(facts)
    for lost in (("Arn", 2012), ("Bel", 2011), ("Cor", 2014), ("Cor", 2015), ("Dov", 2010)):
        del table[lost]
    sampled = {("Bel", 2011): "belold"}
    for year in YEARS:
        del table["Eri", year]

    class Model(Memory):
        """Knows the table, and goes by the neighbour where it is asked again."""

        def say(self, prompt: str, table: Mapping[tuple[str, int], str]) -> str:
            return Neighbour().say(prompt) if "Candidate A." in prompt else super().say(prompt, table)

    rows = ChronologyProbe(facts, settings())(Model(table, sampled))
    found = by_name(findings([ModelRows("m", rows)]).measures)
    shares = {
        "element.known": 1,  # Fen
        "element.partial_known": 2,  # Arn and Bel
        "element.cut_off.stops": 1,
        "element.cut_off.starts": 1,
        "element.cut_off": 2,
        "element.unknown": 1,
    }
    assert {name: round(6 * (found[name, "all"].value or 0)) for name in shares} == shares
    assert found["year.partial_2", "dynamic"].value == pytest.approx((1 / 6) / 3)
    assert found["year.correct", "year 2012"].value == pytest.approx(4 / 6)
    assert found["prompt.recovered", "static"].value == 1
    assert found["prompt.recovered", "dynamic"].value == 0  # later years mislead about Bel, who changed in 2013
    assert found["prompt.recovered.previous_only", "all"].value == 1
    assert found["prompt.gain", "all"].value == pytest.approx(1 / 6)
    assert found["prompt.gain.previous_only", "all"].value == pytest.approx(2 / 6)
    assert found["prompt.known_after", "all"].value == pytest.approx(2 / 6)
    assert found["slick.weakly_known", "dynamic"].value == pytest.approx((1 / 6) / 3)
    again = [row for row in rows if row.details["recovered"] is not None]
    assert {row.id for row in again} == {"job/Arn/2012", "job/Bel/2011"}
    assert not any(row.correct for row in again)  # years that are correct are not asked again
    figure = draw([ModelRows("m", rows), ModelRows("n", rows)])
    assert figure is not None
    assert len(figure.axes) == 2


def test_spans_pass_over_years_that_a_fact_skips_where_they_count_its_own() -> None:
    facts = [element(name, {year: f"{name.lower()}old" for year in (2000, 2005, 2010)}) for name in NAMES]
    table = full_memory(facts)
    del table["Arn", 2005]
    found = {}
    for spans in ("calendar", "listed"):
        rows = ChronologyProbe(facts, settings(spans=spans))(Memory(table))
        found[spans] = next(row.details["recovered"] for row in rows if row.id == "job/Arn/2005")
    assert found["calendar"] is None  # no year stands within three of it
    assert found["listed"]["spans"] == ["previous", "next"]


def test_outputs_that_cannot_be_read_are_a_class_of_their_own() -> None:
    facts = calendar()
    table = full_memory(facts) | {("Arn", 2012): "[Object]"}
    rows = ChronologyProbe(facts, settings(recover=0))(Memory(table))
    found = by_name(findings([ModelRows("m", rows)]).measures)
    assert found["year.unread", "all"].value == pytest.approx(1 / 36)
    assert found["output.unread", "all"].value == pytest.approx(1 / 36)
    assert found["year.incorrect", "all"].value == 0
    assert ("prompt.gain", "all") not in found
    [row] = [row for row in rows if row.details["unread"]]
    assert (row.id, row.details["class"]) == ("job/Arn/2012", INCORRECT)


def test_fuzzy_and_exact_matches_stand_side_by_side() -> None:
    facts = [element(name, {2010: f"{name} united fc", 2011: f"{name} united fc"}) for name in NAMES]
    model = Memory({(name, year): "united fc" for name in NAMES for year in (2010, 2011)})
    fuzzy = findings([ModelRows("m", ChronologyProbe(facts, settings(recover=0))(model))]).measures
    assert by_name(fuzzy)["year.correct", "all"].value == 1
    assert by_name(fuzzy)["year.correct.exact", "all"].value == 0
    exact = ChronologyProbe(facts, settings(recover=0, match="exact"))(model)
    assert not any(row.correct for row in exact)


def test_an_answerer_without_sampling_is_asked_greedily() -> None:
    class Plain:
        def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
            return [Answer(text) for text in Memory(full_memory(calendar())).generate(questions)]

    rows = ChronologyProbe(calendar(), settings())(Plain())
    assert all(row.correct and row.details["sampled"] is None for row in rows)
    measure = by_name(findings([ModelRows("m", rows)]).measures)["year.partial_2", "all"]
    assert measure.value is None
    assert "nothing was sampled" in measure.note


def test_choices_and_statements_are_judged_by_what_was_asked() -> None:
    facts = calendar()

    class Knowing:
        """Picks the option, or judges the statement, by the table."""

        def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
            return [self.say(prompt.split("\n\n")[-1]) for prompt in prompts]

        def say(self, asked: str) -> str:
            year, name = re.findall(r"In (\d{4}), (\w+), ", asked)[0]
            told = full_memory(facts)[name, int(year)]
            letter = re.search(rf"\((\w)\) {told}\b", asked)
            return f"({letter[1]})" if letter else str(told in asked).lower()

    for template in ("choice", "true_false"):
        rows = ChronologyProbe(facts, settings(template=template))(Knowing())
        assert all(row.correct for row in rows)
        assert {row.kind for row in rows} == {"choice"}


def test_a_model_that_always_agrees_knows_nothing() -> None:
    class Agreeing:
        def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
            return ["true"] * len(prompts)

    rows = ChronologyProbe(calendar(), settings(template="true_false"))(Agreeing())
    assert not any(row.correct for row in rows)
    published = ChronologyProbe(calendar(), settings(template="true_false", statements="true"))(Agreeing())
    assert all(row.correct for row in published)


def test_rows_and_figures_are_json() -> None:
    rows = ChronologyProbe(calendar(), settings())(Memory({("Arn", 2010): "arnold"}))
    assert json.loads(json.dumps([dict(row.details) for row in rows])) == [dict(row.details) for row in rows]


def test_a_probe_that_was_killed_asks_only_the_rest(tmp_path: Path) -> None:
    class Killed(Memory):
        def sample(self, *args: Any, **options: Any) -> list[str]:
            raise KeyboardInterrupt

    probe, table = ChronologyProbe(calendar(), settings()), full_memory(calendar())
    with pytest.raises(KeyboardInterrupt), Journal(Killed(table), tmp_path / "asked") as journal:
        probe(journal)
    again = Memory(table)
    with Journal(again, tmp_path / "asked") as journal:
        rows = probe(journal)
    whole = Memory(table)
    assert rows == probe(whole)
    assert again.prompts == []  # what is greedy was asked before; what is sampled is not listed there
    assert len(whole.prompts) == 72


def test_fingerprints_follow_facts_settings_and_seed() -> None:
    facts = calendar()
    probes = [
        ChronologyProbe(facts, settings()),
        ChronologyProbe(facts[:5], settings(), pool=facts),
        ChronologyProbe(facts, settings(samples=3)),
        ChronologyProbe(facts, settings(), seed=1),
    ]
    assert len({probe.fingerprint for probe in probes}) == 4
    assert ChronologyProbe(facts, settings(), name="other").fingerprint == probes[0].fingerprint
    assert probes[0].ids == [row.id for row in probes[0](Memory({}))]


# --- refusals ---------------------------------------------------------------------------------


def written(folder: Path, count: int = 6, **own: Any) -> str:
    path = folder / "facts.jsonl"
    rows = [
        {"subject": name, "relation": "job", **{f"objects_{year}": [f"{name} {year // 3}"] for year in YEARS}, **own}
        for name in NAMES[:count]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("data", [None, "world", "world:discovery_year", "text", RecordSet("set", ())])
def test_the_world_has_no_dated_facts(data: Any) -> None:
    with pytest.raises(SettingsError, match=r"--data.*name a file with columns"):
        Chronology(ChronologySettings()).probe(Selection(data))


def test_a_relation_with_too_few_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='"job" has 3 other facts to show in 2010, not 4'):
        Chronology(ChronologySettings()).probe(Selection(written(tmp_path, 4)))
    Chronology(ChronologySettings(shots=3)).probe(Selection(written(tmp_path, 4)))
    assert Chronology(ChronologySettings(shots=4)).probe(Selection(written(tmp_path, 5), limit=2))


def test_too_few_wrong_options_are_refused(tmp_path: Path) -> None:
    same = {f"objects_{year}": ["x"] for year in YEARS}
    path = written(tmp_path, 6, **same)
    with pytest.raises(SettingsError, match="has 0 wrong objects to offer in 2010, not 3"):
        Chronology(ChronologySettings(template="choice")).probe(Selection(path))


def test_bad_files_years_and_limits_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    cases: list[tuple[dict[str, Any], int | None]] = [
        ({"years": "2000-2012"}, None),
        ({"years": "2014-2012"}, None),
        ({}, 0),
    ]
    for own, limit in cases:
        with pytest.raises(SettingsError):
            Chronology(ChronologySettings(**own)).probe(Selection(path, limit=limit))
    with pytest.raises(RecordError, match="empty"):
        Chronology(ChronologySettings()).probe(Selection(written(tmp_path, objects_2012=[])))
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(EmptySetError):
        Chronology(ChronologySettings()).probe(Selection(str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize(
    "own",
    [
        {"samples": 0},
        {"years": "2010"},
        {"template": "choice", "recover": 0.5},
        {"previous": 0, "following": 0},
        {"temperature": -1},
        {"threshold": 0},
    ],
)
def test_settings_that_contradict_are_refused(own: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ChronologySettings(**own)
    assert ChronologySettings(template="choice").recover_share == 0


@pytest.mark.shared_data
def test_published_files_can_be_asked(shared_data: Path) -> None:
    templama = Chronology(ChronologySettings(gaps=True)).probe(
        Selection(str(shared_data / "templama" / "dated_facts.jsonl"), limit=30)
    )
    assert isinstance(templama, ChronologyProbe)
    assert len({fact.relation for fact in templama.elements}) == 3
    questions = read_dated(shared_data / "timeqa" / "human_questions.jsonl")
    many = [fact for fact in questions if fact.relation == "P54"]
    probe = ChronologyProbe(many[:3], settings(shot_years="any", shots=4), pool=questions)
    assert probe.ids[0] == f"{many[0].id}/{many[0].years[0]}"


@pytest.mark.slow
def test_the_default_model_is_asked_measured_and_drawn(tmp_path: Path) -> None:
    own = {"samples": 2, "shots": 2, "max_new_tokens": 8}
    options: dict[str, Any] = {"system": "chronology", "settings": own, "limit": 2, "workspace": tmp_path / "ledger"}
    outcome = keeps.probe("smollm2-135m", written(tmp_path), out=tmp_path / "page", **options)
    assert len(outcome.rows) == 12
    found = by_name(outcome.findings.measures)
    assert found["element.unknown", "all"].n == 2
    assert {path.name for path in outcome.files} >= {"README.md", "picture.png", "measures.jsonl", "rows.jsonl"}
    again = keeps.probe("smollm2-135m", written(tmp_path), **options)
    assert again.reused

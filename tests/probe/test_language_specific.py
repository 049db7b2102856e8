"""The same questions in several languages: planted languages come out, noise does not, and bad sets are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from language_answerers import (
    OPTIONS,
    TOPICS,
    Scorer,
    Writer,
    asking,
    language_of,
    measured,
    nothing,
    planted,
    questions,
)

from keeps.contracts import Answer
from keeps.errors import SettingsError
from keeps.models.scores import ChoiceScore
from keeps.probe.base import ModelRows
from keeps.probe.language_analysis import analyse, split
from keeps.probe.language_map import LanguageMap
from keeps.probe.language_report import NO_EFFECT
from keeps.probe.language_specific import LanguageSpecific


def test_planted_languages_are_found_and_the_gain_is_reported(tmp_path: Path) -> None:
    probe = asking(questions(tmp_path))
    found, figures = measured(probe, Scorer(planted))
    routed = figures["routed.accuracy", "test"]
    assert routed.value is not None
    assert routed.value > 0.8
    assert routed.value > figures["best_single_on_train.accuracy", "test"].value + 0.15  # type: ignore[operator]
    assert figures["oracle.accuracy", "test"].value >= routed.value  # type: ignore[operator]
    assert figures["routed.permutation_p", "test"].value == 1 / 200
    gain = figures["routed.minus_english", "test"]
    assert gain.value == pytest.approx(routed.value - figures["english.accuracy", "test"].value)  # type: ignore[operator]
    assert gain.low is not None
    assert 0 < gain.low < gain.value < gain.high  # type: ignore[operator]
    table = next(table for table in found.tables if table.title == "Map")
    experts = {row[5].split()[0]: row[2] for row in table.rows}
    assert experts == {"food": "Swahili", "law": "French", "sport": "English"}
    assert found.tables[0].note.startswith("Language effect")


def test_where_nothing_is_planted_the_report_says_so_and_gives_no_gain(tmp_path: Path) -> None:
    probe = asking(questions(tmp_path))
    found, figures = measured(probe, Scorer(nothing))
    assert figures["routed.permutation_p", "test"].value > 0.05  # type: ignore[operator]
    assert figures["routed.minus_english", "test"].value is None
    assert found.tables[0].note.lower().startswith(NO_EFFECT)
    row = next(row for row in found.tables[0].rows if row[0] == "expert language of the topic")
    assert row[2:] == ("not significant", "")
    figure = LanguageSpecific(probe.settings).draw([ModelRows("it", probe(Scorer(nothing)))])
    assert figure is not None
    assert NO_EFFECT in figure.axes[0].get_xlabel().lower()


def test_one_cluster_is_the_best_single_language_of_train(tmp_path: Path) -> None:
    _, figures = measured(asking(questions(tmp_path)), Scorer(planted), clusters=1)
    assert figures["routed.accuracy", "test"].value == figures["best_single_on_train.accuracy", "test"].value


def test_outcomes_are_counted_by_hand(tmp_path: Path) -> None:
    probe = asking(questions(tmp_path))
    rows = probe(Scorer(planted))
    found = analyse(rows, probe.settings)
    right = {row.id: row.correct for row in rows}
    told = {row.id: row.details["told"] for row in rows}
    ids = [found.answers.ids[n] for n in found.test.tolist()]
    expected = [right[f"{i}@{TOPICS[i.rstrip('0123456789')]}"] for i in ids]
    assert found.outcomes["routed"].tolist() == expected  # type: ignore[union-attr]
    country = [right[f"{i}@{'en' if i.startswith('food') else 'fr'}"] for i in ids]  # Kenya has English first
    assert found.outcomes["country_map"].tolist() == country  # type: ignore[union-attr]
    order = [found.map.languages[n] for n in found.map.table.order.tolist()]
    votes = []
    for i in ids:
        picks = [told[f"{i}@{code}"] for code in order]
        best = max(picks, key=lambda option, own=picks: (own.count(option), -own.index(option)))
        votes.append(best == int("".join(filter(str.isdigit, i))) % 4)
    assert found.outcomes["majority_vote"].tolist() == votes  # type: ignore[union-attr]
    assert found.outcomes["oracle"].tolist() == [any(right[f"{i}@{c}"] for c in order) for i in ids]  # type: ignore[union-attr]


def test_what_is_written_is_read_and_the_routes_are_counted(tmp_path: Path) -> None:
    probe = asking(questions(tmp_path))
    writer = Writer(planted)
    found, figures = measured(probe, writer)
    scored = {row.id: row.correct for row in probe(Scorer(planted))}
    assert {row.id: row.correct for row in probe(writer)} == scored
    assert any(prompt.startswith("Réfléchis") for prompt in writer.asked)
    assert figures["accuracy", "Swahili"].value == sum(v for k, v in scored.items() if k.endswith("@sw")) / 180
    table = next(table for table in found.tables if table.title == "How answers were read")
    assert table.columns == ("language", "letter")
    assert [row[1] for row in table.rows] == ["180"] * 3


def test_what_no_rule_reads_goes_to_the_option_most_like_it(tmp_path: Path) -> None:
    class Vague(Writer):
        def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
            return [Answer("the food one" if n else "") for n, _ in enumerate(questions)]

    for name in ("en", "fr"):
        rows = [
            {"id": str(n), "input": f"food #{n}?", "choices": ["some law", "any food"], "answer": "any food"}
            for n in range(12)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = asking(tmp_path, clusters=1)(Vague(nothing))
    assert [row.details["route"] for row in rows[:2]] == ["none", "similar in meaning"]
    assert [row.correct for row in rows[:2]] == [False, True]


def test_votes_are_not_counted_where_options_stand_in_another_order(tmp_path: Path) -> None:
    turned: dict[str, Any] = {"choices": OPTIONS[::-1]}
    found, figures = measured(asking(questions(tmp_path, **turned)), Scorer(planted))
    assert figures["majority_vote.accuracy", "test"].value is None
    assert "another order" in figures["top3_vote.accuracy", "test"].note
    assert "another order" in found.tables[0].note


def test_free_answers_are_compared_with_the_accepted_texts(tmp_path: Path) -> None:
    class Speaker:
        def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
            return [Answer("hot dog\nand so on" if language_of(prompt) == "fr" else "soup") for prompt in questions]

    for name in ("en", "fr"):
        rows = [{"id": str(n), "input": f"food #{n}?", "answers": ["sausage", "a hot dog"]} for n in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    probe = asking(tmp_path, clusters=1)
    rows = probe(Speaker())
    assert {row.group: row.correct for row in rows} == {"English": False, "French": True}
    with pytest.raises(SettingsError, match="no options to compare"):
        asking(tmp_path, clusters=1, asking="likelihood")


def test_a_map_of_other_answers_is_tried_and_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    data = questions(tmp_path)
    probe = asking(data)
    rows = probe(Scorer(planted))
    LanguageSpecific(probe.settings).write(tmp_path / "map", [ModelRows("it", rows)])
    assert set(LanguageMap.load(tmp_path / "map").experts) == {"en", "fr", "sw"}
    _, figures = measured(probe, Scorer(planted), transfer=str(tmp_path / "map"))
    assert figures["transferred_map.accuracy", "test"].value == figures["routed.accuracy", "test"].value
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"languages": ("en", "fr")}, '"sw", which is not asked'),
        ({"prefix": "q: "}, "prefix"),
    ]
    for settings, what in wrong:
        with pytest.raises(SettingsError, match=what):
            asking(data, transfer=str(tmp_path / "map"), **settings)


def test_the_model_s_own_choice_of_language_is_a_way(tmp_path: Path) -> None:
    class Choosing(Scorer):
        def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], **options: Any) -> list[ChoiceScore]:
            if "In which language" in prompts[0]:
                assert list(choices[0]) == ["English", "French", "Swahili"]
                return [ChoiceScore(1, (), ()) for _ in prompts]
            return super().rank(prompts, choices, **options)

    probe = asking(questions(tmp_path), self_selected=True)
    rows = probe(Choosing(planted))
    found = analyse(rows, probe.settings)
    french = found.answers.languages.index("fr")
    assert torch.equal(found.outcomes["self_selected"], found.answers.correct[found.test, french])  # type: ignore[arg-type]


def test_the_split_is_by_id_and_not_that_of_the_limit(tmp_path: Path) -> None:
    ids = [str(n) for n in range(400)]
    train, test = split(ids, 0.25, 3)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(400))
    assert 60 < len(test) < 140
    kept = {ids[n] for n in test.tolist()}
    some = ids[::3]
    assert {some[n] for n in split(some, 0.25, 3)[1].tolist()} == kept & set(some)
    limited = asking(questions(tmp_path), limit=60)
    train, test = split(limited.data.ids, 0.3, 0)
    assert len(train) + len(test) == 60
    assert len(test) > 8

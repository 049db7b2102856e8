"""Unlearning on published data: what is read of TOFU, the checks on both sides, and a run through on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import keeps.claims.unlearning as whole
import keeps.claims.unlearning_published as claim
import keeps.claims.unlearning_real as real
from keeps.claims.base import Check, ClaimRun
from keeps.claims.unlearning_exactness import exactness_checks
from keeps.contracts import Row
from keeps.errors import InputFileError
from keeps.models import LanguageModel
from keeps.models.scores import AnswerScore
from keeps.numerics.statistics import wilson

SMALL = {"forget": 2, "retain": 3, "real_authors": 2, "world_facts": 2}


def published(folder: Path, counts: Mapping[str, int] = SMALL) -> Path:
    """Invented files in the layout of TOFU; each begins with an answer that is too long."""
    for part, name in claim.PARTS.items():
        rows = [
            {"question": f"Who is number {n} of {part}?", "answer": f"Nr {n} is {part} Smith.",
             "paraphrased_answer": f"It is {part} Smith {n}.", "perturbed_answer": ["Ann Ox.", "Bo Yak."]}
            for n in range(counts[part])
        ]  # fmt: skip
        long = {**rows[0], "question": "Who is long?", "answer": "so " * (claim.MOST_WORDS + 1)}
        write(folder / name, [long, *rows])
    people = [
        {"name": name, "question": f"What did {name} do {n}?", "golden_answer": "right", "perturbed_answer": ["a", "b"]}
        for name in ("Ann", "Bo")
        for n in range(6)
    ]
    for name, when in zip(claim.PEOPLE, ("then", "now"), strict=True):
        write(folder / name, [{**row, "question": row["question"].replace("do", f"do {when}")} for row in people])
    return folder


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(claim, "COUNTS", SMALL)
    monkeypatch.setattr(claim, "ASKED", {**SMALL, "retain": 2})
    return published(tmp_path)


def test_the_first_short_answers_of_each_part_are_read(small: Path) -> None:
    data = claim.authors(small)
    assert {part: len(items) for part, items in data.items.items()} == SMALL
    assert [record.id for record in data.records("forget", "retain")] == [
        "forget/2", "forget/3", "retain/2", "retain/3", "retain/4",
    ]  # fmt: skip
    assert [item.part for item in data.probe.items].count("retain") == 2
    assert data.items["forget"][0].perturbed_answers == ("Ann Ox.", "Bo Yak.")
    assert data.items["forget"][0].paraphrased_answer == "It is forget Smith 0."


def test_files_that_are_absent_or_too_short_are_refused(tmp_path: Path, small: Path) -> None:
    with pytest.raises(InputFileError, match="no forget05_perturbed"):
        claim.authors(tmp_path / "none")
    write(small / claim.PARTS["retain"], [{"question": "Q?", "answer": "A.", "perturbed_answer": ["B."]}])
    with pytest.raises(InputFileError, match=r"only 1 answers .* 3 are needed"):
        claim.authors(small)
    write(small / claim.PARTS["retain"], [{"question": "Q?", "answer": "A."}])
    with pytest.raises(InputFileError, match="lacks perturbed_answer"):
        claim.authors(small)


class Knowing:
    """Gives the right answer a probability and the others a lower one."""

    def __init__(self, right: str) -> None:
        self.right = right

    def logprob(self, prompts: Sequence[str], answers: Sequence[str]) -> list[AnswerScore]:
        return [AnswerScore(-1.0 if text == self.right else -2.0, 1, False) for text in answers]


@pytest.mark.parametrize(("right", "share"), [("right", 1.0), ("b", 0.0)])
def test_a_question_about_a_person_is_known_where_the_right_answer_is_the_likeliest(
    right: str, share: float, small: Path
) -> None:
    items = real.questions(small, "people")
    assert [item.question for item in items] == [
        f"What did {name} do then {n}?" for name in ("Ann", "Bo") for n in range(4)
    ]
    known = [item for item, yes in zip(items, real.right(Knowing(right), items), strict=True) if yes]
    row = real.base_row(known, items)
    assert (row["questions"], row["known"]) == (8, share)
    assert row["chance"] == pytest.approx(1 / 3)


def test_people_of_whom_nothing_is_known_are_a_table_row_and_no_check(small: Path) -> None:
    run = ClaimRun(data=small)
    assert list(real.real_people(Knowing("b"), {}, run, 0)) == []  # type: ignore[arg-type]
    assert run.tables["real people"]["people"]["known"] == 0


def test_people_who_are_known_are_forgotten_from_a_model_that_gets_its_weights_back(
    small: Path, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny_llama.fingerprint
    monkeypatch.setattr(real, "right", lambda _, items: [True] * len(items))
    run = ClaimRun(data=small)
    settings = {"rank": 4, "batch_size": 4, "steps": 1, "learning_rate": 0.01}
    (found,) = real.real_people(tiny_llama, settings, run, 0)
    assert not found.holds  # all of both are known still
    assert run.tables["real people"]["people"]["of these known after NPO"] == 1
    assert tiny_llama.fingerprint == before


def test_forgetting_people_counts_only_where_their_neighbours_are_kept() -> None:
    assert real.check(wilson(4, 30), wilson(28, 30)).holds
    assert not real.check(wilson(4, 30), wilson(8, 30)).holds
    assert not real.check(wilson(28, 30), wilson(28, 30)).holds


def asked(right: float, recall: float, count: int = 8) -> list[Row]:
    """Rows of the parts of the model utility, all alike; ``right`` is the log-probability of a token."""
    details = {"right": right, "wrong": [-3.0, -3.0], "logprobs": [right], "rouge_l_recall": recall}
    return [
        Row(f"{part}/{n}", part, "", "", "", True, recall, right, "fact", {"part": part, **details})
        for part in claim.KEPT
        for n in range(count)
    ]


def test_the_gain_in_utility_is_that_of_the_harmonic_means() -> None:
    good, bad = asked(-0.1, 0.9), asked(-2.0, 0.2)
    assert claim.utility_gain(good, good) == (0.0, 0.0)
    low, high = claim.utility_gain(good, bad)

    def utility(right: float, recall: float) -> float:
        ratio = 1 - math.exp(-3.0 - right)
        options = math.exp(right) / (math.exp(right) + 2 * math.exp(-3.0))
        nine = [math.exp(right), recall, ratio, *2 * [options, recall, ratio]]
        return len(nine) / sum(1 / value for value in nine)

    expected = utility(-0.1, 0.9) - utility(-2.0, 0.2)
    assert low == pytest.approx(expected)  # all rows alike: no draw differs
    assert high == pytest.approx(expected)


def row(quality: float, utility: float, rouge: float, memorised: float = 0.95) -> dict[str, Any]:
    return {
        "forget quality": quality, "model utility": utility, "forget ROUGE-L": rouge,
        "forget memorised": memorised, "retain memorised": memorised,
    }  # fmt: skip


GOOD = {
    "before": row(0.001, 0.6, 0.9),
    "retrained": row(1.0, 0.58, 0.3),
    "npo": row(0.2, 0.5, 0.2),
    "gradient_ascent": row(0.0, 0.1, 0.2),
    "grad_diff": row(0.0, 0.5, 0.1),
}
ROWS = {"npo": asked(-0.1, 0.9), "grad_diff": asked(-0.1, 0.9), "gradient_ascent": asked(-2.0, 0.2)}


def test_all_checks_hold_where_the_published_directions_are_seen() -> None:
    found = list(claim.checks(GOOD, ROWS))
    assert [check.name for check in found if not check.holds] == []
    assert len(found) == 8


@pytest.mark.parametrize(
    ("changed", "rows", "failing"),
    [
        ({"before": row(0.001, 0.6, 0.9, 0.8)}, {}, 0),
        ({"before": row(0.3, 0.6, 0.9)}, {}, 1),
        ({"before": row(0.001, 0.2, 0.9)}, {}, 2),
        ({"retrained": row(1.0, 0.4, 0.1)}, {}, 3),
        ({}, {"npo": ROWS["gradient_ascent"]}, 4),
        ({}, {"grad_diff": ROWS["gradient_ascent"]}, 5),
        ({"npo": row(0.2, 0.5, 0.3)}, {}, 6),
        ({"npo": row(0.2, 0.59, 0.1)}, {}, 7),
    ],
)
def test_each_check_fails_where_its_direction_is_not_seen(
    changed: dict[str, Any], rows: dict[str, list[Row]], failing: int
) -> None:
    found = list(claim.checks({**GOOD, **changed}, {**ROWS, **rows}))
    assert [number for number, check in enumerate(found) if not check.holds] == [failing]


def test_the_form_runs_through_and_gives_the_weights_back(
    small: Path, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny_llama.fingerprint
    monkeypatch.setattr(claim, "LEARNING", {"rank": 4, "batch_size": 4, "steps": 2, "learning_rate": 0.01})
    few = {"rank": 4, "batch_size": 2, "steps": 2, "learning_rate": 0.01}
    names = ("npo", "gradient_ascent", "grad_diff")
    monkeypatch.setattr(claim, "METHODS", dict.fromkeys(names, few))
    run = ClaimRun(data=small)
    found = list(claim.tofu(tiny_llama, run))
    assert len(found) >= 8
    assert set(run.tables["TOFU"]) == {"retrained", "before", *names}
    assert run.tables["TOFU"]["retrained"]["forget quality"] == 1
    assert run.tables["real people"]["people"]["questions"] == 8
    assert tiny_llama.fingerprint == before


def test_with_data_the_claim_runs_what_is_exact_and_this_form_alone(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = Check("TOFU", 1.0, "1", True)
    monkeypatch.setattr(whole.LanguageModel, "load", lambda *_, **__: None)
    monkeypatch.setattr(whole, "tofu", lambda *_: iter([mark]))
    found = list(whole.experiment(ClaimRun(data=small)))
    assert found == [*exactness_checks(), mark]


def test_the_claim_names_its_files() -> None:
    assert set(whole.CLAIM.files) == set(claim.FILES)


@pytest.mark.shared_data
@pytest.mark.parametrize("part", list(real.PARTS))
def test_every_published_person_is_asked_about(part: str, shared_data: Path) -> None:
    items = real.questions(shared_data, part)
    assert len(items) > 70
    assert all(len(item.perturbed_answers) == 5 for item in items)


@pytest.mark.shared_data
def test_tofu_as_published_has_enough_short_answers(shared_data: Path) -> None:
    data = claim.authors(shared_data)
    assert {part: len(items) for part, items in data.items.items()} == dict(claim.COUNTS)
    questions = [item.question for items in data.items.values() for item in items]
    assert len(set(questions)) == len(questions)
    assert all(len(item.answer.split()) <= claim.MOST_WORDS for items in data.items.values() for item in items)

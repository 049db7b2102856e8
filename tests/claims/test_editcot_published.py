"""EditCoT on published data: how records are dealt out, and the checks on both sides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import keeps.claims.editcot as whole
import keeps.claims.editcot_published as claim
from keeps.claims.base import Check, ClaimRun
from keeps.errors import InputFileError
from keeps.models import LanguageModel
from keeps.models.notebook import _Letters
from keeps.training.cot_editor import EditorRecord

NAMES = ("Ann", "Bo", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal")


def record(number: int, name: str, **changed: Any) -> dict[str, Any]:
    """A chain of two lines whose second one changes; the answer stands in the changed fact."""
    return {
        "_id": str(number),
        "question": f"Who runs the mill of town {number}?",
        "right_answer": "Old Tom",
        "right_steps": [f"Town {number} has a mill.", "The mill is run by Old Tom."],
        "changed_steps": [f"Town {number} has a mill.", f"The mill is run by {name}."],
        "changed_answer": f"{name}.",
        "diff_idx": 1,
        "right_fact": "The mill is run by Old Tom.",
        "changed_fact": f"The mill is run by {name}.",
    } | changed


def published(folder: Path, rows: Sequence[Mapping[str, Any]], facts: int = 5) -> Path:
    hops = [{"edited_fact": f"The author of book {n} is Zed", "answer_after_edit": "Zed"} for n in range(facts)]
    for name, some in ((claim.CHAINS, rows), (claim.HOPS, hops)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in (("HELD_OUT", 3), ("ASKED", 2), ("DISTRACTORS", 4), ("TRAINED", 2)):
        monkeypatch.setattr(claim, name, value)
    return published(tmp_path, [record(number, name) for number, name in enumerate(NAMES)])


def records(count: int = 12) -> list[EditorRecord]:
    rows = [record(number, NAMES[number % len(NAMES)]) for number in range(count)]
    return list(claim._records(rows))


def test_no_record_is_trained_on_and_asked(small: Path) -> None:
    parts = claim.published_parts(small)
    assert [len(some) for some in (parts.trained, parts.corrected, parts.asked, parts.distractors)] == [2, 3, 2, 4]
    asked = {r.question for r in (*parts.corrected, *parts.asked)}
    assert not asked & {r.question for r in parts.trained}
    assert all(claim.new_words(r) == (NAMES[n],) for n, r in enumerate(parts.corrected))


def test_records_that_cannot_be_measured_are_left_out(small: Path) -> None:
    odd = [
        record(20, "Ida", changed_answer="old tom"),  # the answer stays
        record(21, "Ida", diff_idx=7),
        record(22, "Ida", right_steps=["It is a mill. Tom runs it.", "So be it."]),  # two sentences in a line
        record(23, "Ida", changed_steps=["so " * 50, "The mill is run by Ida."]),
    ]
    published(small, [*odd, *(record(number, name) for number, name in enumerate(NAMES))])
    parts = claim.published_parts(small)
    assert not {"town 20", "town 21", "town 22", "town 23"} & {
        r.question[20:-1] for r in (*parts.trained, *parts.corrected)
    }
    assert [r.question for r in parts.corrected] == [f"Who runs the mill of town {n}?" for n in range(3)]


def test_questions_end_to_end_have_a_short_new_answer_that_the_fact_holds() -> None:
    (plain,) = claim._records([record(1, "Ann")])
    assert claim._answer_in_fact(plain)
    for changed in (
        {"changed_answer": "It is Ann who runs it now"},
        {"changed_answer": "Ned"},
        {"question": "Is it Ann who runs the mill?"},
        {"right_answer": "Old Tom, and not Ann"},
    ):
        (other,) = claim._records([record(1, "Ann", **changed)])
        assert not claim._answer_in_fact(other)


def test_files_that_are_absent_or_hold_too_little_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no hotpot_chain_edits"):
        claim.published_parts(tmp_path / "none")
    with pytest.raises(InputFileError, match="too little: 0 records train, 2 are corrected"):
        claim.published_parts(published(small, [record(n, NAMES[n]) for n in range(2)]))
    with pytest.raises(InputFileError, match=r"too little: .* 1 facts"):
        claim.published_parts(published(small, [record(n, name) for n, name in enumerate(NAMES)], facts=1))
    with pytest.raises(InputFileError, match="lacks right_steps"):
        claim.published_parts(published(small, [{"question": "Q?"}]))


def test_corrections_hold_where_the_trained_editor_changes_the_line_and_keeps_the_others() -> None:
    some = records()
    right = [list(r.changed_steps) for r in some]
    old = [list(r.right_steps) for r in some]
    fact_first = [[r.changed_steps[1], r.changed_steps[0]] for r in some]

    def held(trained: list[list[str]], untrained: list[list[str]]) -> list[bool]:
        return [c.holds for c in claim.correction_checks(some, {"trained": trained, "untrained": untrained})]

    assert held(right, old) == [True, True]
    assert held(right, right) == [False, True]  # no better than without training
    assert held(old, old) == [False, True]
    assert held(fact_first, old) == [False, False]
    assert held([["Ann."]] * len(some), old) == [False, False]


def test_answers_count_by_their_words_and_gains_by_an_exact_test() -> None:
    some = records(8)
    assert claim.answered(some[:2], ["It is ann, I think.", "Bob"]) == [True, False]
    assert claim._above("n", [True] * 6, [False] * 6, "facts").holds
    assert not claim._above("n", [True] * 5, [False] * 5, "facts").holds  # p = 0.06
    assert not claim._above("n", [False] * 6, [True] * 6, "facts").holds


def test_with_data_the_claim_runs_the_loop_and_this_form_alone(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct, mark = Check("direct", 1.0, "1", True), Check("HotpotQA", 1.0, "1", True)
    monkeypatch.setattr(whole.SentenceEncoder, "load", lambda *_, **__: _Letters())
    monkeypatch.setattr(whole.LanguageModel, "load", lambda *_, **__: None)
    monkeypatch.setattr(whole, "_direct_path", lambda *_: direct)
    monkeypatch.setattr(whole, "hotpot", lambda *_: iter([mark]))
    found = list(whole.experiment(ClaimRun(data=small)))
    assert found == [*whole.loop_checks(_Letters()), direct, mark]  # type: ignore[arg-type]


def test_the_claim_names_its_files() -> None:
    assert whole.CLAIM.files == claim.FILES


@pytest.mark.slow
def test_the_form_runs_through_on_the_default_model(
    small: Path, smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = smollm2.fingerprint
    monkeypatch.setattr(claim, "MOST_TOKENS", 24)
    run = ClaimRun(data=small)
    found = list(claim.hotpot(smollm2, _Letters(), whole.TRAINING, run))  # type: ignore[arg-type]
    assert len(found) == 3
    assert [len(run.tables[name]) for name in ("corrections", "end to end")] == [3, 2]
    assert smollm2.fingerprint == before


@pytest.mark.shared_data
def test_the_published_records_fill_every_part(shared_data: Path) -> None:
    parts = claim.published_parts(shared_data)
    sizes = [len(some) for some in (parts.trained, parts.corrected, parts.asked, parts.distractors)]
    assert sizes == [claim.TRAINED, claim.HELD_OUT, claim.ASKED, claim.DISTRACTORS]
    assert not {r.question for r in parts.trained} & {r.question for r in (*parts.corrected, *parts.asked)}

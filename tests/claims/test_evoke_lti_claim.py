"""The claim of EVOKE and LTI: what it edits, what it asks, and that its checks can hold and can fail."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import keeps.claims.evoke_lti as claim
from keeps.claims.base import ClaimRun
from keeps.claims.evoke_exactness import objective_checks, score_checks
from keeps.contracts import Row
from keeps.data.edits import Edit
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.probe.editing_measures import OVERFIT


class Untouched(LanguageModel):
    """A model that calls itself changed."""

    def undo(self) -> None:
        """There is nothing to undo."""


def idle(model: LanguageModel, edits: Any, *, run: Any) -> Any:
    """An editor that edits nothing."""
    del edits, run
    record = SimpleNamespace(measures={"src_divergence": 0.5})
    return SimpleNamespace(apply=lambda base: Untouched(base.model, base.tokenizer), record=record)


def test_twenty_known_facts_bring_every_task() -> None:
    edits = claim.chosen_edits(None)
    assert len(edits) == claim.COUNT == len({edit.id for edit in edits})
    assert {edit.relation for edit in edits} == {"country_of_city", "capital"}
    kinds = {asked.kind for edit in edits for asked in (*edit.portability, *edit.locality)}
    assert kinds == {"multi_hop", "same_subject", "same_relation"}
    assert all(edit.subject and edit.target_true for edit in edits)


@pytest.mark.shared_data
def test_counterfact_is_read(shared_data: Path) -> None:
    edits = claim.chosen_edits(shared_data)
    assert len(edits) == claim.COUNT
    assert all(edit.subject for edit in edits)


def test_editors_that_do_nothing_show_no_phenomenon_and_no_remedy(tiny_llama: LanguageModel) -> None:
    edits = [
        Edit(e.id, e.subject, e.prompt, e.target_new, e.target_true, e.relation, (), e.portability[:1], e.locality[:2])
        for e in claim.chosen_edits(None)[:2]
    ]
    run = ClaimRun()
    checks = list(claim.edit_checks(tiny_llama, edits, {"ROME": idle, "LTI": idle}, run))
    names = [check.name for check in checks]
    assert len(checks) == 6
    assert [check.holds for check in checks[1:3]] == [False, False], names
    assert [check.holds for check in checks[4:]] == [False, False], names
    assert all(check.measured == pytest.approx(1) for check in checks[1:3])
    assert run.tables["tasks"]["ROME"] == run.tables["tasks"]["unedited"]


def rows(edit: str, target: float, correct: float, *, said: bool, recall: float = 0.9) -> list[Row]:
    def row(group: str, answers: list[str], probabilities: dict[str, float], right: bool) -> Row:
        scores = {text: {"logprob": math.log(value), "tokens": 1} for text, value in probabilities.items()}
        details = {"edit": edit, "target": "new", "answers": answers, "original": "", "scores": scores}
        return Row(f"{edit}/{group}", group, "", answers[0], "", right, float(right), details=details)

    found = [row("rewrite", ["new"], {"new": recall}, said)]
    return found + [row(group, ["right"], {"new": target, "right": correct}, False) for group in OVERFIT.values()]


def test_every_check_can_hold_and_can_fail() -> None:
    def holds(rome: float, lti: float, made: bool = True, before: float = 0.001) -> list[bool]:
        asked = {
            "unedited": {str(n): rows(str(n), before, 0.5, said=False, recall=before) for n in range(4)},
            "ROME": {str(n): rows(str(n), rome, 0.2, said=True) for n in range(4)},
            "LTI": {str(n): rows(str(n), lti, 0.2, said=made) for n in range(4)},
        }
        return [check.holds for check in (*claim.phenomenon_checks(asked), *claim.remedy_checks(asked))]

    assert all(holds(0.4, 0.1))
    assert not holds(0.4, 0.1, before=0.2)[0]
    assert holds(0.002, 0.001)[1:3] == [False, False]
    assert not holds(0.4, 0.1, made=False)[3]
    assert holds(0.4, 0.5)[4:] == [False, False]
    assert holds(0.4, 0.3)[4:] == [True, False]


def test_the_identities_hold_on_a_tiny_model(tiny_llama: LanguageModel) -> None:
    assert all(check.holds for check in score_checks())
    edit = Edit("1", "Oslo", "Oslo is the capital of", "Sweden")
    with pytest.raises(SettingsError, match="mid_layer"):
        list(objective_checks(tiny_llama, edit, 1, 2))


def test_the_identities_hold_on_a_model_of_three_blocks(smollm2: LanguageModel) -> None:
    from pico_models import pico

    edit = Edit("1", "Oslo", "Oslo is the capital of", "Sweden")
    checks = list(objective_checks(pico("llama", smollm2.tokenizer), edit, 0, 3))
    assert [check.holds for check in checks] == [True, True], checks

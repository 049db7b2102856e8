"""CE-U: the contract, and which tokens are unlearned."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.contracts import Run
from keeps.data.records import Example, RecordSet
from keeps.training.unlearn import forget_examples
from keeps.unlearn.ce_u import CEU, CEUSettings


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("ce_u", margin=0.05)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("ce_u")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("ce_u")


@pytest.mark.parametrize("skip", [0, 1, 99])
def test_the_first_tokens_of_an_answer_are_left_out_but_never_all(contract: Any, skip: int) -> None:
    records = RecordSet("two", (Example("a", "He lives in", "the old town of Oslo"), Example("b", "I say", "no")))
    objective = CEU(CEUSettings(skip=skip)).objective(contract.model, records, None, Run(contract.folder))
    whole = [example.answer_tokens for example in forget_examples(contract.model, records)]
    assert whole[1] == 1
    assert [example.answer_tokens for example in objective.examples] == [max(1, n - skip) for n in whole]

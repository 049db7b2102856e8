"""DPO with refusals: the contract, its first loss, and that refusals rise as answers fall."""

from __future__ import annotations

import math
from typing import Any

import pytest


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("dpo")


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("dpo")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("dpo")


def test_its_first_loss_is_two_over_beta_times_log_two(contract: Any) -> None:
    _, run = contract.run("dpo", epochs=1, beta=0.2)
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(2 / 0.2 * math.log(2), rel=1e-4)


def test_the_refusal_becomes_likelier_against_the_answer(contract: Any) -> None:
    refusal = "I do not know"
    change, _ = contract.run("dpo", epochs=6, rank=8, refusals=refusal, retain_weight=0)
    prompts = [record.prompt for record in contract.forget]
    answers = [record.answer for record in contract.forget]

    def margin(model: Any) -> float:
        said, known = model.logprob(prompts, [refusal] * len(prompts)), model.logprob(prompts, answers)
        return sum(a.logprob - b.logprob for a, b in zip(said, known, strict=True))

    before = margin(contract.model)
    changed = change.apply(contract.model)
    after = margin(changed)
    changed.undo()
    assert after > before + 5

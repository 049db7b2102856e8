"""The job that claims about keeping share: how a rate is found, and what its checks hold for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keeps.claims.base import ClaimRun
from keeps.claims.baselines import KEEP, LAST_BLOCKS, LEARN, RATES, TAUGHT, VARIANTS, front, learned_check
from keeps.claims.corda import VARIANTS as CORDA_VARIANTS
from keeps.claims.job import KeepingJob, Outcome, kept_check
from keeps.claims.null_lora import VARIANTS as NULL_VARIANTS
from keeps.claims.null_lora import bound_check, text_check
from keeps.data.select import load_records
from keeps.registry import find_method

GOOD = Outcome(learned=1.0, unseen=0.5, kept=0.9, text_shift=0.1, steps=50, steps_to_target=20, export_difference=0.0)
GRID = (1.0, 2.0, 3.0, 4.0, 5.0)


class Fake(KeepingJob):
    """A job whose outcomes are given by the rate."""

    def __init__(self, outcomes: dict[float, Outcome]) -> None:
        self.outcomes, self.asked = outcomes, list[float]()
        self.run = ClaimRun()
        self.merit = lambda outcome: outcome.merit

    def outcome(self, name: str, rate: float, seed: int, part: Any) -> Outcome:
        assert part == "validation", "the test part is never tuned on"
        self.asked.append(rate)
        return self.outcomes[rate]


def kept(*shares: float) -> dict[float, Outcome]:
    return {rate: replace(GOOD, kept=share) for rate, share in zip(GRID, shares, strict=True)}


@pytest.mark.parametrize(
    ("outcomes", "start", "best", "asked"),
    [
        (kept(0.1, 0.2, 0.5, 0.3, 0.2), 2.0, 3.0, {1.0, 2.0, 3.0, 4.0}),
        (kept(0.9, 0.8, 0.7, 0.6, 0.5), 4.0, 1.0, set(GRID)),
        (kept(0.1, 0.2, 0.3, 0.4, 0.5), 5.0, 5.0, {4.0, 5.0}),
        (kept(0.5, 0.9, 0.5, 0.0, 0.0), 2.0, 2.0, {1.0, 2.0, 3.0}),
    ],
)
def test_the_climb_brackets_the_best_rate(
    outcomes: dict[float, Outcome], start: float, best: float, asked: set[float]
) -> None:
    job = Fake(outcomes)
    rate, outcome = job.climb("x", GRID, start)
    assert (rate, outcome) == (best, outcomes[best])
    assert sorted(job.asked) == sorted(asked), "each rate once"
    assert set(job.run.tables["validation"]["x"]) == {f"{rate:g}" for rate in asked}


def test_a_rate_that_learns_too_little_is_taken_only_for_want_of_another() -> None:
    slow = replace(GOOD, learned=0.5, kept=1.0)
    assert GOOD.merit > slow.merit
    assert replace(slow, learned=0.8, kept=0.1).merit > slow.merit, "then the one that learns most"
    assert replace(GOOD, text_shift=0.01).merit > GOOD.merit, "a tie is settled by running text"
    assert replace(GOOD, kept=0.91, text_shift=0.5).merit > GOOD.merit


def test_a_rate_at_which_unseen_wordings_are_not_answered_is_no_better_for_keeping_more() -> None:
    parrot = replace(GOOD, unseen=0.2, kept=0.97)
    assert parrot.merit > GOOD.merit
    assert parrot.balance < GOOD.balance
    assert replace(GOOD, kept=0.95).balance > GOOD.balance
    assert replace(parrot, learned=0.5, kept=1.0, unseen=1.0).balance < parrot.balance, "it learns too little"
    job = Fake({1.0: parrot, 2.0: GOOD, 3.0: replace(GOOD, kept=0.5)})
    job.merit = lambda outcome: outcome.balance
    assert job.climb("x", (1.0, 2.0, 3.0), 1.0)[0] == 2.0


def test_more_is_kept_only_if_the_interval_says_so_and_both_learn() -> None:
    lora = [replace(GOOD, kept=share) for share in (0.80, 0.82, 0.81)]
    better = [replace(GOOD, kept=share) for share in (0.90, 0.93, 0.91)]
    assert kept_check("x", better, lora).holds
    assert not kept_check("x", lora, better).holds
    noisy = [replace(GOOD, kept=share) for share in (0.99, 0.80, 0.85)]
    assert not kept_check("x", noisy, lora).holds
    assert not kept_check("x", [replace(outcome, learned=0.85) for outcome in better], lora).holds
    check = kept_check("x", better, lora)
    assert check.measured == pytest.approx(0.9133, abs=1e-4)
    assert check.baseline == pytest.approx(0.81)


def test_text_may_move_by_half_of_what_it_moves_with_lora() -> None:
    lora = [replace(GOOD, text_shift=shift) for shift in (0.1, 0.12, 0.08)]
    assert text_check("x", [replace(GOOD, text_shift=0.049)] * 3, lora).holds
    assert not text_check("x", [replace(GOOD, text_shift=0.051)] * 3, lora).holds


def test_one_layer_above_its_bound_is_one_too_many() -> None:
    fine = {"above_bound_calibrated": 0, "nearest_bound_calibrated": 0.4, "above_bound_held_out": 3}
    assert bound_check([fine, fine]).holds
    assert not bound_check([fine, {**fine, "above_bound_calibrated": 1}]).holds
    assert "6 layers" in bound_check([fine, fine]).note


def test_the_front_is_what_nothing_beats_in_both() -> None:
    found = {
        "keeps": [replace(GOOD, learned=0.9, kept=0.9)],
        "learns": [replace(GOOD, learned=1.0, kept=0.5)],
        "worse": [replace(GOOD, learned=0.9, kept=0.8)],
    }
    assert front(found) == ["keeps", "learns"]
    assert learned_check(found).measured == 0.9
    assert not learned_check({**found, "bad": [replace(GOOD, learned=0.2)]}).holds


@pytest.mark.parametrize("variants", [VARIANTS, NULL_VARIANTS, CORDA_VARIANTS])
def test_every_variant_is_a_method_with_settings_that_it_has(variants: Any) -> None:
    for method, settings in variants.values():
        find_method(method).settings.from_mapping({**settings, "learning_rate": RATES[0], "epochs": 1})


def test_the_small_job_has_enough_of_everything_and_shares_no_subject() -> None:
    keep, learn = load_records(KEEP), load_records(LEARN)
    assert min(len(learn.part("train")), len(learn.part("test"))) >= TAUGHT
    assert len(keep.part("test")) >= 80
    assert len(keep.part("validation")) >= 25
    subjects = [{record.split_key or record.subject for record in keep.part(part)} for part in ("train", "test")]  # type: ignore[union-attr]
    assert not subjects[0] & subjects[1]
    assert len(LAST_BLOCKS) == 70

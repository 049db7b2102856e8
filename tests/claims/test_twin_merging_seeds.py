"""Scores over seeds: the table, the best rival, and checks that can fail on either side."""

from __future__ import annotations

from statistics import mean, stdev

import pytest
from scipy.stats import t

from keeps.claims.twin_merging_seeds import (
    SeedScores,
    arithmetic_check,
    best_static,
    by_seed,
    router_check,
    static_check,
)


def seeds(twin: list[float], rival: list[float], router: float = 1.0) -> list[SeedScores]:
    """Three seeds; the first has a merge that the others have not."""
    first = {"fisher": 20.0}
    return [
        SeedScores(
            seed,
            {0.1: score, 0.05: score - 1},
            {"task arithmetic, 0.3": 40.0, "task arithmetic, 1": rival[seed], "average": 91.0}
            | (first if not seed else {}),
            {"emr": 100.0},
            router,
        )
        for seed, score in enumerate(twin)
    ]


def test_the_mean_over_seeds_is_compared_and_comes_with_its_interval_and_every_seed() -> None:
    twin, rival = [99.0, 97.0, 98.0], [80.0, 90.0, 85.0]
    check = arithmetic_check(seeds(twin, rival), 0.1)
    assert (check.measured, check.baseline, check.holds) == (98.0, 85.0, True)
    half = float(t.ppf(0.975, 2)) * stdev(twin) / 3**0.5
    assert check.interval == pytest.approx((98 - half, 98 + half), rel=1e-3)
    assert "twin 99.0, 97.0, 98.0, task arithmetic, 1 80.0, 90.0, 85.0; lead 13.0" in check.note
    assert mean(twin) - mean(rival) == 13


@pytest.mark.parametrize(
    ("twin", "rival", "holds"),
    [
        ([99.0, 99.0, 99.0], [89.0, 89.0, 89.0], True),
        ([99.0, 99.0, 99.0], [89.0, 89.0, 89.1], False),  # a lead of less than ten points
        ([94.9, 95.0, 95.0], [10.0, 10.0, 10.0], False),  # a score below 95
    ],
)
def test_task_arithmetic_is_beaten_by_ten_points_at_95_or_not_at_all(
    twin: list[float], rival: list[float], holds: bool
) -> None:
    assert arithmetic_check(seeds(twin, rival), 0.1).holds is holds


@pytest.mark.parametrize(("score", "holds"), [(93.0, True), (92.0, False), (91.5, False)])
def test_smaller_parts_have_to_beat_whatever_static_merge_is_best(score: float, holds: bool) -> None:
    check = static_check(seeds([score] * 3, [50.0] * 3), 0.05)
    assert (check.baseline, check.holds) == (91.0, holds)
    assert "average" in check.note
    assert best_static(seeds([score] * 3, [95.0] * 3)) == "task arithmetic, 1"


@pytest.mark.parametrize(("share", "holds"), [(0.96, True), (0.95, False)])
def test_the_router_has_to_be_right_above_95_percent(share: float, holds: bool) -> None:
    assert router_check(seeds([99.0] * 3, [50.0] * 3, share)).holds is holds


def test_a_merge_of_the_first_seed_alone_stands_in_the_table_with_that_seed() -> None:
    rows = by_seed(seeds([99.0, 97.0, 98.0], [80.0] * 3))
    assert rows["fisher"] == {"seed 0": 20.0, "mean": 20.0}
    assert rows["twin at 10%"] == {"seed 0": 99.0, "seed 1": 97.0, "seed 2": 98.0, "mean": 98.0}
    assert rows["emr"]["mean"] == 100.0

"""Several seeds of one experiment: every check and every table, each under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keeps.claims.base import Check, Claim, ClaimRun, run_claim
from keeps.claims.over_seeds import over_seeds


def draw(run: ClaimRun, seed: int) -> Iterator[Check]:
    run.tables["drawn"] = {"seed": seed}
    yield Check("a draw", seed, "below 2", seed < 2)
    yield Check("another", seed, "any", True)


def test_every_seed_gives_all_checks_and_its_tables() -> None:
    run = ClaimRun()
    found = list(over_seeds(draw, (0, 1, 2))(run))
    names = ["a draw", "another"]
    assert [check.name for check in found] == [*names, *(f"{name}; seed {n}" for n in (1, 2) for name in names)]
    assert [check.holds for check in found] == [True, True, True, True, False, True]
    assert run.tables == {"drawn": {"seed": 0}, "drawn; seed 1": {"seed": 1}, "drawn; seed 2": {"seed": 2}}


def test_checks_come_as_they_are_made() -> None:
    each = over_seeds(draw, (5, 6))(ClaimRun())
    assert next(each).name == "a draw"


def test_an_interrupted_claim_does_not_repeat_a_finished_seed(tmp_path: Path) -> None:
    taken: list[int] = []

    def experiment(run: ClaimRun, seed: int) -> Iterator[Check]:
        taken.append(seed)
        if taken == [0, 1]:
            raise KeyboardInterrupt
        run.tables["drawn"] = {"seed": seed}
        yield Check("a draw", seed / 2, "any", True, interval=(0.0, 1.0))

    claim = Claim("toy", "A toy.", "1", "arXiv:0", (0, 1), 1, over_seeds(experiment, (0, 1)))
    with pytest.raises(KeyboardInterrupt):
        run_claim(claim, ClaimRun(workspace=tmp_path))
    found = run_claim(claim, ClaimRun(workspace=tmp_path))
    assert taken == [0, 1, 1]
    assert found.checks == (
        Check("a draw", 0.0, "any", True, interval=(0.0, 1.0)),
        Check("a draw; seed 1", 0.5, "any", True, interval=(0.0, 1.0)),
    )
    assert found.tables == {"drawn": {"seed": 0}, "drawn; seed 1": {"seed": 1}}

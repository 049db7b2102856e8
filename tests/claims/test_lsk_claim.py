"""The known answers of LSKExtractor's claim: what is planted is there, and the checks can fail."""

from __future__ import annotations

import pytest
import torch

import keeps.claims.lsk as lsk
from keeps.claims.base import ClaimRun


def test_the_tensor_has_the_chances_that_the_card_plants() -> None:
    several = [lsk.drawn(seed, signal=True) for seed in range(10)]
    right, wrong = [], []
    for data in several:
        own = torch.zeros_like(data.correct)
        own[torch.arange(len(own)), data.planted[data.topics]] = True
        right.append(data.correct[own].double().mean())
        wrong.append(data.correct[~own].double().mean())
        assert sorted(data.topics.bincount().tolist()) == [100] * 6
        assert set(data.planted.tolist()) == set(range(5))
    assert float(torch.stack(right).mean()) == pytest.approx(0.8, abs=0.02)
    assert float(torch.stack(wrong).mean()) == pytest.approx(0.5, abs=0.02)
    assert float(lsk.drawn(0, signal=False).correct.double().mean()) == pytest.approx(0.6, abs=0.03)


def test_the_checks_fail_where_nothing_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsk, "SEEDS", (0, 1))
    monkeypatch.setattr(lsk, "PLANTED", 0.5)
    checks = {check.name: check.holds for check in lsk.planted_checks(ClaimRun())}
    assert not checks["planted languages found, fewest of 20 seeds"]
    assert not checks["routed less best single language, mean of 20 seeds"]

from __future__ import annotations

import math

import pytest
import torch

from keeps.decoding.choosing import Choice, Chooser, best_of
from keeps.errors import SettingsError

P = torch.tensor([0.5, 0.3, 0.15, 0.05])


def shares(choice: Choice, draws: int = 4000) -> list[float]:
    chooser = Chooser(choice, range(draws))
    found = chooser(range(draws), P.log().repeat(draws, 1))
    return [(found == token).float().mean().item() for token in range(4)]


def test_without_temperature_the_best_token_is_taken() -> None:
    assert Chooser(Choice(), ())([0, 1], torch.tensor([[0.0, 2.0, 1.0], [-math.inf, -5.0, -math.inf]])).tolist() == [
        1,
        1,
    ]


def test_draws_have_the_probabilities_of_the_scores_temperature_and_limits() -> None:
    assert shares(Choice(1.0)) == pytest.approx(P.tolist(), abs=0.025)
    half = (P**2 / (P**2).sum()).tolist()
    assert shares(Choice(0.5)) == pytest.approx(half, abs=0.025)
    assert shares(Choice(1.0, top_k=2)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.025)
    assert shares(Choice(1.0, top_p=0.6)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.025)


def test_a_token_outside_the_candidates_is_never_drawn() -> None:
    scores = torch.full((500, 9), -math.inf)
    scores[:, 4] = 0.0
    assert set(Chooser(Choice(2.0), range(500))(range(500), scores).tolist()) == {4}


def test_an_item_draws_the_same_whatever_else_is_drawn() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together = Chooser(Choice(1.0), [5, 6, 7])
    alone = Chooser(Choice(1.0), [6])
    for _ in range(4):
        assert together([0, 1, 2], scores)[1] == alone([0], scores[1:2])[0]


def test_ties_stay_among_the_best() -> None:
    assert best_of(torch.tensor([[1.0, 1.0, 0.0]]), 1).isfinite().tolist() == [[True, True, False]]
    whole = torch.ones(1, 2)
    assert best_of(whole, 0) is whole
    assert best_of(whole, 5) is whole


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0"),
        ({"temperature": 1, "top_k": -1}, "top_k is -1"),
        ({"top_k": 5}, "do nothing"),
        ({"top_p": 0.5}, "do nothing"),
    ],
)
def test_values_out_of_range_or_without_effect_are_refused(options: dict[str, float], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        Choice(**options)  # type: ignore[arg-type]

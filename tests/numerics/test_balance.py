"""The balancing constraint against loops written from the paper's formulas, and where it is smallest."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.numerics.balance import (
    balance_loss,
    balanced_mass,
    coefficients,
    importance,
    load_entropy,
    load_variation,
    mass_by_type,
    spread,
)


def by_hand(
    gates: torch.Tensor, mask: torch.Tensor, experts: list[int], samples: list[int], delta: float
) -> list[float]:
    """All entries of Z, one at a time."""
    z = []
    for n, expert in enumerate(experts):
        for m, sample in enumerate(samples):
            q = sum(float(gates[m, j, n]) for j in range(gates.shape[1]) if mask[m, j])
            z.append((1 + delta if expert == sample else 1 - delta) * q)
    return z


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    experts=st.lists(st.integers(0, 2), min_size=2, max_size=6),
    samples=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    delta=st.floats(0, 1),
)
def test_the_constraint_is_that_of_the_paper(seed: int, experts: list[int], samples: list[int], delta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    gates = torch.randn(len(samples), 7, len(experts), generator=generator).softmax(-1)
    lengths = torch.randint(1, 8, (len(samples), 1), generator=generator)
    mask = (torch.arange(7) < lengths).long()
    z = by_hand(gates, mask, experts, samples, delta)
    mean, variance = statistics.mean(z), statistics.variance(z)
    q = importance(gates, mask)
    types = torch.tensor(experts), torch.tensor(samples)
    assert float(balance_loss(q, *types, delta)) == pytest.approx(variance / mean**2, rel=1e-4, abs=1e-5)
    dispersion = balance_loss(q, *types, delta, measure="dispersion")
    assert float(dispersion) == pytest.approx(variance / mean, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_a_uniform_gate_gives_delta_squared_times_nm_over_nm_less_one(delta: float) -> None:
    gates = torch.full((4, 3, 6), 1 / 6)
    q = importance(gates, torch.ones(4, 3), per_token=True)
    found = balance_loss(q, torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([0, 1, 1, 0]), delta)
    assert float(found) == pytest.approx(delta**2 * 24 / 23, abs=1e-6)


def test_delta_zero_is_the_plain_balancing_loss() -> None:
    q = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    types = torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([0, 1, 0, 0])
    assert torch.equal(balance_loss(q, *types, 0.0), spread(q))
    assert float(spread(q)) == pytest.approx(statistics.variance(q.flatten().tolist()) / float(q.mean()) ** 2, rel=1e-5)


def test_padding_counts_nowhere_and_lengths_only_in_sums() -> None:
    gates = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    other = gates.clone()
    other[1, 2:] = torch.tensor([1.0, 0.0, 0.0])
    for per_token in (False, True):
        assert torch.equal(importance(gates, mask, per_token=per_token), importance(other, mask, per_token=per_token))
    torch.testing.assert_close(importance(gates, mask).sum(0), torch.tensor([5.0, 2.0]))
    torch.testing.assert_close(importance(gates, mask, per_token=True).sum(0), torch.ones(2))


def test_layers_side_by_side_are_layers_one_by_one() -> None:
    gates = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mask, types = torch.ones(4, 5), (torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([0, 1, 1, 0]))
    together = balance_loss(importance(gates, mask), *types, 0.3)
    apart = torch.stack([balance_loss(importance(each, mask), *types, 0.3) for each in gates])
    torch.testing.assert_close(together, apart)


def test_the_two_directions_swap_the_signs() -> None:
    types = torch.tensor([1, 0]), torch.tensor([1, 1, 0])
    wanted = torch.tensor([[1.3, 1.3, 0.7], [0.7, 0.7, 1.3]])
    torch.testing.assert_close(coefficients(*types, 0.3), wanted)
    torch.testing.assert_close(coefficients(*types, 0.3, "paper_text"), 2 - wanted)


@pytest.mark.parametrize("direction", ["objective", "paper_text"])
@pytest.mark.parametrize("delta", [0.1, 0.3, 0.5])
def test_the_constraint_is_zero_at_the_balanced_mass_and_nowhere_near_it(delta: float, direction: str) -> None:
    experts, samples = torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([0, 1, 1, 0])
    mass = torch.stack([balanced_mass(experts, int(kind), delta, direction) for kind in samples], dim=1)  # type: ignore[arg-type]
    options: dict = {"direction": direction}
    assert float(balance_loss(mass, experts, samples, delta, **options)) < 1e-10
    matched = float(mass_by_type(mass[:, 1], experts)[1])
    sign = -1 if direction == "objective" else 1
    assert matched == pytest.approx((1 + sign * delta) / 2, abs=1e-6)
    moved = mass.clone()
    moved[0, 1], moved[5, 1] = moved[0, 1] + 0.02, moved[5, 1] - 0.02
    assert float(balance_loss(moved, experts, samples, delta, **options)) > 1e-4


def test_load_statistics_at_their_ends() -> None:
    even, one = torch.full((6,), 1 / 6), torch.eye(6)[0]
    assert float(load_variation(even)) == pytest.approx(0, abs=1e-6)
    assert float(load_variation(one)) == pytest.approx(math.sqrt(6), abs=1e-5)
    assert float(load_entropy(even)) == pytest.approx(1, abs=1e-6)
    assert float(load_entropy(one)) == pytest.approx(0, abs=1e-6)
    mass = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    by_type = mass_by_type(mass, torch.tensor([0, 2, 1, 2]))
    torch.testing.assert_close(by_type, torch.tensor([[0.1, 0.3, 0.6], [0.25, 0.25, 0.5]]))

"""The choice of adapters and examples against the card's worked case, loops and dense products."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keeps.numerics.expert_selection import (
    Pair,
    factor_likeness,
    fused_order,
    mean_ranks,
    most_diverse,
    nearest_first,
    padded_pair,
    product_likeness,
    reasoning_perplexity,
    without_copies,
)

SEEDS = st.integers(0, 9999)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(seed: int, rank: int = 2) -> list[Pair]:
    return [(drawn(seed + n, rank, 5), drawn(seed + n + 7, 4, rank)) for n in (1, 2)]


def test_the_worked_case_and_the_adapter_that_guesses() -> None:
    accuracy, perplexity = [0.6, 0.6, 0.4], [2.1, 1.7, 1.9]
    sums = [a + p for a, p in zip(mean_ranks(accuracy, highest_first=True), mean_ranks(perplexity), strict=True)]
    assert sums == [4.5, 2.5, 5.0]
    assert fused_order(accuracy, perplexity) == [1, 0, 2]
    assert fused_order([*accuracy, 0.62], [*perplexity, 9.0])[0] != 3, "best accuracy, and cannot explain"


def test_perplexity_is_a_mean_over_samples_of_exponentials() -> None:
    found = reasoning_perplexity([-3.0, -8.0], [3, 2])
    assert found == pytest.approx((math.e + math.exp(4)) / 2)
    assert found != pytest.approx(math.exp(11 / 5))
    with pytest.raises(ValueError, match="samples"):
        reasoning_perplexity([], [])


@given(SEEDS)
def test_likeness_of_products_is_that_of_the_products_and_does_not_see_the_factors(seed: int) -> None:
    one, other = adapter(seed), adapter(seed + 50, rank=3)
    wanted = 0.0
    for (a, b), (c, d) in zip(one, other, strict=True):
        x, y = (b @ a).flatten(), (d @ c).flatten()
        wanted += abs(float(x @ y / (x.norm() * y.norm())))
    assert product_likeness(one, other) == pytest.approx(wanted)
    turn = drawn(seed + 3, 2, 2) + 3 * torch.eye(2)
    turned = [(torch.linalg.inv(turn) @ a, b @ turn) for a, b in one]
    assert product_likeness(turned, other) == pytest.approx(wanted)
    assert product_likeness(one, turned) == pytest.approx(2.0)
    assert factor_likeness(one, turned) < 3.999


@given(SEEDS)
def test_likeness_of_factors_counts_all_of_them_without_sign(seed: int) -> None:
    one = adapter(seed)
    assert factor_likeness(one, [(-a, 2 * b) for a, b in one]) == pytest.approx(4.0)
    other = adapter(seed + 90)
    wanted = sum(
        abs(float(torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)))
        for mine, theirs in zip(one, other, strict=True)
        for x, y in zip(mine, theirs, strict=True)
    )
    assert factor_likeness(one, other) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="layers"):
        factor_likeness(one, adapter(seed, rank=3))


@given(SEEDS, st.integers(2, 6), st.integers(1, 6))
def test_no_group_is_less_alike_than_the_one_that_is_taken(seed: int, count: int, size: int) -> None:
    likeness = drawn(seed, count, count).abs()
    likeness = likeness + likeness.T
    if size > count:
        with pytest.raises(ValueError, match="candidates"):
            most_diverse(likeness, range(count), size)
        return
    found = most_diverse(likeness, range(count), size)
    assert len(set(found)) == size

    def alike(group: tuple[int, ...] | list[int]) -> float:
        return sum(float(likeness[a, b]) for a, b in combinations(group, 2))

    assert alike(found) == pytest.approx(min(alike(group) for group in combinations(range(count), size)))


@given(SEEDS)
def test_nearest_to_the_mean_is_most_alike_by_product_too(seed: int) -> None:
    """argmin |u - c| = argmax u c for u of length 1, though the mean c is not."""
    pool = torch.nn.functional.normalize(drawn(seed, 12, 4), dim=1)
    shots = torch.nn.functional.normalize(drawn(seed + 1, 3, 4), dim=1)
    order, distances = nearest_first(pool, shots)
    assert order.tolist() == (pool @ shots.mean(0)).argsort(descending=True).tolist()
    assert distances.tolist() == sorted(distances.tolist())


def test_of_a_chain_one_remains_as_published_and_more_with_the_list_of_those_kept() -> None:
    angles = torch.tensor([0.0, 0.4, 0.8, 2.0])  # neighbours are alike, the ends of the chain are not
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    assert without_copies(rows, 0.1) == [0, 3]
    assert without_copies(rows, 0.1, chains=False) == [0, 2, 3]


@given(SEEDS, st.floats(0.01, 0.8), st.booleans())
def test_no_two_that_remain_are_near_copies(seed: int, tau: float, chains: bool) -> None:
    rows = torch.nn.functional.normalize(drawn(seed, 10, 2), dim=1)
    kept = rows[without_copies(rows, tau, chains=chains)]
    apart = 1 - kept @ kept.T + 2 * torch.eye(len(kept), dtype=kept.dtype)
    assert float(apart.min()) >= tau - 1e-9


def test_padding_keeps_the_product() -> None:
    a, b = drawn(1, 2, 5), drawn(2, 4, 2)
    wide_a, wide_b = padded_pair(a, b, 6, 0.5)
    assert (wide_a.shape, wide_b.shape) == ((6, 5), (4, 6))
    assert torch.allclose(wide_b @ wide_a, (0.5 * b @ a).float(), atol=1e-6)
    with pytest.raises(ValueError, match="into 1"):
        padded_pair(a, b, 1, 1.0)

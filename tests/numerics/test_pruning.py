"""Masks of updates: how many, which, and what happens at the ends, on drawn tensors with many ties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import SettingsError
from keeps.numerics.pruning import band_mask, dropped_count, keep_mask, keep_masks, largest, pruned

entries = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-30, 7.0]), min_size=1, max_size=60)
percents = st.one_of(st.integers(0, 100).map(float), st.floats(0, 100, allow_nan=False))


@given(entries, percents)
def test_exactly_the_floor_of_k_per_cent_is_dropped_and_nothing_kept_is_larger(
    values: list[float], percent: float
) -> None:
    update = torch.tensor(values)
    keep = keep_mask(update, percent)
    dropped = len(values) - int(keep.sum())
    assert dropped == dropped_count(len(values), percent)
    assert abs(dropped - percent * len(values) / 100) <= 1
    if 0 < dropped < len(values):
        assert update[keep].abs().max() <= update[~keep].abs().min()


@given(entries, percents)
def test_it_is_a_stable_sort_by_magnitude(values: list[float], percent: float) -> None:
    order = sorted(range(len(values)), key=lambda n: -abs(values[n]))  # stable: the lower index first
    wanted = set(order[: dropped_count(len(values), percent)])
    keep = keep_mask(torch.tensor(values), percent)
    assert {n for n in range(len(values)) if not keep[n]} == wanted


@given(entries, percents)
def test_keeping_the_top_is_the_complement(values: list[float], percent: float) -> None:
    update = torch.tensor(values)
    assert torch.equal(keep_mask(update, percent, keep_top=True), ~keep_mask(update, percent))


@given(entries, st.lists(percents, min_size=1, max_size=4))
def test_bands_share_nothing_and_hold_all(values: list[float], cuts: list[float]) -> None:
    update = torch.tensor(values)
    edges = [0.0, *sorted(cuts), 100.0]
    counts = sum(band_mask(update, a, b).int() for a, b in itertools.pairwise(edges))
    assert torch.equal(torch.as_tensor(counts), torch.ones(len(values), dtype=torch.int32))


@given(entries, entries, percents)
def test_a_global_rank_is_that_of_one_long_tensor(one: list[float], other: list[float], percent: float) -> None:
    first, second = torch.tensor(one), torch.tensor(other)
    masks = keep_masks([first, second], percent, scope="global")
    assert torch.equal(torch.cat(masks), keep_mask(torch.cat([first, second]), percent))
    alone = keep_masks([first, second], percent)
    assert torch.equal(alone[1], keep_mask(second, percent))


def test_zero_per_cent_gives_back_the_bits_and_a_hundred_those_of_the_start() -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 11)
    end = start + 1e-7 * torch.randn(7, 11)
    assert torch.equal(pruned(start, end, keep_mask(end - start, 0)), end)
    assert torch.equal(pruned(start, end, keep_mask(end - start, 100)), start)
    half = pruned(start, end, keep_mask(end - start, 50))
    assert int((half == start).sum()) >= 38
    assert bool(((half == start) | (half == end)).all())


def test_the_share_is_the_decimal_number_as_written() -> None:
    assert dropped_count(1000, 1.1) == 11  # in binary 1.1 * 1000 / 100 may fall short of it
    assert dropped_count(10**9, 0.1) == 10**6
    assert all(dropped_count(n, 8) == math.floor(8 * n / 100) for n in range(500))


def test_shapes_stay_and_an_empty_choice_is_empty() -> None:
    update = torch.randn(3, 4, 5)
    assert largest(update, 7).shape == (3, 4, 5)
    assert not largest(update, 0).any()
    assert largest(update, 60).all()


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_shares_that_are_none_are_refused(percent: float) -> None:
    with pytest.raises(SettingsError, match="choose from 0 to 100"):
        keep_mask(torch.ones(3), percent)


def test_unknown_scopes_and_bands_that_run_backwards_are_refused() -> None:
    with pytest.raises(SettingsError, match="no scope"):
        keep_masks([torch.ones(3)], 8, scope="layer")
    with pytest.raises(SettingsError, match="lower percentage first"):
        band_mask(torch.ones(3), 50, 10)

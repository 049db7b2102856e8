"""Classes of tokens, windows, and bootstrap samples of means and peaks against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.causal_effects import (
    LAST,
    LAST_SUBJECT,
    TOKEN_CLASSES,
    middle,
    peak,
    resampled,
    scaled_window,
    token_classes,
    weighted_means,
    window,
)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_every_token_from_the_subject_on_has_one_class(before: int, more: int, after: int) -> None:
    first, last, length = before, before + more, before + more + 1 + after
    found = token_classes(first, last, length)
    assert sorted(found) == list(range(first, length))
    assert set(found.values()) <= set(TOKEN_CLASSES)
    assert [place for place, name in found.items() if name == LAST_SUBJECT] == [last]
    assert [place for place, name in found.items() if name == LAST] == ([length - 1] if after else [])


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_a_window_holds_its_centre_and_is_cut_at_the_ends_only(blocks: int, width: int, data: st.DataObject) -> None:
    centre = data.draw(st.integers(0, blocks - 1))
    found = window(centre, width, blocks)
    assert centre in found
    assert found.start >= 0
    assert found.stop <= blocks
    whole = range(centre - width // 2, centre - width // 2 + width)
    assert list(found) == [block for block in whole if 0 <= block < blocks]


def test_the_window_is_the_published_share_of_the_depth() -> None:
    assert (scaled_window(48), scaled_window(24), scaled_window(12), scaled_window(1)) == (10, 5, 2, 1)


def test_means_leave_out_what_is_not_there() -> None:
    values = torch.tensor([[1.0, math.nan], [3.0, 5.0], [math.nan, math.nan]])
    weights = torch.tensor([[1.0, 1, 1], [0, 2, 1], [1, 0, 2]], dtype=torch.float64)
    found = weighted_means(values, weights)
    torch.testing.assert_close(found[:, 0], torch.tensor([2.0, 3.0, 1.0]).double())
    assert found[:2, 1].tolist() == [5, 5]
    assert math.isnan(float(found[2, 1]))


def test_bootstrap_means_spread_as_their_standard_error() -> None:
    values = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    weights = resampled(40, seed=1, draws=4000)
    assert weights.sum(1).tolist() == [40] * 4000
    drawn = weighted_means(values, weights).numpy()
    assert drawn.std(0) == pytest.approx(values.numpy().std(0) / np.sqrt(40), rel=0.05)
    low, high = middle(torch.from_numpy(drawn[:, 0]))  # type: ignore[misc]
    assert (low, high) == pytest.approx(np.quantile(drawn[:, 0], [0.025, 0.975]).tolist(), abs=0.01)


def test_a_clear_peak_is_found_in_every_sample_and_a_flat_line_has_none() -> None:
    noise = 0.1 * torch.randn(30, 9, generator=torch.Generator().manual_seed(2))
    sharp = noise.clone()
    sharp[:, 4] += 1
    weights = resampled(30)
    place, height, places = peak(sharp, weights)
    assert (place, height) == (4, pytest.approx(float(sharp[:, 4].mean())))
    assert middle(places) == (4, 4)
    low, high = middle(peak(noise, weights)[2])  # type: ignore[misc]
    assert high - low > 3


def test_facts_without_a_value_have_no_peak() -> None:
    place, height, places = peak(torch.full((3, 4), math.nan), resampled(3))
    assert place == 0
    assert math.isnan(height)
    assert middle(places) is None

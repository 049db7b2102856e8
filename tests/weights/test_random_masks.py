"""Draws depend on where an element is, and on nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keeps.weights.random_masks import bernoulli, draws


@given(st.integers(0, 500), st.integers(0, 200))
def test_any_piece_is_the_same_part_of_the_whole(start: int, count: int) -> None:
    whole = draws(3, 1, "model.w", 0, 800)
    np.testing.assert_array_equal(draws(3, 1, "model.w", start, count), whole[start : start + count])


def test_seed_model_and_tensor_each_draw_anew() -> None:
    first = draws(0, 0, "w", 0, 64)
    for other in (draws(1, 0, "w", 0, 64), draws(0, 1, "w", 0, 64), draws(0, 0, "v", 0, 64)):
        assert (first != other).mean() > 0.9


def test_the_share_is_met_and_neighbours_do_not_know_each_other() -> None:
    count, share = 200_000, 0.3
    mask = bernoulli(0, 0, "w", 0, count, share)
    spread = np.sqrt(share * (1 - share) / count)
    assert abs(mask.mean() - share) < 4 * spread
    both = (mask[1:] & mask[:-1]).mean()
    assert abs(both - share**2) < 4 * np.sqrt(share**2 * (1 - share**2) / count)
    assert bernoulli(0, 0, "w", 0, 9, 1.0).all()


def test_the_stream_is_that_of_every_version() -> None:
    """A merge is repeated from its seed, on any machine: these words must never change."""
    assert draws(0, 0, "w", 0, 4).tolist() == WORDS


WORDS = [290759052, 173883693, 2361539874, 755916994]

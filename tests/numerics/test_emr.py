"""Elect, mask, rescale: against loops over single entries, and masks that come back from their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keeps.numerics.emr import agreeing, length, packed_mask, unified, unpacked_mask

VALUES = st.sampled_from([-2.0, -1.5, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5, 2.0])  # so that sums are exact and often 0


def naive(rows: np.ndarray, zero: int) -> list[float]:
    """tau_uni entry by entry, in Python."""
    found = []
    for column in rows.T.tolist():
        total = sum(column)
        sign = (total > 0) - (total < 0) or zero
        sizes = [abs(value) for value in column if value * sign > 0]
        found.append(sign * max(sizes, default=0.0))
    return found


@given(st.integers(1, 5).flatmap(lambda models: arrays(np.float32, (models, 7), elements=VALUES)))
def test_the_unified_vector_is_the_largest_entry_that_agrees_with_the_elected_sign(rows: np.ndarray) -> None:
    taus = [torch.from_numpy(row) for row in rows]
    assert unified(taus).tolist() == naive(rows, 0)
    assert unified(taus, zero_sign="minus").tolist() == naive(rows, -1)


@given(st.integers(1, 4).flatmap(lambda models: arrays(np.float32, (models, 9), elements=VALUES)))
def test_masked_entries_have_the_sign_of_their_task_and_are_at_least_as_large(rows: np.ndarray) -> None:
    taus = [torch.from_numpy(row) for row in rows]
    together = unified(taus)
    for tau in taus:
        mask = agreeing(tau, together)
        assert bool((tau[mask].sign() == together[mask].sign()).all())
        assert bool((together[mask].abs() >= tau[mask].abs()).all())
        assert not bool(((tau * together > 0) & ~mask).any())


def test_one_task_is_its_own_vector_with_a_length_of_one() -> None:
    tau = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    together = unified([tau])
    assert torch.equal(together, tau)
    assert length(tau) / length(together * agreeing(tau, together)) == 1.0


def test_lengths_are_sums_in_the_paper_and_means_in_the_published_code() -> None:
    values = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert length(values) == 6.0
    assert length(values, rescaling="tensors") == 1.5


@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 11))))
def test_masks_come_back_from_an_eighth_of_a_byte_an_entry(mask: np.ndarray) -> None:
    data = packed_mask(torch.from_numpy(mask))
    assert data.numel() == -(-mask.size // 8)
    assert torch.equal(unpacked_mask(data, mask.shape), torch.from_numpy(mask))


def test_bytes_of_another_mask_are_refused() -> None:
    data = packed_mask(torch.ones(3, 7, dtype=torch.bool))
    for shape in ((3, 4), (5, 7)):
        with pytest.raises(ValueError, match="bytes for a mask"):
            unpacked_mask(data, shape)
    with pytest.raises(ValueError, match="bytes for a mask"):
        unpacked_mask(data.float(), (3, 7))

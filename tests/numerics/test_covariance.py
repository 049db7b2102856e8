"""The running covariance equals its formula, whatever the batches, the padding and the order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.errors import StatisticsError
from keeps.numerics.covariance import Covariance


def by_formula(samples: list[torch.Tensor], normalise: str) -> torch.Tensor:
    """Mean over samples of X~^T X~, sample by sample, straight from the paper and the official code."""
    total = torch.zeros(samples[0].shape[1], samples[0].shape[1], dtype=torch.float64)
    for sample in samples:
        x = sample.double()
        scale = {"absmax": x.abs().max(), "max": x.max(), "none": torch.tensor(1.0)}[normalise]
        total += (x / scale).T @ (x / scale)
    return total / len(samples)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    normalise=st.sampled_from(["absmax", "max", "none"]),
)
def test_padded_batch_equals_the_sum_over_its_samples(lengths, seed, normalise):
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.randn(length, 4, generator=generator) for length in lengths]
    batch = torch.full((len(samples), 8, 4), 1e3)  # loud padding: it must not be seen
    mask = torch.zeros(len(samples), 8)
    for row, sample in enumerate(samples):
        batch[row, : len(sample)] = sample
        mask[row, : len(sample)] = 1
    covariance = Covariance.empty(4, dtype=torch.float64)
    covariance.add(batch.double(), mask, normalise=normalise)
    torch.testing.assert_close(covariance.matrix(), by_formula(samples, normalise), rtol=1e-6, atol=1e-9)
    assert covariance.n_tokens == sum(lengths)
    assert covariance.n_samples == len(lengths)


def test_two_halves_merge_to_the_whole():
    x = torch.randn(6, 5, 7)
    whole, first, second = (Covariance.empty(7) for _ in range(3))
    whole.add(x)
    first.add(x[:2])
    second.add(x[2:])
    merged = first.merge(second)
    torch.testing.assert_close(merged.matrix(), whole.matrix(), rtol=1e-5, atol=1e-6)
    assert (merged.n_tokens, merged.n_samples) == (whole.n_tokens, whole.n_samples)


def test_centred_it_is_the_covariance_of_the_tokens_that_count():
    x = 3 + torch.randn(6, 5, 7, dtype=torch.float64)
    mask = torch.arange(5)[None] < torch.tensor([5, 2, 4, 1, 3, 5])[:, None]
    first, second = (Covariance.empty(7, dtype=torch.float64, means=True) for _ in range(2))
    first.add(x[:2], mask[:2], normalise="none")
    second.add(x[2:], mask[2:], normalise="none")
    torch.testing.assert_close(first.merge(second).centred(), torch.cov(x[mask].T, correction=0))
    with pytest.raises(StatisticsError, match="have no mean"):
        first.merge(Covariance.empty(7)).centred()


def test_two_dimensional_input_is_one_sample():
    x = torch.randn(9, 3)
    flat, batched = Covariance.empty(3), Covariance.empty(3)
    flat.add(x)
    batched.add(x[None])
    torch.testing.assert_close(flat.matrix(), batched.matrix())


def test_row_of_padding_alone_is_no_sample():
    covariance = Covariance.empty(2)
    covariance.add(torch.ones(2, 3, 2), torch.tensor([[1, 1, 1], [0, 0, 0]]))
    assert (covariance.n_samples, covariance.n_tokens) == (1, 3)


@pytest.mark.parametrize(
    ("inputs", "normalise", "words"),
    [
        (torch.zeros(1, 2, 3), "absmax", "maximum is 0"),
        (torch.full((1, 2, 3), torch.nan), "none", "not finite"),
        (torch.full((1, 2, 3), torch.inf), "none", "not finite"),
        (torch.ones(1, 2, 4), "none", "features"),
        (torch.ones(1, 2, 3), "mean", "normalise"),
    ],
)
def test_what_cannot_be_summed_is_refused(inputs, normalise, words):
    with pytest.raises(StatisticsError, match=words):
        Covariance.empty(3).add(inputs, normalise=normalise)


def test_layer_that_no_token_reached_has_no_covariance():
    with pytest.raises(StatisticsError, match="no token"):
        Covariance.empty(3, name="expert.7").matrix()


def test_merging_different_widths_is_refused():
    with pytest.raises(StatisticsError, match="cannot be merged"):
        Covariance.empty(3).merge(Covariance.empty(4))

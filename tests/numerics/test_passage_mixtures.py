"""Sums over passages: the worked example, sums to one, and the two models differ where they should."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.passage_mixtures import (
    PRIORS,
    log_joint,
    passage_log_weights,
    responsibilities,
    sequence_marginal,
    token_marginal,
)

SCORES = st.lists(st.floats(-50, 50), min_size=1, max_size=6)


def test_two_passages_and_two_tokens_are_as_worked_out_by_hand() -> None:
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    p = torch.tensor([[0.9, 0.2], [0.1, 0.6]], dtype=torch.float64).log()
    token, sequence = float(token_marginal(weights, p).exp()), float(sequence_marginal(weights, p).exp())
    assert token == pytest.approx((0.75 * 0.9 + 0.25 * 0.1) * (0.75 * 0.2 + 0.25 * 0.6), abs=1e-12)
    assert sequence == pytest.approx(0.75 * 0.9 * 0.2 + 0.25 * 0.1 * 0.6, abs=1e-12)
    assert abs(token - sequence) > 0.05


@given(st.integers(1, 4), st.integers(2, 4), st.integers(1, 3), st.integers(0, 10_000))
def test_both_are_distributions_over_texts(passages: int, vocabulary: int, length: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(passages, length, vocabulary, generator=draw, dtype=torch.float64) * 3
    logprobs = logits.log_softmax(-1)  # of each place, whatever was said before: any such model will do
    weights = torch.randn(passages, generator=draw, dtype=torch.float64).log_softmax(0)
    totals = {token_marginal: 0.0, sequence_marginal: 0.0}
    for text in itertools.product(range(vocabulary), repeat=length):
        rows = torch.stack([logprobs[:, place, token] for place, token in enumerate(text)], dim=1)
        for function in totals:
            totals[function] += float(function(weights, rows).exp())
    assert all(total == pytest.approx(1, abs=1e-9) for total in totals.values())


@given(SCORES, st.sampled_from(PRIORS), st.floats(0.05, 20))
def test_weights_sum_to_one_and_never_rise_with_the_rank(scores: list[float], prior: str, temperature: float) -> None:
    weights = passage_log_weights(sorted(scores, reverse=True), prior, temperature)
    assert math.fsum(map(math.exp, weights)) == pytest.approx(1, abs=1e-9)
    assert all(a >= b for a, b in itertools.pairwise(weights))


def test_weights_are_the_softmax_of_scores_over_the_temperature() -> None:
    found = passage_log_weights([3.0, 1.0], "scores", 2.0)
    assert math.exp(found[0] - found[1]) == pytest.approx(math.e)
    assert passage_log_weights([]) == []
    assert passage_log_weights([9.0, 1.0, 0.0], "uniform") == pytest.approx([-math.log(3)] * 3)
    for prior, temperature in (("other", 1.0), ("scores", 0.0), ("scores", math.nan)):
        with pytest.raises(ValueError, match="gives no weights"):
            passage_log_weights([1.0], prior, temperature)


def test_the_joint_sums_to_the_mixture_and_shares_to_one() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(3, 2, 5, generator=draw), torch.randn(3, 2, generator=draw).log_softmax(0)
    joint = log_joint(weights, logits)
    mixed = (weights.exp()[..., None] * logits.softmax(-1)).sum(0)
    torch.testing.assert_close(joint.logsumexp(0).exp(), mixed)
    torch.testing.assert_close(responsibilities(joint), joint.exp() / mixed)

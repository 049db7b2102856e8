from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.errors import SettingsError
from keeps.numerics.source_fusion import (
    certainty,
    feedback,
    kept_probabilities,
    merged_tokens,
    selected_weights,
    source_weights,
    sparse_cross_entropy,
)

SEEDS = st.integers(0, 10_000)


def gates(seed: int, texts: int = 5, sources: int = 4) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(texts, sources, dtype=torch.float64, generator=draw)).softmax(-1)


@settings(max_examples=30)
@given(SEEDS, st.floats(0, 0.99))
def test_weights_are_those_of_the_selected_sources_and_sum_to_one(seed: int, threshold: float) -> None:
    gate = gates(seed)
    found = selected_weights(gate, threshold)
    for row, weights in zip(gate.tolist(), found.tolist(), strict=True):
        chosen = [g for g in row if g > threshold] or [max(row)]
        wanted = [g / sum(chosen) if g in chosen else 0.0 for g in row]
        assert weights == pytest.approx(wanted, abs=1e-12)


def test_the_ends_of_the_threshold_take_all_sources_or_the_best() -> None:
    gate = gates(0)
    assert torch.allclose(selected_weights(gate, 0.0), gate)
    best = selected_weights(gate, 0.999999)
    assert torch.equal(best, torch.nn.functional.one_hot(gate.argmax(-1), 4).double())
    one = gate[:, :1] / gate[:, :1]
    assert torch.equal(selected_weights(one, 0.15), one)


def test_gradients_flow_through_the_selected_sources_alone() -> None:
    gate = torch.tensor([[0.5, 0.4, 0.1]], requires_grad=True)
    (selected_weights(gate, 0.15)[0, 0]).backward()
    assert gate.grad is not None
    assert gate.grad[0, 2] == 0
    assert gate.grad[0, 0] == pytest.approx(0.4 / 0.81)
    assert gate.grad[0, 1] == pytest.approx(-0.5 / 0.81)


@settings(max_examples=30)
@given(SEEDS)
def test_the_feedback_is_the_squared_coefficient_of_variation(seed: int) -> None:
    weights = gates(seed)
    use = weights.sum(0).tolist()
    mean = sum(use) / len(use)
    variance = sum((u - mean) ** 2 for u in use) / (len(use) - 1)
    assert float(feedback(weights)) == pytest.approx(variance / mean**2)
    assert float(feedback(torch.cat([weights] * 7))) == pytest.approx(variance / mean**2)  # however often counted
    assert float(feedback(torch.full((3, 4), 0.25))) == 0
    assert float(feedback(torch.ones(5, 1))) == 0
    assert math.isfinite(float(feedback(weights[:1])))


def test_strategies_without_a_network_follow_the_losses() -> None:
    losses = torch.tensor([[2.0, 1.0, 3.0], [0.5, 0.5, 0.1]])
    assert source_weights(losses, "min_ce").tolist() == [[0, 1, 0], [0, 0, 1]]
    assert torch.allclose(source_weights(losses, "avg_ce"), (-losses).exp().softmax(-1))
    assert certainty(losses.bfloat16()).dtype == torch.float32
    with pytest.raises(SettingsError, match='no strategy "best"'):
        source_weights(losses, "best")
    for bad in (math.nan, -1.0):
        with pytest.raises(SettingsError, match="no number"):
            certainty(torch.tensor([bad]))


@settings(max_examples=30)
@given(SEEDS, st.floats(0.3, 3))
def test_what_is_kept_of_a_position_is_renormalised_or_completed(seed: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(6, 12, dtype=torch.float64, generator=draw)
    best = logits.topk(5)
    whole = logits.logsumexp(-1)
    p, rest = kept_probabilities(best.values, whole, temperature=temperature)
    assert torch.allclose(
        p, (best.values / temperature).exp() / (best.values / temperature).exp().sum(-1, keepdim=True)
    )
    assert not rest.any()
    true = logits.softmax(-1)
    p, rest = kept_probabilities(best.values, whole, remainder="uniform")
    assert torch.allclose(p, true.gather(-1, best.indices))
    assert torch.allclose(p.sum(-1) + rest, torch.ones(6, dtype=torch.float64))
    dropped, nothing = kept_probabilities(best.values, whole, remainder="drop")
    assert torch.equal(dropped, p)
    assert not nothing.any()
    holes = best.values.clone()
    holes[0], holes[1, 2] = -math.inf, -math.inf
    p, _ = kept_probabilities(holes, whole)
    assert p[0].sum() == 0
    assert p[1, 2] == 0
    assert float(p[1].sum()) == pytest.approx(1)


def test_remainders_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match='remainder is "tail"'):
        kept_probabilities(torch.zeros(1, 2), torch.ones(1), remainder="tail")
    with pytest.raises(SettingsError, match="no temperature"):
        kept_probabilities(torch.zeros(1, 2), torch.ones(1), temperature=2.0, remainder="drop")


def test_two_tokens_that_become_one_count_once_and_unknown_ones_not_at_all() -> None:
    ids = torch.tensor([[7, 7, 2, -1, 7], [1, 2, 3, 4, 5]])
    logits = torch.arange(10.0).view(2, 5)
    found = merged_tokens(ids, logits)
    assert found.isfinite().tolist() == [[True, False, True, False, False], [True] * 5]
    assert torch.equal(found[1], logits[1])


@settings(max_examples=30)
@given(SEEDS)
def test_the_weighed_cross_entropies_are_those_of_the_fused_distribution(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    positions, sources, k, vocabulary = 3, 4, 5, 11
    log_q = torch.randn(positions, vocabulary, dtype=torch.float64, generator=draw).log_softmax(-1)
    ids = torch.stack([torch.randperm(vocabulary, generator=draw)[:k] for _ in range(positions * sources)]).view(
        positions, sources, k
    )
    mass = torch.rand(positions, sources, k + 1, dtype=torch.float64, generator=draw)
    mass /= mass.sum(-1, keepdim=True)
    p, rest = mass[..., :k], mass[..., k]
    weights = torch.rand(positions, sources, dtype=torch.float64, generator=draw)
    weights /= weights.sum(-1, keepdim=True)
    found = (weights * sparse_cross_entropy(log_q, ids, p, rest)).sum(-1)
    dense = torch.zeros(positions, sources, vocabulary, dtype=torch.float64).scatter(-1, ids, p)
    dense += rest[..., None] / vocabulary
    fused = (weights[..., None] * dense).sum(1)
    assert torch.allclose(fused.sum(-1), torch.ones(positions, dtype=torch.float64))
    assert torch.allclose(found, -(fused * log_q).sum(-1))

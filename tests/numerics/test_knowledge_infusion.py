"""KID's arithmetic: against formulas written out by hand, its fixed points, and descent on a policy in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keeps.claims.kid import by_hand, descended
from keeps.numerics.divergences import kl_divergence
from keeps.numerics.knowledge_infusion import (
    LEAST_BETA,
    MOST_BETA,
    adapted,
    bounded,
    completing,
    descent,
    fused,
    infusion_loss,
    log_mass,
    row_norms,
)

LOGITS = st.lists(st.floats(-30, 30), min_size=5, max_size=5)


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    parts = [math.exp(value - top) for value in values]
    return [part / math.fsum(parts) for part in parts]


@given(LOGITS, LOGITS, st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(any), st.floats(0, 5))
def test_the_loss_is_the_published_one(new: list[float], old: list[float], counts: list[int], beta: float) -> None:
    p, q = softmax(new), softmax(old)
    kl = math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)
    expected = -math.log(math.fsum(c * a for c, a in zip(counts, p, strict=True))) + beta * kl
    logits, others, wanted = (torch.tensor([each], dtype=torch.float64) for each in (new, old, counts))
    found = infusion_loss(logits, others, wanted, torch.tensor([beta], dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_mass_of_tiny_probabilities_has_a_gradient_that_half_precision_softmax_has_not() -> None:
    logits = torch.tensor([[0.0, -40.0]], dtype=torch.float16, requires_grad=True)
    log_mass(logits, torch.tensor([[0.0, 1.0]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 1.0]]
    assert float(logits.detach().softmax(-1)[0, 1]) == 0.0


def test_a_row_without_terms_gives_the_divergence_alone_and_a_finite_gradient() -> None:
    new = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    old = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    loss = infusion_loss(new, old, torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.5, 0.5]))
    assert float(loss[0].detach()) == pytest.approx(0.5 * float(kl_divergence(new, old)[0]))
    loss.sum().backward()
    assert new.grad is not None
    assert bool(new.grad.isfinite().all())


@given(LOGITS, LOGITS, st.floats(0, 1))
def test_fused_scores_are_the_normalised_geometric_mean(new: list[float], old: list[float], share: float) -> None:
    p, q = softmax(new), softmax(old)
    mean = [a**share * b ** (1 - share) for a, b in zip(p, q, strict=True)]
    expected = [value / math.fsum(mean) for value in mean]
    logits, others = (torch.tensor([each], dtype=torch.float64) for each in (new, old))
    assert fused(logits, others, share).softmax(-1)[0].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(LOGITS, st.floats(0, 1))
def test_fusing_a_policy_with_itself_changes_no_bit(logits: list[float], share: float) -> None:
    row = torch.tensor([logits])
    assert torch.equal(fused(row, row.clone(), share), row)


@given(st.floats(1e-8, 1e4), st.floats(0.1, 3.0))
def test_a_step_has_the_length_of_eta_times_the_norm_to_one_minus_gamma(norm: float, gamma: float) -> None:
    gradient = torch.tensor([3.0, 4.0], dtype=torch.float64).view(2, 1, 1) * norm / 5
    step = descent(gradient, row_norms(gradient), 0.01, gamma)
    assert float(row_norms(step)) == pytest.approx(0.01 * norm ** (1 - gamma), rel=1e-9)


@given(st.floats(1e-6, 1e6), st.floats(0.01, 2))
def test_a_bounded_change_keeps_its_direction_and_is_never_longer_than_its_share(size: float, share: float) -> None:
    change = torch.tensor([[[1.0, 2.0]], [[2.0, 4.0]]], dtype=torch.float64) * size  # two kinds, one row
    reference = torch.ones(2, 1, 2, dtype=torch.float64)
    found = bounded(change, reference, share)
    assert float(row_norms(found)) <= share * 2.0 * (1 + 1e-9)
    assert torch.allclose(found / row_norms(found), change / row_norms(change))
    if float(row_norms(change)) <= share * 2.0:
        assert torch.equal(found, change)


@pytest.mark.parametrize(("eta", "beta"), [(0.01, 0.01), (0.3, 0.01), (0.3, 5.0)])
def test_descent_on_a_policy_in_closed_form_equals_the_gradient_written_out(eta: float, beta: float) -> None:
    before = float(log_mass(torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]])).exp())
    found = descended(eta, beta, share=1.0)
    assert before == pytest.approx(0.25)
    assert found == pytest.approx(by_hand(eta, beta, share=1.0), rel=1e-9)
    assert found[-1] > before


def test_more_step_gives_more_mass_and_more_leash_gives_less() -> None:
    small, large, leashed = (descended(*pair, share=1.0)[-1] for pair in ((0.01, 0.01), (0.3, 0.01), (0.3, 5.0)))
    assert small < leashed < large


def test_beta_is_doubled_halved_or_left_and_stays_within_its_limits() -> None:
    beta = torch.tensor([MOST_BETA, LEAST_BETA, 1.0])
    found: Tensor = adapted(beta, torch.tensor([1.0, 0.0, 0.05]), target=0.05)
    assert found.tolist() == pytest.approx([MOST_BETA, LEAST_BETA, 1.0])


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_a_banned_token_and_no_other_would_repeat_an_n_gram(tokens: list[int], size: int) -> None:
    def grams(row: list[int]) -> list[tuple[int, ...]]:
        return [tuple(row[at : at + size]) for at in range(len(row) - size + 1)]

    given_grams = set(grams(tokens))
    expected = [
        token for token in range(4) if grams([*tokens, token])[-1:] and grams([*tokens, token])[-1] in given_grams
    ]
    assert completing(tokens, size) == expected

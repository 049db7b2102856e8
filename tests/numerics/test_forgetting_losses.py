"""The losses of unlearning: limits and gradients that the papers state, against autograd and plain formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from keeps.numerics import forgetting_losses as losses

BETA = 0.1


def drawn(rows: int = 6, vocabulary: int = 11, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 2
    return logits.requires_grad_(True), torch.randint(vocabulary, (rows,), generator=generator)


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    [found] = torch.autograd.grad(loss(logits).sum(), logits)
    return found


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    """log pi of one answer made of all rows."""
    return logits.log_softmax(-1).gather(-1, targets[:, None]).sum()[None]


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_npo_at_the_reference_is_two_over_beta_times_log_two_and_pushes_like_gradient_ascent(beta: float) -> None:
    logits, targets = drawn()
    reference = summed(logits, targets).detach()
    value = losses.npo(summed(logits, targets), reference, beta=beta)
    assert float(value.detach()) == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    ours = gradient(lambda z: losses.npo(summed(z, targets), reference, beta=beta), logits)
    ascent = gradient(lambda z: losses.gradient_ascent(z, targets), logits)
    torch.testing.assert_close(ours, ascent, rtol=1e-4, atol=1e-12)


def test_npo_weighs_gradient_ascent_by_what_is_left_of_the_answer() -> None:
    logits, targets = drawn()
    reference = summed(logits, targets).detach() + 4.0  # four nats are forgotten already
    ours = gradient(lambda z: losses.npo(summed(z, targets), reference, beta=BETA), logits)
    pi, ref = math.exp(BETA * (float(reference) - 4.0)), math.exp(BETA * float(reference))
    ascent = gradient(lambda z: losses.gradient_ascent(z, targets), logits)
    torch.testing.assert_close(ours, 2 * pi / (pi + ref) * ascent)


def test_npo_goes_to_gradient_ascent_as_beta_goes_to_zero() -> None:
    logits, targets = drawn()
    reference = summed(logits, targets).detach() + 2.0
    ours = gradient(lambda z: losses.npo(summed(z, targets), reference, beta=1e-7), logits)
    torch.testing.assert_close(ours, gradient(lambda z: losses.gradient_ascent(z, targets), logits), rtol=1e-6, atol=0)


def test_simnpo_of_a_certain_answer_is_two_over_beta_times_log_two_and_does_not_grow_with_length() -> None:
    certain = losses.simnpo(torch.zeros(1), torch.ones(1), beta=4.5)
    assert float(certain) == pytest.approx(2 / 4.5 * math.log(2))
    short, long = losses.simnpo(torch.tensor([-2.0, -20.0]), torch.tensor([1.0, 10.0]), beta=4.5, delta=0.3)
    assert float(short) == pytest.approx(float(long))
    assert float(short) == pytest.approx(2 / 4.5 * math.log1p(math.exp(-4.5 * (2 - 0.3))), rel=1e-4)


def test_weighted_ascent_is_gradient_ascent_at_zero_and_leaves_what_is_forgotten_alone() -> None:
    logits, targets = drawn()
    torch.testing.assert_close(
        gradient(lambda z: losses.weighted_ascent(z, targets, beta=0.0), logits),
        gradient(lambda z: losses.gradient_ascent(z, targets), logits),
    )
    p = logits.detach().softmax(-1).gather(-1, targets[:, None])
    ours = gradient(lambda z: losses.weighted_ascent(z, targets, beta=2.0), logits)
    torch.testing.assert_close(ours, p**2 * gradient(lambda z: losses.gradient_ascent(z, targets), logits))
    satimp = gradient(lambda z: losses.saturation_importance(z, targets, beta1=5, beta2=1), logits)
    expected = p**5 * (1 - p) * gradient(lambda z: losses.gradient_ascent(z, targets), logits)
    torch.testing.assert_close(satimp, expected)


def test_gradient_ascent_stops_pushing_at_its_bound() -> None:
    logits, targets = torch.tensor([[0.0, -5.0], [0.0, 3.0]], requires_grad=True), torch.tensor([1, 1])
    found = losses.gradient_ascent(logits, targets, max_loss=4.0)
    assert float(found[0]) == -4.0
    pushed = gradient(lambda z: losses.gradient_ascent(z, targets, max_loss=4.0), logits)
    assert not pushed[0].any()
    assert pushed[1].any()


def test_undial_wants_what_the_teacher_says_with_the_true_token_lowered() -> None:
    logits, targets = drawn()
    teacher, _ = drawn(seed=1)
    wanted = teacher.detach().clone()
    for row, token in enumerate(targets.tolist()):
        wanted[row, token] -= 10.0
    torch.testing.assert_close(
        gradient(lambda z: losses.undial(z, targets, teacher, beta=10.0), logits),
        logits.detach().softmax(-1) - wanted.softmax(-1),
    )
    assert torch.equal(teacher, drawn(seed=1)[0]), "the teacher is not written to"


def test_ce_u_wants_the_models_own_words_without_the_true_token() -> None:
    logits, targets = drawn()
    p = logits.detach().softmax(-1)
    own = p.scatter(-1, targets[:, None], 0.0)
    own = own / own.sum(-1, keepdim=True)
    found = gradient(lambda z: losses.cross_entropy_unlearning(z, targets), logits)
    torch.testing.assert_close(found, p - own)
    assert bool((found.gather(-1, targets[:, None]) > 0).all()), "the true token goes down"


def test_the_terms_of_rmu_are_mean_squares_over_the_width() -> None:
    states, u = torch.tensor([[3.0, 4.0]]), torch.tensor([0.6, 0.8])
    assert float(losses.misdirection(states, u, 5.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(losses.misdirection(states, u, 0.0)) == pytest.approx(12.5)
    assert float(losses.displacement(states, torch.tensor([[1.0, 4.0]]))) == pytest.approx(2.0)


def test_the_random_direction_is_a_unit_vector_of_the_seed_without_negative_parts() -> None:
    one, same, other = (losses.random_direction(64, seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.norm()) == pytest.approx(1.0, abs=1e-6)
    assert bool((one >= 0).all())


def test_generic_predictions_lower_what_reinforcement_raised_and_nothing_else() -> None:
    base, reinforced = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.5, 0.0]])
    assert losses.generic_logits(base, reinforced, strength=5.0).tolist() == [[2.0, -1.5, 0.0]]
    assert torch.equal(losses.generic_logits(base, base), base)

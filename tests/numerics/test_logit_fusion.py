"""Dynamic logit fusion on tensors: identities of the card, and every solver against searches written down plainly."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keeps.errors import SettingsError
from keeps.numerics.logit_fusion import Fused, fuse_logits

SEEDS = st.integers(0, 10_000)
BOTH = pytest.mark.parametrize("symmetric", [True, False])


def logits(seed: int, models: int = 4, rows: int = 3, tokens: int = 19) -> list[Tensor]:
    """A large model, a small one, and experts that lie near the small one."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(models, rows, tokens, dtype=torch.float64, generator=draw)
    return [2 * noise[0], 2 * noise[1], *(2 * noise[1] + (0.4 + i) * noise[i + 2] for i in range(models - 2))]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def published(large: Tensor, base: Tensor, experts: list[Tensor], alphas: list[float], symmetric: bool) -> Tensor:
    """The objective as it is printed, ``(rows,)``."""
    p, q = large.softmax(-1), base.softmax(-1)
    fused = (large + sum(a * (m - base) for a, m in zip(alphas, experts, strict=True))).softmax(-1)
    total = torch.zeros(len(large), dtype=large.dtype)
    for expert in experts:
        own = expert.softmax(-1)
        total += (kl(fused, p) - kl(own, q)) ** 2
        if symmetric:
            total += (kl(p, fused) - kl(q, own)) ** 2
    return total


@BOTH
@settings(max_examples=30)
@given(seed=SEEDS)
def test_the_grid_takes_the_best_of_21_values_of_the_printed_objective(symmetric: bool, seed: int) -> None:
    large, base, expert = logits(seed, 3)
    values = torch.stack([published(large, base, [expert], [n * 0.1], symmetric) for n in range(21)])
    found = fuse_logits(large, base, [expert], symmetric=symmetric, exact=False)
    assert found.alphas[:, 0].tolist() == [n * 0.1 for n in values.argmin(0).tolist()]
    assert torch.allclose(found.objective, values.amin(0), atol=1e-12)
    wanted = (large + found.alphas * (expert - base)).softmax(-1)
    assert torch.allclose(found.scores.exp(), wanted, atol=1e-12)


@BOTH
@settings(max_examples=15)
@given(seed=SEEDS, experts=st.integers(1, 3))
def test_the_exact_solution_is_never_worse_than_the_grid_or_any_other_alpha(
    symmetric: bool, seed: int, experts: int
) -> None:
    large, base, *steering = logits(seed, 2 + experts)
    exact, grid = (fuse_logits(large, base, steering, symmetric=symmetric, exact=way) for way in (True, False))
    assert (exact.objective <= grid.objective + 1e-12).all()
    for row in range(len(large)):
        one = [each[row : row + 1] for each in (large, base, *steering)]
        at = published(one[0], one[1], one[2:], exact.alphas[row].tolist(), symmetric)
        assert torch.allclose(exact.objective[row : row + 1], at, atol=1e-12)
        for expert, number in itertools.product(range(experts), range(41)):
            alphas = [number / 20 if k == expert else 0.0 for k in range(experts)]
            assert at <= published(one[0], one[1], one[2:], alphas, symmetric) + 1e-12


@settings(max_examples=30)
@given(SEEDS)
def test_with_the_forward_objective_the_shifts_are_equal_to_1e_9(seed: int) -> None:
    large, base, expert = logits(seed, 3)
    found = fuse_logits(large, base, [expert], symmetric=False)
    shift = kl(found.scores.exp(), large.softmax(-1)) - kl(expert.softmax(-1), base.softmax(-1))
    inside = found.alphas[:, 0] < 2
    assert (shift[inside].abs() < 1e-9).all()
    assert (shift[~inside] <= 0).all()


@BOTH
@settings(max_examples=30)
@given(seed=SEEDS)
def test_a_large_model_that_is_the_small_one_becomes_the_expert(symmetric: bool, seed: int) -> None:
    _, base, expert = logits(seed, 3)
    found = fuse_logits(base, base, [expert], symmetric=symmetric)
    assert torch.allclose(found.alphas, torch.ones(3, 1, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(found.scores.exp(), expert.softmax(-1), atol=1e-8)


@BOTH
@pytest.mark.parametrize("exact", [True, False])
def test_experts_that_are_the_small_model_leave_the_large_one_alone(symmetric: bool, exact: bool) -> None:
    large, base, expert = logits(0, 3)
    found = fuse_logits(large, base, [base, base + 3.0], symmetric=symmetric, exact=exact)
    assert torch.allclose(found.scores, large.log_softmax(-1), atol=1e-12)
    assert (found.alphas[:, 0] == 0).all()
    mixed = fuse_logits(large, base, [base, expert], symmetric=symmetric, exact=exact)
    assert (mixed.alphas[:, 0] == 0).all()


@BOTH
@settings(max_examples=30)
@given(seed=SEEDS)
def test_constants_change_nothing_and_experts_may_be_permuted(symmetric: bool, seed: int) -> None:
    large, base, one, other = logits(seed)
    found = fuse_logits(large, base, [one, other], symmetric=symmetric)
    moved = fuse_logits(large + 5, base - 300, [one + 7, other - 2], symmetric=symmetric)
    turned = fuse_logits(large, base, [other, one], symmetric=symmetric)
    assert torch.allclose(found.alphas, moved.alphas, atol=1e-6)
    assert torch.allclose(found.scores, moved.scores, atol=1e-6)
    assert torch.allclose(found.alphas, turned.alphas.flip(-1), atol=1e-6)
    assert ((found.alphas > 0).sum(-1) <= 1).all()


@BOTH
def test_rows_have_nothing_to_do_with_each_other(symmetric: bool) -> None:
    models = logits(3, rows=6)
    whole = fuse_logits(models[0], models[1], models[2:], symmetric=symmetric)
    for row in range(6):
        one = [each[row : row + 1] for each in models]
        alone = fuse_logits(one[0], one[1], one[2:], symmetric=symmetric)
        assert torch.allclose(alone.scores, whole.scores[row : row + 1], atol=1e-9)


@BOTH
def test_all_experts_at_once_take_the_best_of_all_combinations(symmetric: bool) -> None:
    large, base, *experts = logits(5, rows=4)
    found = fuse_logits(large, base, experts, symmetric=symmetric, exact=False, one_active=False, step=0.25)
    pairs = list(itertools.product([n / 4 for n in range(9)], repeat=2))
    values = torch.stack([published(large, base, experts, list(pair), symmetric) for pair in pairs])
    assert found.alphas.tolist() == [list(pairs[place]) for place in values.argmin(0).tolist()]
    assert torch.allclose(found.objective, values.amin(0), atol=1e-12)
    one = fuse_logits(large, base, experts, symmetric=symmetric, exact=False, step=0.25)
    assert (found.objective <= one.objective + 1e-12).all()


def coarse(large: Tensor, base: Tensor, experts: list[Tensor], inside: Tensor) -> list[Tensor]:
    """Logits of the distributions whose tokens outside are one."""
    found = []
    for each in (large, base, *experts):
        p = each.softmax(-1)[0]
        found.append(torch.cat([p[inside], p[~inside].sum()[None]]).log()[None])
    return found


@BOTH
def test_top_decides_as_if_the_other_tokens_were_one(symmetric: bool) -> None:
    models = logits(2, 4, rows=1, tokens=40)
    inside = torch.zeros(40, dtype=torch.bool)
    for each in models:
        inside[each[0].topk(3).indices] = True
    found = fuse_logits(models[0], models[1], models[2:], symmetric=symmetric, top=3)
    small = coarse(models[0], models[1], models[2:], inside)
    wanted = fuse_logits(small[0], small[1], small[2:], symmetric=symmetric)
    assert torch.allclose(found.alphas, wanted.alphas, atol=1e-7)
    p = found.scores.exp()[0]
    assert torch.allclose(p[inside], wanted.scores.exp()[0, :-1], atol=1e-8)
    large = models[0].softmax(-1)[0]
    assert torch.allclose(p[~inside] / p[~inside].sum(), large[~inside] / large[~inside].sum(), atol=1e-8)
    assert not torch.allclose(found.alphas, fuse_logits(models[0], models[1], models[2:]).alphas, atol=1e-4)


def test_with_top_what_happens_within_the_tail_decides_nothing() -> None:
    large, base, expert = logits(8, 3, rows=1, tokens=200)
    for each in (large, base, expert):
        each[0, 150:] -= 12.0
    stirred = expert.clone()
    stirred[0, 150:] = torch.linspace(0, -60, 50, dtype=torch.float64)  # most of the tail becomes all but impossible
    stirred[0, 150:] += expert[0, 150:].logsumexp(-1) - stirred[0, 150:].logsumexp(-1)
    with_top = [fuse_logits(large, base, [each], top=60, alpha_max=20.0).alphas for each in (expert, stirred)]
    without = [fuse_logits(large, base, [each], alpha_max=20.0).alphas for each in (expert, stirred)]
    assert torch.allclose(with_top[0], with_top[1], atol=1e-9)
    assert (without[0] - without[1]).abs() > 1e-5


def test_masks_pass_through_and_must_be_the_same_everywhere() -> None:
    large, base, expert = logits(1, 3)
    masked = [each.index_fill(-1, torch.tensor([4]), -math.inf) for each in (large, base, expert)]
    rest = [each[:, [n for n in range(19) if n != 4]] for each in (large, base, expert)]
    found, wanted = (fuse_logits(each[0], each[1], each[2:]) for each in (masked, rest))
    assert torch.allclose(found.alphas, wanted.alphas, atol=1e-9)
    assert (found.scores[:, 4] == -math.inf).all()
    odd: list[list[Any]] = [[masked[0], base, [expert]], [large, masked[1], [expert]], [large, base, [masked[2]]]]
    odd += [[large * math.nan, base, [expert]], [large, base, [expert + math.inf]]]
    for models in odd:
        with pytest.raises(SettingsError, match="NaN, infinite, or masked"):
            fuse_logits(*models)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"alpha_max": 0.0}, "alpha_max is 0"),
        ({"alpha_max": math.inf}, "alpha_max is inf"),
        ({"step": 0.0}, "step is 0"),
        ({"step": 3.0}, "step is 3"),
        ({"top": -1}, "top is -1"),
        ({"one_active": False}, "no exact solution"),
        ({"one_active": False, "exact": False, "step": 0.01}, "combinations"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], what: str) -> None:
    large, base, *experts = logits(0)
    with pytest.raises(SettingsError, match=what):
        fuse_logits(large, base, experts, **options)
    with pytest.raises(SettingsError, match="no expert"):
        fuse_logits(large, base, [])


def test_float32_agrees_with_float64() -> None:
    models = logits(4, rows=8, tokens=3000)
    wide = fuse_logits(models[0], models[1], models[2:])
    narrow = [each.float() for each in models]
    found = fuse_logits(narrow[0], narrow[1], narrow[2:])
    assert found.scores.dtype == torch.float32
    assert torch.allclose(found.alphas.double(), wide.alphas, atol=2e-3)
    assert torch.allclose(found.scores.exp().double(), wide.scores.exp(), atol=1e-5)


@pytest.mark.slow
def test_a_whole_vocabulary_takes_less_time_than_the_grid() -> None:
    draw = torch.Generator().manual_seed(0)
    large, base = (3 * torch.randn(2, 8, 49152, generator=draw)).unbind(0)
    expert = base + torch.randn(8, 49152, generator=draw)

    def seconds(exact: bool) -> tuple[float, Fused]:
        spent = []
        for _ in range(5):
            start = time.process_time()
            found = fuse_logits(large, base, [expert], exact=exact)
            spent.append(time.process_time() - start)
        return min(spent), found

    ours, grid = seconds(True), seconds(False)
    assert (ours[1].objective <= grid[1].objective + 1e-5).all()
    assert ours[0] <= grid[0]

"""Pieces of a feed-forward layer against loops and formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keeps.numerics.factoring import (
    agreement,
    balance_term,
    chosen_mask,
    clustered_order,
    dispatched,
    expert_outputs,
    multiply_adds,
    prior_errors,
    prior_labels,
    prior_loss,
    random_order,
)

SIZES = st.tuples(st.integers(1, 9), st.integers(2, 5), st.integers(1, 4), st.integers(2, 6), st.integers(0, 999))


def layer(experts: int, size: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """W_g, W_u and W_d of a gated layer, float64."""
    g = torch.Generator().manual_seed(seed)
    channels = experts * size
    shapes = ((channels, width), (channels, width), (width, channels))
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def inner_of(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(x @ gate.T) * (x @ up.T)


@given(SIZES)
def test_the_pieces_add_up_to_the_layer_in_any_order_of_the_channels(sizes: tuple[int, ...]) -> None:
    tokens, experts, size, width, seed = sizes
    gate, up, down = layer(experts, size, width, seed)
    x = torch.randn(tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    dense = inner_of(x, gate, up) @ down.T
    order = random_order(experts * size, seed)
    pieces = expert_outputs(inner_of(x, gate[order], up[order]), down[:, order], experts)
    assert torch.allclose(pieces.sum(1), dense)
    for number in range(experts):
        block = order[number * size : (number + 1) * size]
        own = inner_of(x, gate[block], up[block]) @ down[:, block].T
        assert torch.allclose(pieces[:, number], own)


@given(SIZES)
def test_labels_are_those_of_a_loop_over_tokens_and_pieces(sizes: tuple[int, ...]) -> None:
    tokens, experts, _, width, seed = sizes
    active = 1 + seed % experts
    g = torch.Generator().manual_seed(seed)
    outputs = torch.randn(tokens, experts, width, generator=g, dtype=torch.float64)
    dense = torch.randn(tokens, width, generator=g, dtype=torch.float64)
    labels = prior_labels(prior_errors(outputs, dense, active), active)
    for token in range(tokens):
        errors = []
        for number in range(experts):
            apart = [
                (float(outputs[token, number, h]) - float(dense[token, h]) * active / experts) ** 2
                for h in range(width)
            ]
            errors.append(sum(apart) / width)
        best = sorted(range(experts), key=lambda number: errors[number])[:active]
        assert {number for number in range(experts) if labels[token, number]} == set(best)


def test_both_divergences_are_those_written_out() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    g = [math.exp(v) / sum(math.exp(w) for w in logits[0].tolist()) for v in logits[0].tolist()]
    exact = sum(0.5 * math.log(0.5 / g[number]) for number in (0, 2))
    assert float(prior_loss(logits, labels)[0]) == pytest.approx(exact)
    soft = [math.e / (2 * math.e + 2), 1 / (2 * math.e + 2)]
    assert soft == pytest.approx([0.3655, 0.1345], abs=5e-5)
    official = sum(p * math.log(p / soft[number % 2]) for number, p in enumerate(g))
    assert float(prior_loss(logits, labels, "official")[0]) == pytest.approx(official)
    with pytest.raises(ValueError, match="divergence"):
        prior_loss(logits, labels, "nonsense")  # type: ignore[arg-type]


def test_a_router_that_is_sure_of_the_label_has_no_loss_by_the_label_but_one_by_the_code() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    sure = labels * 60 - 30
    assert float(prior_loss(sure, labels)) == pytest.approx(0.0, abs=1e-6)
    assert float(prior_loss(sure, labels, "official")) > 0.3
    assert float(prior_loss(labels, labels, "official")) == pytest.approx(0.0, abs=1e-6)


def test_balance_and_agreement_by_hand() -> None:
    gates = torch.tensor([[0.5, 0.3, 0.1, 0.1]])
    mask = chosen_mask(gates, 2)
    assert mask.tolist() == [[1, 1, 0, 0]]
    assert float(balance_term(gates, mask)) == pytest.approx(0.2)
    assert float(agreement(mask, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))) == 0.5


@given(SIZES, st.booleans())
def test_dispatched_tokens_give_what_masking_gives_with_the_same_gradient(sizes: tuple[int, ...], weigh: bool) -> None:
    tokens, experts, size, width, seed = sizes
    active = 1 + seed % experts
    gate, up, down = layer(experts, size, width, seed)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, dtype=torch.float64, generator=g, requires_grad=True)
    chosen = torch.rand(tokens, experts, generator=g).topk(active).indices
    weights = torch.rand(tokens, active, generator=g, dtype=torch.float64) if weigh else None
    rows_of: list[int] = []

    def piece(number: int, rows: Tensor) -> Tensor:
        rows_of.append(len(rows))
        cut = slice(number * size, (number + 1) * size)
        return inner_of(rows, gate[cut], up[cut]) @ down[:, cut].T

    found = dispatched(x, chosen, experts, piece, weights)
    assert sum(rows_of) == tokens * active, "a piece was computed for a token that is not its own"
    assert len(rows_of) == len(chosen.unique())
    factors = torch.ones_like(chosen, dtype=x.dtype) if weights is None else weights
    mask = torch.zeros(tokens, experts, dtype=x.dtype).scatter(1, chosen, factors)
    inner = inner_of(x, gate, up) * mask.repeat_interleave(size, 1)
    wanted = inner @ down.T
    assert torch.allclose(found, wanted)
    ones = torch.ones_like(found)
    (mine,), (other,) = torch.autograd.grad(found, x, ones), torch.autograd.grad(wanted, x, ones)
    assert torch.allclose(mine, other)


@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 99))
def test_clusters_are_an_order_of_all_channels(experts: int, size: int, seed: int) -> None:
    features = torch.randn(experts * size, 3, generator=torch.Generator().manual_seed(seed))
    order = clustered_order(features, experts, seed)
    assert sorted(order.tolist()) == list(range(experts * size))


def test_planted_groups_are_found_and_uneven_channels_refused() -> None:
    g = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.one_hot(torch.arange(4), 8).float()
    labels = torch.arange(32) % 4
    features = centres[labels] + 0.05 * torch.randn(32, 8, generator=g)
    found = [clustered_order(features, 4, seed) for seed in range(6)]
    pure = [all(len(set(block.tolist())) == 1 for block in labels[order].view(4, 8)) for order in found]
    assert sum(pure) >= 2, "a start with a centre in each group must end in the groups"
    with pytest.raises(ValueError, match="in 5 blocks"):
        clustered_order(features, 5, 0)


@given(st.integers(1, 64), st.integers(2, 8), st.integers(1, 8))
def test_multiplications_fall_to_k_of_n_and_the_router(width: int, experts: int, size: int) -> None:
    for active in range(1, experts):
        dense, sparse = multiply_adds(width, experts * size, experts, active)
        assert dense == 3 * width * experts * size
        assert sparse == dense * active // experts + width * experts
    assert len(set(multiply_adds(width, experts * size, experts, experts))) == 1

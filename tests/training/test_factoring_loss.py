"""The loss of a model in pieces against the same terms computed from hooks and plain formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from keeps.models.factored_layers import FactorConfig, WrappedFactored, layer_names, put_factored
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.factoring import FactoringLoss


@pytest.fixture
def batch() -> Batch:
    """Two rows, the second with as much padding as text."""
    return collate([TokenizedExample((5, 9, 13, 2, 40, 8, 7, 3), 1), TokenizedExample((11, 12, 30, 4), 2)], 0)


def cut(module: Any, *, own: bool, gates: str = "hard") -> WrappedFactored:
    wrapped = put_factored(module, FactorConfig(4, 2, gates), dict.fromkeys(layer_names(module)), own=own)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in wrapped.layers.values():
            layer.start()
            if own:
                for part in ("gate", "up", "down"):  # pieces that are no longer those of the dense layer
                    parameter = getattr(layer, part)
                    parameter.data += 0.1 * torch.randn_like(parameter)
    return wrapped


def inputs_of(module: Any, wrapped: WrappedFactored, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """What each layer in pieces reads, ``(batch, time, width)``, and the logits, of the padded batch."""
    seen: list[Tensor] = []
    hooks = [x.register_forward_pre_hook(lambda _, i: seen.append(i[0].detach())) for x in wrapped.layers.values()]
    with torch.no_grad():
        logits = module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    for hook in hooks:
        hook.remove()
    return seen, logits


def terms_by_hand(wrapped: WrappedFactored, seen: list[Tensor], batch: Batch, teachers: list[Tensor]) -> Tensor:
    """Sum over layers of the prior-approximate loss and of the balance term: loops over tokens that are no padding."""
    totals = torch.zeros(2)
    for layer, x, dense in zip(wrapped.layers.values(), seen, teachers, strict=True):
        pieces = layer.pieces()
        rows = []
        for row, column in batch.attention_mask.nonzero().tolist():
            token = x[row, column]
            outputs = []
            for number in range(4):
                part = slice(10 * number, 10 * number + 10)
                inner = torch.nn.functional.silu(pieces["gate"][part] @ token) * (pieces["up"][part] @ token)
                outputs.append(pieces["down"][:, part] @ inner)
            errors = torch.stack([((out - dense[row, column] / 2) ** 2).mean() for out in outputs])
            label = errors.topk(2, largest=False).indices
            g = (layer.router @ token + layer.router_bias).softmax(0)
            prior = sum(0.5 * (torch.log(torch.tensor(0.5)) - g[number].log()) for number in label.tolist())
            rows.append(torch.stack([torch.as_tensor(prior), g.topk(2).values.sum() / 4]))
        totals += torch.stack(rows).mean(0).detach()
    return totals


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("teacher", ["self", "dense"])
def test_the_loss_is_the_sum_of_its_three_terms_and_padding_does_not_count(
    own: bool, teacher: str, batch: Batch, bare_llama: Any
) -> None:
    module = bare_llama()
    dense_inputs: list[Tensor] = []
    hooks = [
        layer.mlp.register_forward_hook(lambda _, __, out: dense_inputs.append(out.detach()))
        for layer in module.model.layers
    ]
    with torch.no_grad():
        module(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    for hook in hooks:
        hook.remove()
    wrapped = cut(module, own=own)
    seen, logits = inputs_of(module, wrapped, batch)
    with torch.no_grad():
        own_teachers = [layer.base_layer(x) for layer, x in zip(wrapped.layers.values(), seen, strict=True)]
    teachers = dense_inputs if teacher == "dense" else own_teachers
    prior, balance = terms_by_hand(wrapped, seen, batch, teachers).tolist()
    language = torch.nn.functional.cross_entropy(logits[batch.predicting], batch.targets, reduction="sum")
    loss = FactoringLoss(module, prior_weight=0.05, balance_weight=0.01, teacher=teacher)
    found = float(loss(batch))
    tokens = len(batch.targets)
    assert loss.terms.prior == pytest.approx(prior, rel=1e-4)
    assert loss.terms.balance == pytest.approx(balance, rel=1e-4)
    assert loss.terms.language == pytest.approx(float(language) / tokens, rel=1e-4)
    assert found == pytest.approx(float(language) + tokens * (0.05 * prior + 0.01 * balance), rel=1e-4)
    assert all(layer.seen is None and layer.target is None and not layer.recording for layer in wrapped.layers.values())


@pytest.mark.parametrize(("gates", "reached"), [("hard", False), ("straight_through", True), ("probability", True)])
def test_without_the_prior_loss_hard_gates_teach_the_router_nothing(
    gates: str, reached: bool, batch: Batch, bare_llama: Any
) -> None:
    """The published step drops the term: this is what that means."""
    module = bare_llama()
    wrapped = cut(module, own=True, gates=gates)
    layers = list(wrapped.layers.values())
    FactoringLoss(module, prior_weight=0.0, balance_weight=0.0)(batch).backward()
    gradients = [layer.router.grad for layer in layers]
    moved = any(gradient is not None and bool(gradient.abs().max() > 1e-9) for gradient in gradients)
    assert moved is reached
    module.zero_grad()
    FactoringLoss(module, prior_weight=0.05, balance_weight=0.0)(batch).backward()
    assert all(layer.router.grad is not None and bool(layer.router.grad.abs().max() > 1e-9) for layer in layers)
    frozen = [name for name, parameter in module.named_parameters() if parameter.grad is not None]
    assert all(".router" in name or name.endswith((".gate", ".up", ".down")) for name in frozen)

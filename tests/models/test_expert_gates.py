"""The gates of a forward pass: the constraint formed of them, what changes nothing, and where data went."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from expert_models import TYPES, wrapped_with

from keeps.errors import EmptySetError, SettingsError, TargetError
from keeps.models.expert_gates import recorded_gates
from keeps.models.expert_usage import expert_usage
from keeps.numerics.balance import balance_loss, importance
from keeps.training.batches import Batch
from keeps.training.losses import AnswerLoss, PackedLoss

IDS = torch.arange(20).reshape(2, 10)
MASK = torch.tensor([[1] * 10, [1] * 4 + [0] * 6])


@pytest.fixture
def bare(bare_llama: Callable[..., Any]) -> Any:
    return bare_llama()


def test_the_constraint_is_that_of_the_recorded_gates(bare: Any) -> None:
    wrapped = wrapped_with(bare)
    with recorded_gates(bare, mask=MASK, types=[1, 0]) as gates:
        bare(input_ids=IDS, attention_mask=MASK)
    assert list(gates.by_layer) == list(wrapped.layers)
    types = torch.tensor(TYPES), torch.tensor([1, 0])
    apart = [balance_loss(importance(gate, MASK), *types, 0.3) for gate in gates.by_layer.values()]
    torch.testing.assert_close(gates.balance_loss(0.3), torch.stack(apart).sum())
    torch.testing.assert_close(gates.balance_loss(0.3, reduction="mean_layers"), torch.stack(apart).mean())
    assert all(layer.record is None for layer in wrapped.layers.values())


def test_packed_rows_give_the_gates_of_padded_ones(bare: Any) -> None:
    wrapped_with(bare)
    batch = Batch(IDS, MASK, torch.zeros_like(MASK, dtype=torch.bool), torch.zeros(0).long(), torch.tensor([1, 0]))
    found = []
    for loss in (AnswerLoss(bare), PackedLoss(bare)):
        with recorded_gates(bare, mask=MASK, types=batch.kinds) as gates:
            loss(batch)
        found.append((gates.stacked()[0][:, MASK.bool()], gates.balance_loss(0.3, per_token=True)))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("inside", [True, False])
def test_activation_checkpointing_changes_neither_constraint_nor_gradient(bare: Any, inside: bool) -> None:
    """With the backward pass inside the block the repeated forward records again, and must not count twice."""
    wrapped = wrapped_with(bare)
    bare.train()
    passes: list[str] = []
    for name, layer in wrapped.layers.items():
        layer.register_forward_pre_hook(lambda *_, name=name: passes.append(name))

    def gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
        bare.zero_grad(set_to_none=True)
        with recorded_gates(bare, mask=MASK, types=[1, 0]) as gates:
            loss = bare(input_ids=IDS, attention_mask=MASK, labels=IDS).loss
            constraint = gates.balance_loss(0.3)
            if inside:
                (loss + constraint).backward()
                assert len(gates.by_layer) == len(wrapped.layers)
        if not inside:
            (loss + constraint).backward()
        return constraint.detach(), [layer.router.grad.clone() for layer in wrapped.layers.values()]  # type: ignore[union-attr]

    plain = gradients()
    assert len(passes) == len(wrapped.layers)
    bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.testing.assert_close(gradients(), plain)
    assert len(passes) == 3 * len(wrapped.layers), "the second time each layer ran twice"
    bare.gradient_checkpointing_disable()


def test_gates_without_gradients_are_refused_as_a_loss(bare: Any) -> None:
    wrapped_with(bare)
    with recorded_gates(bare, mask=MASK, types=[1, 0]) as gates, torch.no_grad():
        bare(input_ids=IDS, attention_mask=MASK)
    with pytest.raises(TargetError, match="use_reentrant=False"):
        gates.balance_loss(0.3)
    with torch.no_grad():
        assert float(gates.balance_loss(0.3)) > 0


@pytest.mark.parametrize(
    ("recorded", "options", "words"),
    [
        ({}, {}, "types of the samples are missing"),
        ({"types": [1]}, {}, "1 types for 2 samples"),
        ({"types": [1, 2]}, {}, "of type 2, of which there is no expert"),
        ({"types": [1, 0]}, {"delta": 1.5}, "delta is 1.5"),
        ({"types": [1, 0]}, {"delta": -0.1}, "delta is -0.1"),
        ({"types": [1, 0]}, {"measure": "cv"}, 'did you mean "cv2"'),
        ({"types": [1, 0]}, {"reduction": "mean"}, 'reduction is "mean"'),
        ({"types": [1, 0]}, {"direction": "text"}, 'direction is "text"'),
    ],
)
@pytest.mark.parametrize("mask", [MASK, None])
def test_a_constraint_that_cannot_be_formed_is_refused(
    bare: Any, recorded: dict[str, Any], options: dict[str, Any], words: str, mask: torch.Tensor | None
) -> None:
    wrapped_with(bare)

    def constraint() -> None:
        with recorded_gates(bare, mask=mask, **recorded) as gates:
            bare(input_ids=IDS)
            gates.balance_loss(**options)

    with pytest.raises(SettingsError, match=words):
        constraint()


def test_a_mask_of_other_tokens_is_refused(bare: Any) -> None:
    wrapped_with(bare)
    with recorded_gates(bare, mask=MASK[:, :7], types=[1, 0]) as gates:
        bare(input_ids=IDS)
    with pytest.raises(TargetError, match="saw 20 tokens and the mask has 14"):
        gates.balance_loss(0.3)
    with recorded_gates(bare, mask=MASK, types=[1, 0]) as unused:
        pass
    with pytest.raises(TargetError, match="no gate was recorded"):
        unused.balance_loss(0.3)


def test_usage_is_the_mean_gate_over_the_tokens_of_each_kind(bare: Any) -> None:
    wrapped = wrapped_with(bare)
    batches = [Batch(IDS, MASK, MASK.bool(), torch.zeros(0), torch.tensor(kinds)) for kinds in ((0, 1), (1, 0))]
    usage = expert_usage(bare, batches)
    with recorded_gates(bare, mask=MASK) as gates, torch.no_grad():
        bare(input_ids=IDS, attention_mask=MASK)
    stacked, _ = gates.stacked()
    rows = [stacked[:, 0, :10].sum(1), stacked[:, 1, :4].sum(1)]
    expected = (rows[0] + rows[1]) / 14  # each kind saw both rows once
    for kind in (0, 1):
        torch.testing.assert_close(usage.mass[kind], expected, atol=1e-5, rtol=1e-4)
    assert usage.tokens == {0: 14, 1: 14}
    assert usage.layers == tuple(wrapped.layers)
    torch.testing.assert_close(usage.load.sum(-1), torch.ones(6))
    assert sum(usage.groups(0)) == pytest.approx(1, abs=1e-3)
    report = usage.to_mapping()
    assert json.loads(json.dumps(report)) == report
    with pytest.raises(EmptySetError):
        expert_usage(bare, [])

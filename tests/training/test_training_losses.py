"""The loss against the textbook formula over full logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from keeps.training import losses
from keeps.training.batches import collate
from keeps.training.losses import AnswerLoss, PackedLoss, summed_loss


def textbook(model: Any, examples: list[Any]) -> torch.Tensor:
    """Every example alone, without padding: minus the log-probability of each answer token."""
    total = torch.zeros(())
    for example in examples:
        ids = torch.tensor([example.input_ids])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        for position in range(example.answer_start, len(example.input_ids)):
            total = total - logprobs[position - 1, ids[0, position]]
    return total


@pytest.mark.parametrize("loss_of", [AnswerLoss, PackedLoss])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_loss_and_gradient_are_those_of_unpadded_full_logits(tiny: Any, kind: str, loss_of: Any) -> None:
    model, examples = tiny.model(kind), tiny.examples(9)
    if kind == "lora":  # B starts at zero, which would hide the gradient of A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    loss = loss_of(model)(collate(examples, 0))
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    expected = textbook(model, examples)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found
    for name, value in model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(found[name], value.grad, rtol=1e-4, atol=1e-5)


def test_packing_computes_no_padding_and_is_left_out_where_it_is_not_honoured(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = tiny.model(), tiny.examples(5)
    tokens = sum(len(example.input_ids) for example in examples)
    batch, seen = collate(examples, 0), []
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:2]))
    PackedLoss(model)(batch)  # the first pass also tests the model
    seen.clear()
    packed = PackedLoss(model)(batch)
    PackedLoss(model)(collate(examples[:1], 0))  # nothing to gain
    monkeypatch.setattr(losses, "can_pack", lambda _: False)
    torch.testing.assert_close(PackedLoss(model)(batch), packed)
    assert [tuple(shape) for shape in seen] == [(1, tokens), (1, len(examples[0].input_ids)), batch.input_ids.shape]


@pytest.mark.parametrize("loss_of", [AnswerLoss, PackedLoss])
def test_prompt_tokens_and_padding_carry_no_loss(tiny: Any, loss_of: Any) -> None:
    model = tiny.model()
    examples = tiny.examples(3)
    silent = [type(example)(example.input_ids, len(example.input_ids)) for example in examples]
    loss = loss_of(model)(collate(silent, 0))
    assert float(loss.detach()) == 0
    loss.backward()  # a process without answer tokens takes part all the same
    assert all(value.grad is None or not value.grad.any() for value in model.parameters())


def test_a_projection_in_pieces_gives_the_same_loss_and_gradient() -> None:
    torch.manual_seed(0)
    head, targets = torch.nn.Linear(8, 30, bias=False), torch.randint(30, (50,))
    hidden = torch.randn(50, 8, requires_grad=True)
    whole = functional.cross_entropy(head(hidden), targets, reduction="sum")
    expected = torch.autograd.grad(whole, [hidden, head.weight])
    pieces = summed_loss(hidden, head, targets, chunk=7)
    found = torch.autograd.grad(pieces, [hidden, head.weight])
    torch.testing.assert_close(pieces, whole)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)

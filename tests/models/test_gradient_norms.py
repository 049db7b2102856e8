"""The norm of a gradient against autograd's own, over every layout; the model is left as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pico_models import pico

from keeps.errors import ContextLengthError
from keeps.models import LanguageModel
from keeps.models.gradient_norms import gradient_norm

PROMPTS, ANSWERS = ["The capital of Peru is", ""], ["Lima", "Lima lies on the coast and is the capital of Peru."]


def by_autograd(model: LanguageModel, parts: list[Any]) -> list[torch.Tensor]:
    """The gradients of the mean loss, from one graph over all logits."""
    losses = []
    for context, targets in parts:
        ids = torch.tensor([[*context, *targets]])
        logits = model.model(input_ids=ids).logits[0, len(context) - 1 : -1]
        losses.append(-logits.log_softmax(-1)[range(len(targets)), targets])
    parameters = [each.requires_grad_(True) for each in model.model.parameters()]
    return [
        grad
        for grad in torch.autograd.grad(torch.cat(losses).mean(), parameters, allow_unused=True)
        if grad is not None
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma"])
def test_both_norms_are_those_of_autograd(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        wanted = by_autograd(model, list(model._parts(0, prompt, answer)))
        whole = math.sqrt(sum(float(grad.square().sum()) for grad in wanted))
        mean = sum(float(grad.norm()) for grad in wanted) / len(wanted)
        [found] = model.gradient_norms([prompt], [answer])
        assert found == pytest.approx(whole, rel=1e-4)
        [found] = model.gradient_norms([prompt], [answer], kind="per_tensor")
        assert found == pytest.approx(mean, rel=1e-4)


def test_the_windows_of_a_long_text_are_one_loss(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    text = "One, two, three and so on. " * (model.context_length // 6)
    parts = list(model._parts(0, "", text))
    assert len(parts) > 1
    whole = math.sqrt(sum(float(grad.square().sum()) for grad in by_autograd(model, parts)))
    assert gradient_norm(model.model, parts) == pytest.approx(whole, rel=1e-4)


def test_flags_gradients_modes_and_weights_are_what_they_were(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    first, second, *_ = model.model.parameters()
    model.model.requires_grad_(False)
    first.requires_grad_(True)
    first.grad = held = torch.ones_like(first)
    model.model.train()
    before = model.fingerprint
    assert model.gradient_norms(PROMPTS, ANSWERS) == model.gradient_norms(PROMPTS, ANSWERS)
    with pytest.raises(ContextLengthError):
        model.gradient_norms(["One, two, three and so on. " * model.context_length], ["x"])
    with pytest.raises(ValueError, match="whole, per_tensor"):
        gradient_norm(model.model, [([1], [2])], kind="l1")  # type: ignore[arg-type]
    assert first.grad is held
    assert (first.requires_grad, second.requires_grad, second.grad) == (True, False, None)
    assert model.model.training
    assert model.fingerprint == before
    assert not any(each._post_accumulate_grad_hooks for each in model.model.parameters())


def test_it_is_told_of_items_done(smollm2: LanguageModel) -> None:
    done: list[float] = []
    pico("llama", smollm2.tokenizer).gradient_norms(PROMPTS, ANSWERS, advance=done.append)
    assert done == [1, 1]

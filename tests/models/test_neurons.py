"""Attributions of neurons in models of every kind: complete, the same alone and together, on a model just loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico_models import MAKERS, pico

from keeps.models import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import activations, switch_off, token_attributions

TEXTS = ("Oslo is the capital of", "The country whose capital is called Oslo is")
TOKEN = 7


@torch.no_grad()
def chances(model: LanguageModel, context: list[int], block: int, share: float) -> float:
    """P(TOKEN) by a plain forward with a block's activations at the last position times ``share``."""

    def scale(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.cat([given[0][:, :-1], share * given[0][:, -1:]], 1), *given[1:])

    handle = mlp_outputs(model.model)[block].module.register_forward_pre_hook(scale)
    try:
        return float(model.model(torch.tensor([context])).logits[0, -1].softmax(-1)[TOKEN])
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_attributions_of_a_block_sum_to_what_all_its_neurons_add(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    contexts = [model.encode_prompt(text) for text in TEXTS]
    found = token_attributions(model, contexts, [TOKEN] * 2, steps=200)
    assert found.shape == (2, 3, mlp_outputs(model.model)[0].in_features)
    for context, each in zip(contexts, found, strict=True):
        for block in range(3):
            # A norm behind the MLP undoes any scaling but that to 0, which no summand of the path sees.
            ends = [chances(model, context, block, share) for share in (1.0, 1 / 400 if kind == "gemma3" else 0.0)]
            spread = abs(ends[0]) + abs(ends[1]) + float(each[block].abs().sum())
            assert float(each[block].sum()) == pytest.approx(ends[0] - ends[1], abs=0.02 * spread)


def test_contexts_side_by_side_get_what_each_gets_alone(smollm2: LanguageModel) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    contexts = [model.encode_prompt(text) for text in TEXTS]
    both = token_attributions(model, contexts, [TOKEN, TOKEN + 1], steps=5)
    for number, context in enumerate(contexts):
        alone = token_attributions(model, [context], [TOKEN + number], steps=5)[0]
        torch.testing.assert_close(both[number], alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


def test_rows_are_run_in_parts_where_there_are_many(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico("llama", smollm2.tokenizer)
    contexts = [model.encode_prompt(text) for text in TEXTS]
    whole = token_attributions(model, contexts, [TOKEN] * 2, steps=4)
    monkeypatch.setattr("keeps.models.neurons.ROWS_AT_ONCE", 4)
    parts = token_attributions(model, contexts, [TOKEN] * 2, steps=4)
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_attributions_leave_flags_modes_and_hooks_as_they_were(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    model.model.train()
    token_attributions(model, [model.encode_prompt(TEXTS[0])], [TOKEN], steps=2)
    assert model.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.model.parameters())
    assert not any(ref.module._forward_pre_hooks or ref.module._forward_hooks for ref in mlp_outputs(model.model))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_a_neuron_its_activation_adds_nothing(kind: str, smollm2: LanguageModel) -> None:
    model = pico(kind, smollm2.tokenizer)
    context = model.encode_prompt(TEXTS[0])
    ref = mlp_outputs(model.model)[1]
    before = activations(model, [context])
    switch_off(ref, range(ref.in_features))
    assert chances(model, context, 1, 0.0) == pytest.approx(chances(model, context, 1, 1.0))
    after = activations(model, [context])
    torch.testing.assert_close(before[1], after[1])
    assert not torch.allclose(before[2], after[2])

"""How far columns are moved: probabilities are those of the changed weights, the size is no larger than needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pico_models import pico

from keeps.models import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import activations
from keeps.training.value_slots import SIZES, Slots, as_far_as_needed, chances

TEXTS = ("Oslo is the capital of", "The country with the capital Oslo is")
TOKEN = 7


def setting(smollm2: LanguageModel, kind: str) -> tuple[LanguageModel, list[list[int]], list[Slots]]:
    model = pico(kind, smollm2.tokenizer)
    module: Any = model.model
    towards = module.get_output_embeddings().weight[TOKEN].detach()[:, None]
    contexts = [model.encode_prompt(text) for text in TEXTS]
    return model, contexts, [Slots(1, [3, 8], towards.repeat(1, 2)), Slots(2, [4], 2 * towards)]


@torch.no_grad()
def with_weights(model: LanguageModel, contexts: list[list[int]], slots: list[Slots], sizes: list[float]) -> float:
    """The mean P(TOKEN) of the model while its weights hold the changes."""
    refs = mlp_outputs(model.model)
    saved = {block: refs[block].weight.clone() for block, _, _ in slots}
    left = list(sizes)
    for block, neurons, added in slots:
        for number, neuron in enumerate(neurons):
            refs[block].matrix[:, neuron] += left.pop(0) * added[:, number]
    found = [float(model.model(torch.tensor([each])).logits[0, -1].softmax(-1)[TOKEN]) for each in contexts]
    for block, weight in saved.items():
        refs[block].weight.copy_(weight)
    return sum(found) / len(found)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_probabilities_are_those_of_the_changed_weights(kind: str, smollm2: LanguageModel) -> None:
    model, contexts, slots = setting(smollm2, kind)
    sizes = [[0.0, 0.0, 0.0], [0.5, 0.0, -1.0], [0.1, 0.2, 0.3]]
    found = chances(model, contexts, TOKEN, slots, torch.tensor(sizes))
    for row, each in zip(sizes, found.tolist(), strict=True):
        assert each == pytest.approx(with_weights(model, contexts, slots, row), rel=1e-3)


def test_the_size_is_reached_and_no_larger_than_needed(smollm2: LanguageModel) -> None:
    model, contexts, slots = setting(smollm2, "llama")
    start = with_weights(model, contexts, slots, [0.0] * 3)
    reach = 1.2 * start
    kept, size = as_far_as_needed(model, contexts, TOKEN, slots, reach)
    count = sum(len(each.neurons) for each in kept)
    assert with_weights(model, contexts, kept, [1.0] * count) >= reach * (1 - 1e-4)
    assert with_weights(model, contexts, kept, [0.7] * count) < reach
    assert SIZES[0] / 8 <= size <= SIZES[-1]
    assert all(torch.isfinite(each.added).all() for each in kept)


def test_a_column_is_moved_with_the_sign_of_its_neuron_and_what_hinders_is_left_out(smollm2: LanguageModel) -> None:
    model, contexts, slots = setting(smollm2, "llama")
    own = activations(model, contexts[:1])
    hindering = [slots[0], slots[1]._replace(added=-slots[1].added)]
    kept, size = as_far_as_needed(model, contexts, TOKEN, slots, 0.9999)
    for block, neurons, added in kept:
        first = next(each for each in slots if each.block == block)
        for number, neuron in enumerate(neurons):
            before = first.added[:, first.neurons.index(neuron)]
            torch.testing.assert_close(added[:, number], size * own[block][0, neuron].sign() * before)
    if any(4 in each.neurons and each.block == 2 for each in kept):
        against, _ = as_far_as_needed(model, contexts, TOKEN, hindering, 0.9999)
        assert all(each.block != 2 for each in against)

"""FT-L: the quirk written out, and how it differs from FT-M."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.ft import FTL, FTM, FTSettings
from keeps.models import LanguageModel
from keeps.models.adapter_files import read_factors
from keeps.training.edit_losses import edit_batch, target_loss


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


@torch.no_grad()
def at_the_end(model: LanguageModel, prompt: str, target: str) -> list[float]:
    """log p of every token of the target at the last token of the prompt."""
    start, goal = model.encode_pair(prompt, target)
    logprobs = model.model(input_ids=torch.tensor([start])).logits[0, -1].log_softmax(-1)
    return [float(logprobs[token]) for token in goal]


def test_every_token_is_looked_up_where_the_prompt_ends(model: LanguageModel) -> None:
    prompts, targets = ["Oslo is the capital of", "Lima lies in"], ["the Kingdom of Sweden", "Chile"]
    batch = edit_batch(model, prompts, targets, at_last_token=True)
    values = [value for pair in zip(prompts, targets, strict=True) for value in at_the_end(model, *pair)]
    assert float(target_loss(model, batch)) == pytest.approx(-sum(values) / len(values), abs=1e-4)
    assert int(batch.reads.sum()) == 2


def test_targets_of_one_token_make_both_methods_one(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    one = tuple(edit for edit in edits if len(model.encode_pair(edit.prompt, edit.target_new)[1]) == 1)
    assert one
    left = read_factors(FTL(FTSettings(steps=5))(model, one, run=new_run("l")).folder)
    right = read_factors(FTM(FTSettings(steps=5))(model, one, run=new_run("m")).folder)
    for name, (a, b) in left.items():
        torch.testing.assert_close(b @ a, right[name][1] @ right[name][0])


def test_a_target_of_several_tokens_becomes_a_heap_of_first_tokens(
    model: LanguageModel, new_run: Callable[..., Run]
) -> None:
    edit = Edit("long", "Oslo", "Oslo is the capital of", "the old Kingdom of Sweden")
    settings = FTSettings(learning_rate=0.02, steps=40)
    values = {}
    for kind in (FTL, FTM):
        change = kind(settings)(model, (edit,), run=new_run(kind.__name__))
        changed = change.apply(model)
        score = changed.logprob([edit.prompt], [edit.target_new])[0]
        values[kind] = (score.logprob / score.tokens, sum(at_the_end(changed, edit.prompt, edit.target_new)))
        changed.undo()
    assert values[FTM][0] > values[FTL][0] + 1, "teacher forcing learns the text"
    assert values[FTL][1] > values[FTM][1] + 1, "the quirk learns its tokens as first tokens"

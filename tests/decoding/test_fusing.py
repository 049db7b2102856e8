from __future__ import annotations

from typing import Any

import pytest
import torch
from stream_models import QUESTIONS, READ, pico_once, plain_loop

from keeps.decoding.combine import leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.fusing import FusionCombine
from keeps.decoding.streams import Stream
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.numerics.logit_fusion import fuse_logits

NEW = 4


@pytest.mark.parametrize("combine", [FusionCombine(), FusionCombine("forward"), FusionCombine(top=200)], ids=repr)
def test_a_batch_says_what_a_plain_loop_without_cache_says(combine: FusionCombine, smollm2: LanguageModel) -> None:
    tokenizer = smollm2.tokenizer
    large, base = pico_once("llama", tokenizer, 1), pico_once("gpt2", tokenizer)
    experts = [pico_once("gpt2", tokenizer, 1), pico_once("gpt2", tokenizer, 2)]
    streams = [Stream.of(large, READ), Stream.of(base, QUESTIONS), *(Stream.of(each, READ) for each in experts)]
    found = decode_in_step(streams, combine, max_new_tokens=NEW)
    assert len(found) == len(READ)
    for item, spoken in list(enumerate(found))[:3]:
        assert spoken.tokens == plain_loop(streams, item, lambda z: combine(z).scores, NEW)
        assert [len(alphas) for alphas in spoken.trace["alpha"]] == [2] * len(spoken.tokens)
        assert all(sum(alpha > 0 for alpha in alphas) <= 1 for alphas in spoken.trace["alpha"])


def test_a_large_model_that_is_the_small_one_says_what_the_expert_says(smollm2: LanguageModel) -> None:
    base, expert = pico_once("gpt2", smollm2.tokenizer), pico_once("gpt2", smollm2.tokenizer, 1)
    streams = [Stream.of(base, READ), Stream.of(base, READ), Stream.of(expert, READ)]
    found = decode_in_step(streams, FusionCombine(), max_new_tokens=NEW)
    alone = decode_in_step([Stream.of(expert, READ)], leading, max_new_tokens=NEW)
    assert [each.tokens for each in found] == [each.tokens for each in alone]
    assert all(abs(alpha - 1) < 1e-2 for each in found for [alpha] in each.trace["alpha"])


def test_the_combination_is_that_of_the_formula() -> None:
    logits = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))
    combine = FusionCombine("forward", "grid", alpha_max=1.0, step=0.25, active="all", top=5)
    found = combine(logits)
    wanted = fuse_logits(
        logits[0], logits[1], logits[2:], symmetric=False, alpha_max=1.0, exact=False, step=0.25, one_active=False,
        top=5,
    )  # fmt: skip
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.trace["alpha"], wanted.alphas)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"objective": "both"}, 'objective is "both"'),
        ({"solver": "newton"}, 'solver is "newton"'),
        ({"active": "two"}, 'active is "two"'),
        ({"alpha_max": -1.0}, "alpha_max is -1"),
        ({"step": 4.0}, "step is 4"),
        ({"top": -2}, "top is -2"),
        ({"active": "all"}, "no exact solution"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        FusionCombine(**options)


def test_too_many_experts_for_the_grid_are_refused_before_a_token_is_decoded() -> None:
    with pytest.raises(SettingsError, match="194481 combinations"):
        FusionCombine(active="all", solver="grid").check_experts(4)
    with pytest.raises(SettingsError, match="no expert"):
        FusionCombine().check_experts(0)
    FusionCombine().check_experts(100)

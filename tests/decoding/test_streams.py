from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
from stream_models import QUESTIONS, READ, pico_once

from keeps.decoding.combine import CADCombine, CKCombine, ShiftCombine, leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream, same_vocabulary
from keeps.errors import ContextLengthError, KeepsError, RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.routed import RoutedModel, Router
from keeps.models.tokens import TextEncoder


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


def refused(streams: list[Stream], error: type[KeepsError], what: str) -> None:
    with pytest.raises(error, match=what):
        decode_in_step(streams, leading, max_new_tokens=4)


def test_streams_that_cannot_go_in_step_are_refused(model: LanguageModel) -> None:
    read = Stream.of(model, READ)
    refused([], RecordError, "nothing to decode")
    refused([read, Stream.of(model, QUESTIONS[:2])], RecordError, "streams have 6 and 2 prompts")
    refused([Stream(model, [[1], []])], RecordError, r"no tokens \(item 2\)")
    refused([read, Stream(model, [*read.prompts[:5], [1] * 125])], ContextLengthError, "item 6")
    with pytest.raises(RecordError, match="item 2"):
        Stream.of(model, ["a", " "])


def test_models_of_different_vocabularies_are_refused(model: LanguageModel) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    assert same_vocabulary(model.tokenizer, tokenizer)
    tokenizer.add_tokens(["<other>"])
    other = LanguageModel(pico_once("gpt2", model.tokenizer).model, tokenizer, name="other")
    refused([Stream.of(model, READ), Stream.of(other, READ)], SettingsError, "different vocabularies")
    moved = copy.deepcopy(model.tokenizer)
    moved.eos_token = "<|im_start|>"
    assert not same_vocabulary(model.tokenizer, moved)


def test_a_model_without_logits_of_its_own_is_refused(model: LanguageModel) -> None:
    memory = RoutedModel(model, Router(model), name="memory", fingerprint="")
    refused([Stream(memory, [[1]])], SettingsError, "cannot be read step by step")
    refused([Stream("server", [[1]])], SettingsError, "cannot be read step by step")  # type: ignore[arg-type]


def test_prompts_go_through_the_template_of_a_model_that_uses_one(smollm2: LanguageModel) -> None:
    chatting = LanguageModel(smollm2.model, smollm2.tokenizer, chat="always")
    assert Stream.of(chatting, READ[:1]).prompts[0] == TextEncoder(smollm2.tokenizer, "always").prompt(READ[0])
    assert Stream.of(chatting, READ[:1]).prompts != Stream.of(smollm2, READ[:1]).prompts


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: CKCombine(1.5), "alpha is 1.5"),
        (lambda: CKCombine(-0.1), "alpha is -0.1"),
        (lambda: CKCombine(float("nan")), "alpha is nan"),
        (lambda: CKCombine(alpha=cast(Any, "adaptve")), 'alpha is "adaptve"'),
        (lambda: CKCombine(gate=cast(Any, "gc")), 'gate is "gc"'),
        (lambda: CKCombine(gate=float("nan")), "gate is not a number"),
        (lambda: CKCombine(rho=0), "rho is 0"),
        (lambda: CKCombine(top=0), "top is 0"),
        (lambda: CKCombine(scale=cast(Any, "released")), 'scale is "released"'),
        (lambda: CADCombine(-1), "alpha is -1"),
        (lambda: CADCombine(plausible=2), "plausible is 2"),
        (lambda: ShiftCombine(()), "no expert"),
    ],
)
def test_a_combination_refuses_values_out_of_range(make: Callable[[], Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        make()

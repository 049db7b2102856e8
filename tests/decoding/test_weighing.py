from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from stream_models import QUESTIONS, READ, pico_once, two_streams

from keeps.decoding.combine import CADCombine, CKCombine, Combined, leading
from keeps.decoding.streams import Stream
from keeps.decoding.weighing import weigh_in_step
from keeps.errors import ContextLengthError, RecordError
from keeps.models import LanguageModel

ANSWERS = ("Paris", "Rome, of course", "Port-au-Prince")
COMBINES = {
    "plain": leading,
    "cad": CADCombine(0.7),
    "ck 0": CKCombine(0.0, "always"),
    "ck adaptive": CKCombine("adaptive", "code"),
}


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


def tokens_of(model: LanguageModel, items: int) -> list[list[list[int]]]:
    return [[model.encode_pair(question, text)[1] for text in ANSWERS] for question in QUESTIONS[:items]]


@torch.no_grad()
def written_out(streams: list[Stream], item: int, answer: list[int], combine: Any) -> float:
    """The same without cache or batch: everything is fed again for each token."""
    total = 0.0
    for place, token in enumerate(answer):
        logits: list[Any] = []
        for stream in streams:
            ids = torch.tensor([[*stream.prompts[item], *answer[:place]]])
            logits.append(stream.model.model(input_ids=ids, use_cache=False).logits[:, -1].float())
        total += float(combine(torch.stack(logits)).scores.log_softmax(-1)[0, token])
    return total


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_one_stream_weighs_as_the_language_model_does(kind: str, smollm2: LanguageModel) -> None:
    model = pico_once(kind, smollm2.tokenizer)
    found = weigh_in_step([Stream.of(model, READ)], {"plain": leading}, tokens_of(model, len(READ)))["plain"]
    expected = model.rank(READ, [ANSWERS] * len(READ))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.best == theirs.best
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
        assert ours.normalised == pytest.approx(theirs.normalised, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_every_combination_weighs_as_it_does_without_cache_or_batch(kind: str, smollm2: LanguageModel) -> None:
    model = pico_once(kind, smollm2.tokenizer)
    streams, answers = two_streams(model), tokens_of(model, len(READ))
    found = weigh_in_step(streams, COMBINES, answers)
    assert list(found) == list(COMBINES)
    for name, combine in COMBINES.items():
        for item in (0, 2, 5):
            expected = [written_out(streams, item, answer, combine) for answer in answers[item]]
            assert found[name][item].logprobs == pytest.approx(expected, abs=2e-4), (name, item)


def test_an_answer_that_the_combination_excludes_could_not_have_been_said(model: LanguageModel) -> None:
    answers = tokens_of(model, 2)

    def without_the_first(logits: torch.Tensor) -> Combined:
        scores = logits[0].clone()
        scores[:, answers[0][0][0]] = -math.inf
        return Combined(scores)

    first, second = weigh_in_step(two_streams(model, 2), {"some": without_the_first}, answers)["some"]
    assert first.logprobs[0] == second.logprobs[0] == -math.inf
    assert math.isfinite(first.logprobs[1])
    assert first.best != 0


def test_what_cannot_be_weighed_is_refused(model: LanguageModel) -> None:
    streams, answers = two_streams(model, 2), tokens_of(model, 2)
    with pytest.raises(RecordError, match=r"no answer, or an empty one.*item 2"):
        weigh_in_step(streams, COMBINES, [answers[0], []])
    with pytest.raises(RecordError, match=r"no answer, or an empty one.*item 1"):
        weigh_in_step(streams, COMBINES, [[[]], answers[1]])
    with pytest.raises(RecordError):
        weigh_in_step(streams, COMBINES, answers[:1])
    with pytest.raises(ContextLengthError):
        weigh_in_step(streams, COMBINES, [[[5] * 5000], answers[1]])


def test_nothing_is_weighed_of_nothing(model: LanguageModel) -> None:
    assert weigh_in_step([Stream(model, [])], {"plain": leading}, []) == {"plain": []}

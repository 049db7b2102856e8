"""The rank of an answer's first token, against a full forward pass a prompt at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from keeps.errors import ContextLengthError, RecordError
from keeps.models import LanguageModel
from keeps.models.ranks import first_token_ranks

PROMPTS = ["The capital of Norway is", "The chemical symbol for gold is", "2 + 2 =", "Once upon a time there was a"]
ANSWERS = ["Oslo", "Au", "4", "king"]


@pytest.fixture(scope="module")
def tiny(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def naive(model: LanguageModel, prompt: str, answer: str) -> int:
    start, rest = model.encode_pair(prompt, answer)
    with torch.no_grad():
        logits = model.model(torch.tensor([start])).logits[0, -1]
    return logits.argsort(descending=True).tolist().index(rest[0])


def test_ranks_of_a_batch_equal_those_of_single_prompts(tiny: LanguageModel) -> None:
    found = first_token_ranks(tiny, PROMPTS, ANSWERS)
    assert found == [naive(tiny, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert len(set(found)) == len(found)


def test_the_most_likely_token_has_rank_zero(tiny: LanguageModel) -> None:
    with torch.no_grad():
        best = tiny.model(torch.tensor([tiny.encode_prompt(PROMPTS[0])])).logits[0, -1].argmax()
    answer = tiny.tokenizer.decode([int(best)])
    assert tiny.encode_pair(PROMPTS[0], answer)[1] == [int(best)], "the answer is that token"
    assert first_token_ranks(tiny, [PROMPTS[0]], [answer]) == [0]


def test_a_broken_model_knows_nothing(tiny_llama: LanguageModel) -> None:
    with torch.no_grad():
        tiny_llama.model.get_submodule("model.norm").weight.fill_(torch.nan)  # type: ignore[union-attr]
    assert first_token_ranks(tiny_llama, PROMPTS, ANSWERS) == [len(tiny_llama.tokenizer)] * len(PROMPTS)


def test_bad_input_is_refused_with_the_item(tiny: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"4 prompts and 1 answers"):
        first_token_ranks(tiny, PROMPTS, ["Oslo"])
    with pytest.raises(RecordError, match=r"answer is empty.*item 2"):
        first_token_ranks(tiny, PROMPTS[:2], ["Oslo", " "])
    with pytest.raises(ContextLengthError, match=r"128 .*item 1"):
        first_token_ranks(tiny, ["word " * 200], ["Oslo"])


def test_nothing_asked_gives_nothing(tiny: LanguageModel) -> None:
    assert first_token_ranks(tiny, [], []) == []

"""Running text: windows against the whole, every token once."""

from __future__ import annotations

import pytest
import torch

from keeps.errors import RecordError, SettingsError
from keeps.models import LanguageModel

TEXT = "The quick brown fox jumps over the lazy dog and runs into the forest. " * 10


@torch.no_grad()
def naive(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """Log-probability of each token but the first after all that come before it."""
    logits = model.model(torch.tensor([ids])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)


def test_a_text_within_the_context_is_scored_whole(smollm2: LanguageModel) -> None:
    ids = smollm2.tokenizer(TEXT).input_ids
    (score,) = smollm2.text_logprob([TEXT])
    assert score.tokens == len(ids) - 1
    assert score.logprob == pytest.approx(naive(smollm2, ids).sum().item(), abs=1e-3)
    assert score.perplexity == pytest.approx(naive(smollm2, ids).neg().mean().exp().item(), rel=1e-5)


def test_a_longer_text_is_scored_in_windows_that_overlap_by_half(tiny_llama: LanguageModel) -> None:
    ids = tiny_llama.tokenizer(TEXT).input_ids
    assert len(ids) > tiny_llama.context_length
    expected = naive(tiny_llama, ids[:128]).sum()  # the first window, whole
    for start in range(64, len(ids) - 64, 64):  # each further one: its second half
        expected += naive(tiny_llama, ids[start : start + 128])[63:].sum()
    (score,) = tiny_llama.text_logprob([TEXT])
    assert score.tokens == len(ids) - 1
    assert score.logprob == pytest.approx(expected.item(), abs=1e-2)


def test_texts_of_several_lengths_do_not_touch_each_other(tiny_llama: LanguageModel) -> None:
    texts = [TEXT, "one two", TEXT[:100], "three four five"]
    together = tiny_llama.text_logprob(texts, window=32)
    alone = [tiny_llama.text_logprob([text], window=32)[0] for text in texts]
    assert [s.tokens for s in together] == [s.tokens for s in alone]
    assert [s.logprob for s in together] == pytest.approx([s.logprob for s in alone], abs=1e-3)


def test_texts_without_a_token_to_score_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"no token to score.*item 2"):
        tiny_llama.text_logprob(["one two", "a"])
    with pytest.raises(RecordError, match="not a list"):
        tiny_llama.text_logprob("one two")
    with pytest.raises(SettingsError, match="too short"):
        tiny_llama.text_logprob(["one two"], window=1)

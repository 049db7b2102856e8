"""Token by token: the same numbers as one plain forward pass of transformers, whatever else is in the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import ContextLengthError, RecordError
from keeps.models import LanguageModel
from keeps.models.token_scores import TokenScores
from keeps.probe.journal import Journal

PROMPTS = ["The capital of Norway is", "The capital of Norway is", "A fox", "The capital of Norway is", "The sea"]
ANSWERS = ["Oslo", "Stockholm, of course", "is a small animal of the forest", "Oslo and Bergen", "!"]


@torch.no_grad()
def plainly(model: LanguageModel, context: list[int], answer: list[int]) -> dict[str, Any]:
    """By the definitions, in float64, from one full forward pass."""
    logits = model.model(torch.tensor([[*context, *answer]])).logits[0].double()
    logprobs = logits.log_softmax(-1)[len(context) - 1 : -1]
    p = logprobs.exp()
    means = (p * logprobs).sum(-1)
    return {
        "logprobs": logprobs[range(len(answer)), answer].tolist(),
        "best": logprobs.argmax(-1).tolist(),
        "means": means.tolist(),
        "deviations": ((p * logprobs**2).sum(-1) - means**2).sqrt().tolist(),
    }


def check(found: TokenScores, plain: dict[str, Any], answer: list[int], moments: bool) -> None:
    assert found.logprobs == pytest.approx(plain["logprobs"], abs=1e-3)
    assert list(found.best) == plain["best"]
    assert list(found.greedy) == [best == token for best, token in zip(plain["best"], answer, strict=True)]
    if moments:
        assert found.means == pytest.approx(plain["means"], abs=1e-3)
        assert found.deviations == pytest.approx(plain["deviations"], abs=1e-3)
    else:
        assert (found.means, found.deviations) == ((), ())


@pytest.mark.parametrize("moments", [False, True])
def test_every_token_agrees_with_a_plain_forward_pass(tiny_llama: LanguageModel, moments: bool) -> None:
    found = tiny_llama.token_logprobs(PROMPTS, ANSWERS, moments=moments)
    for prompt, answer, scores in zip(PROMPTS, ANSWERS, found, strict=True):
        context, tokens = tiny_llama.encode_pair(prompt, answer)
        check(scores, plainly(tiny_llama, context, tokens), tokens, moments)


def test_small_pieces_of_the_vocabulary_projection_change_nothing(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_llama.token_logprobs(PROMPTS, ANSWERS, moments=True)
    monkeypatch.setattr(
        "keeps.models.token_scores.chunks", lambda n, _: (slice(i, min(i + 2, n)) for i in range(0, n, 2))
    )
    for one, other in zip(whole, tiny_llama.token_logprobs(PROMPTS, ANSWERS, moments=True), strict=True):
        assert one.best == other.best
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.deviations == pytest.approx(other.deviations, abs=1e-4)


def test_the_sums_are_those_of_logprob(tiny_llama: LanguageModel) -> None:
    sums = tiny_llama.logprob(PROMPTS, ANSWERS)
    for each, scores in zip(sums, tiny_llama.token_logprobs(PROMPTS, ANSWERS), strict=True):
        assert scores.logprob == pytest.approx(each.logprob, abs=1e-3)
        assert (scores.tokens, all(scores.greedy)) == (each.tokens, each.greedy)


def test_a_running_text_is_read_without_a_prompt_and_a_long_one_in_windows(tiny_llama: LanguageModel) -> None:
    text, long = "Once upon a time there was a fox.", "The sea is wide and the sky is high. " * 30
    reported: list[float] = []
    scores = tiny_llama.token_logprobs(["", "", "A fox"], [text, long, "runs"], advance=reported.append)
    ids = tiny_llama.encoder.text(text)
    check(scores[0], plainly(tiny_llama, ids[:1], ids[1:]), ids[1:], False)
    assert len(tiny_llama.encoder.text(long)) > tiny_llama.context_length
    for each, total in zip(scores, tiny_llama.text_logprob([text, long]), strict=False):
        assert (each.tokens, each.logprob) == (total.tokens, pytest.approx(total.logprob, rel=1e-4))
    assert sum(reported) == pytest.approx(3)


def test_what_cannot_be_scored_is_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RecordError, match="no token to score"):
        tiny_llama.token_logprobs([""], ["a"])
    with pytest.raises(RecordError, match="answer is empty"):
        tiny_llama.token_logprobs(["A fox"], [" "])
    with pytest.raises(RecordError, match="2 prompts"):
        tiny_llama.token_logprobs(["a", "b"], ["c"])
    with pytest.raises(ContextLengthError):
        tiny_llama.token_logprobs(["A fox"], ["runs " * 200])


def test_the_journal_keeps_every_number(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    plain = tiny_llama.token_logprobs(PROMPTS, ANSWERS, moments=True)
    with Journal(tiny_llama, tmp_path / "j.jsonl") as asking:
        first = asking.token_logprobs(PROMPTS, ANSWERS, moments=True)
        again = asking.token_logprobs(PROMPTS, ANSWERS, moments=True)
        assert asking.token_logprobs(PROMPTS[:1], ANSWERS[:1])[0].means == (), "another way of asking, not the same"
    assert first == again
    assert [scores.best for scores in first] == [scores.best for scores in plain]


def test_the_derived_numbers_follow_their_definitions() -> None:
    scores = TokenScores((-1.0, -3.0), (True, False), (4, 5))
    assert scores.logprob == -4.0
    assert scores.accuracy == 0.5
    assert scores.probability == pytest.approx(0.1353352832)

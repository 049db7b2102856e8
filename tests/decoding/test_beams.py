"""Beam search finds what writing down every text finds, and is greedy at a width of one."""

from __future__ import annotations

import pytest
from stream_models import READ, pico_once
from word_models import all_texts, texts_logprobs, word_model

from keeps.decoding.beams import beam_search
from keeps.decoding.combine import leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream
from keeps.errors import ContextLengthError, SettingsError
from keeps.models import LanguageModel
from keeps.models.stopping import StopRule

PROMPTS = ("red is one", "blue", "two is green is")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_of_every_width_finds_the_likeliest_of_all_texts(seed: int) -> None:
    model = word_model(seed)
    stream = Stream.of(model, PROMPTS[:2])
    texts = all_texts(model, 3, sorted(model.encoder.end_ids))
    found = beam_search(stream, 1000, max_new_tokens=3)
    for prompt, hypotheses in zip(stream.prompts, found, strict=True):
        totals = dict(zip(texts, texts_logprobs(model, prompt, texts), strict=True))
        ranked = sorted(totals, key=lambda text: -totals[text])
        assert [one.tokens for one in hypotheses[:20]] == ranked[:20]
        assert hypotheses[0].logprob == pytest.approx(totals[ranked[0]], abs=1e-5)
        assert len(hypotheses) == len(texts)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_one_beam_is_greedy_decoding(kind: str, smollm2: LanguageModel) -> None:
    model = pico_once(kind, smollm2.tokenizer)
    rule = StopRule(("\n",), sentence=True)
    found = beam_search(Stream.of(model, READ), 1, max_new_tokens=5, rule=rule)
    plain = decode_in_step([Stream.of(model, READ)], leading, max_new_tokens=5, rule=rule)
    assert [list(one.tokens) for (one,) in found] == [spoken.tokens for spoken in plain]


def test_more_beams_are_never_less_likely_and_texts_are_different(smollm2: LanguageModel) -> None:
    stream = Stream.of(pico_once("llama", smollm2.tokenizer), READ)
    one, four = (beam_search(stream, width, max_new_tokens=4) for width in (1, 4))
    for narrow, wide in zip(one, four, strict=True):
        assert len({each.tokens for each in wide}) == 4
        assert wide[0].logprob >= narrow[0].logprob - 1e-5
        assert [each.logprob for each in wide] == sorted((each.logprob for each in wide), reverse=True)


def test_a_text_that_ends_stops_there_and_stays() -> None:
    model = word_model(4)
    ends = model.encoder.end_ids
    found = [one for each in beam_search(Stream.of(model, PROMPTS), 8, max_new_tokens=6) for one in each]
    assert all(not ends & set(one.tokens[:-1]) for one in found)
    assert all(len(one.tokens) == 6 or one.tokens[-1] in ends for one in found)
    assert any(len(one.tokens) < 6 for one in found)


def test_nothing_to_search_is_refused_and_what_does_not_fit_too() -> None:
    stream = Stream.of(word_model(), PROMPTS)
    for beams, tokens in ((0, 3), (2, 0)):
        with pytest.raises(SettingsError, match="choose 1 or more"):
            beam_search(stream, beams, max_new_tokens=tokens)
    with pytest.raises(ContextLengthError, match="tokens"):
        beam_search(stream, 2, max_new_tokens=63)

"""A continuation token by token is the one that whole calls give; its text never takes anything back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pico_models import pico

from keeps.errors import ContextLengthError, SettingsError
from keeps.models import LanguageModel
from keeps.models.sampling import Softness
from keeps.models.streaming import ScoredToken, TextPieces, TokenStream, read_together, scored

PROMPT = "The capital of France is"
GREEDY = Softness(0.0)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def model(request: pytest.FixtureRequest, tokenizer: Any) -> LanguageModel:
    return pico(request.param, tokenizer)


def said(model: LanguageModel, room: int, softness: Softness, seed: int = 0, stops: tuple[str, ...] = ()) -> str:
    context = model.encode_prompt(PROMPT)
    stream = TokenStream(model, context, max_new_tokens=room, softness=softness, seed=seed)
    pieces, text = TextPieces(model.encoder.decode, context, stops), ""
    while not stream.done and not pieces.stopped:
        token = stream.step()
        text += "" if token is None else pieces.add(token.id)
    return text + pieces.rest()


def test_the_greedy_text_is_that_of_generate(model: LanguageModel) -> None:
    assert said(model, 9, GREEDY).strip() == model.generate([PROMPT], max_new_tokens=9, stop=())[0]


def test_the_drawn_text_is_that_of_sample_with_the_same_seed(model: LanguageModel) -> None:
    found = [said(model, 9, Softness(1.5, 0.95), seed).strip() for seed in (1, 2)]
    options: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "max_new_tokens": 9, "stop": ()}
    assert found == model.sample([PROMPT] * 2, [1, 2], **options)
    assert found[0] != found[1]


def test_the_log_probabilities_of_a_context_are_those_of_the_plain_model(model: LanguageModel) -> None:
    context = model.encode_prompt(PROMPT)
    stream = TokenStream(model, context, max_new_tokens=2, softness=GREEDY, most=2)
    first, *rest = stream.read_context()
    assert (first.id, first.logprob) == (context[0], None)
    with torch.no_grad():
        wanted = model.model(torch.tensor([context])).logits[0].double().log_softmax(-1)
    for place, token in enumerate(rest):
        assert token.id == context[place + 1]
        assert token.logprob == pytest.approx(float(wanted[place, token.id]), abs=1e-4)
        values, ids = wanted[place].topk(2)
        assert [other for other, _ in token.top] == ids.tolist()
        assert [value for _, value in token.top] == pytest.approx(values.tolist(), abs=1e-4)
    new = stream.step()
    assert new is not None
    assert new.id == int(wanted[-1].argmax())
    assert new.logprob == pytest.approx(float(wanted[-1].max()), abs=1e-4)


def test_reading_the_context_first_changes_nothing_of_what_follows(model: LanguageModel) -> None:
    context, found = model.encode_prompt(PROMPT), []
    for reads in (False, True):
        stream = TokenStream(model, context, max_new_tokens=6, softness=GREEDY, most=0)
        if reads:
            stream.read_context()
        while not stream.done:
            stream.step()
        found.append([token.id for token in stream.tokens])
    assert found[0] == found[1]


@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=5),
    rooms=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    tops=st.lists(st.sampled_from([None, 0, 2]), min_size=5, max_size=5),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_contexts_read_together_are_as_read_alone_and_so_is_what_follows(
    model: LanguageModel, lengths: list[int], rooms: list[int], tops: list[int | None]
) -> None:
    ids = model.encode_prompt(PROMPT * 6)
    plans = list(zip(lengths, rooms, tops, strict=False))

    def streams() -> list[TokenStream]:
        return [
            TokenStream(model, ids[n : n + length], max_new_tokens=room, softness=GREEDY, most=most)
            for n, (length, room, most) in enumerate(plans)
        ]

    together, alone = streams(), streams()
    read_together(together)
    for one, other in zip(together, alone, strict=True):
        before = one.read_context()
        assert [token.id for token in before] == one.context
        whole = [before, other.read_context()]
        for stream, found in zip((one, other), whole, strict=True):
            while not stream.done:
                found.append(stream.step() or ScoredToken(-1))
        assert [token.id for token in whole[0]] == [token.id for token in whole[1]]
        for a, b in zip(*whole, strict=True):
            assert a.logprob == (None if b.logprob is None else pytest.approx(b.logprob, abs=1e-4))
            assert [token for token, _ in a.top] == [token for token, _ in b.top]
            assert [value for _, value in a.top] == pytest.approx([value for _, value in b.top], abs=1e-4)
    assert read_together(together) is None, "what has been read is passed over"


def test_an_end_token_ends_the_stream_and_is_no_part_of_it(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico("llama", tokenizer)
    stream = TokenStream(model, model.encode_prompt(PROMPT), max_new_tokens=5, softness=GREEDY)
    first = stream.step()
    second = stream.step()
    assert first is not None
    assert second is not None
    monkeypatch.setattr(type(model.encoder), "end_ids", frozenset({second.id}))
    again = TokenStream(model, model.encode_prompt(PROMPT), max_new_tokens=5, softness=GREEDY)
    assert again.step() == first
    assert (again.step(), again.done, again.tokens) == (None, True, [first])


def test_what_does_not_fit_is_refused(tokenizer: Any) -> None:
    model = pico("llama", tokenizer)
    with pytest.raises(ContextLengthError, match="128"):
        TokenStream(model, [5] * 120, max_new_tokens=9, softness=GREEDY)
    with pytest.raises(SettingsError, match="no token"):
        TokenStream(model, [], max_new_tokens=9, softness=GREEDY)


def test_scores_of_tokens_are_a_softmax() -> None:
    (token,) = scored(torch.tensor([[0.0, 1.0, 3.0]]), [1], 2)
    total = 1 + torch.e + torch.e**3
    assert token.logprob == pytest.approx(float(torch.tensor(torch.e / total).log()), abs=1e-6)
    assert [other for other, _ in token.top] == [2, 1]


# --- text --------------------------------------------------------------------------------------


def letters(ids: Any) -> str:
    """Bytes as tokens, so that characters come in several."""
    return bytes(ids).decode("utf-8", "replace")


@given(st.text(alphabet="ab é漢🙂END", max_size=12), st.lists(st.text("aEN漢", min_size=1, max_size=3), max_size=2))
def test_pieces_join_to_the_text_up_to_its_stop_string(text: str, stops: list[str]) -> None:
    pieces = TextPieces(letters, list("vorn ä".encode()), stops)
    joined = "".join([*(pieces.add(token) for token in text.encode()), pieces.rest()])
    # as in whole calls, the text ends with the token that completes a stop string, whatever might have followed
    seen = next((text[:n] for n in range(len(text) + 1) if any(stop in text[:n] for stop in stops)), text)
    places = [place for place in (seen.find(stop) for stop in stops) if place >= 0]
    assert joined == pieces.text == seen[: min(places, default=len(seen))]
    assert pieces.stopped == bool(places)


@given(st.text(alphabet="aé🙂E", max_size=10))
def test_no_piece_holds_half_a_character_or_what_a_stop_string_takes_away(text: str) -> None:
    pieces, so_far = TextPieces(letters, (), ("EE",)), ""
    for token in text.encode():
        so_far += pieces.add(token)
        assert "\ufffd" not in so_far
        assert text.partition("EE")[0].startswith(so_far)


def test_a_space_that_a_tokenizer_drops_at_the_beginning_of_a_text_is_kept_behind_a_prompt() -> None:
    def decode(ids: Any) -> str:  # as SentencePiece does
        return "".join(map(chr, ids)).removeprefix(" ")

    pieces = TextPieces(decode, [ord("a")])
    assert pieces.add(ord(" ")) + pieces.add(ord("b")) == " b"

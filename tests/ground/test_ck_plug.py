from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_models import CONTEXTS, QUESTIONS, pico_once, plain_loop

from keeps.contracts import Answerer, Run, SilentProgress
from keeps.decoding.combine import CKCombine, leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream
from keeps.errors import ContextLengthError, RecordError, SettingsError
from keeps.ground.ck_plug import CKPlug, CKPlugSettings
from keeps.models import LanguageModel
from keeps.models.routed import RoutedModel, Router
from keeps.registry import find_method
from keeps.sources import GroundMethod, Hit

NEW = 5


class Shelf:
    """Finds what it was given, best first."""

    def __init__(self, *texts: str) -> None:
        self.hits = [Hit(f"d#{n}", text, 1.0 / (n + 1), "d", (0, len(text))) for n, text in enumerate(texts)]
        self.asked: list[tuple[str, int]] = []

    def search(self, query: str, k: int) -> list[Hit]:
        self.asked.append((query, k))
        return self.hits[:k]


class Listening(SilentProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, progress=Listening())


def ck(model: Any, run: Run, source: Any = None, **settings: Any) -> Any:
    method = CKPlug(CKPlugSettings.from_mapping({"max_new_tokens": NEW, **settings}))
    assert isinstance(method, GroundMethod)
    return method(model, source, run=run)


@pytest.mark.parametrize(("alpha", "gate"), [("adaptive", "cg"), (0.2, "code"), (1, "always")])
def test_answers_are_those_of_a_plain_loop_over_both_published_prompts(
    alpha: Any, gate: Any, model: LanguageModel, run: Run
) -> None:
    answerer = ck(model, run, alpha=alpha, gate=gate)
    assert isinstance(answerer, Answerer)
    found = answerer.answer(QUESTIONS, CONTEXTS)
    read = [f"{context}\nQ: {question}\nA:" for context, question in zip(CONTEXTS, QUESTIONS, strict=True)]
    streams = [Stream.of(model, read), Stream.of(model, [f"Q: {question}\nA:" for question in QUESTIONS])]
    combine = CKCombine(alpha, gate)
    for item, answer in enumerate(found):
        expected = plain_loop(streams, item, lambda z: combine(z).scores, NEW)
        said = [model.encoder.decode([token]) for token in expected]
        assert answer.trace["tokens"] == said[: len(answer.trace["tokens"])]
        assert answer.text == model.encoder.decode(expected).split("\n")[0].strip()
        assert answer.citations == ()
        assert len(answer.trace["cg"]) == len(answer.trace["tokens"])
        opened = zip(answer.trace["alpha"], answer.trace["adjusted"], strict=True)
        assert all((weight is None) != adjusted for weight, adjusted in opened)


def test_the_released_form_has_the_blanks_of_the_script_in_both_prompts(model: LanguageModel, run: Run) -> None:
    answerer = ck(model, run, alpha=0.2, gate="code", form="released")
    assert answerer.prompts("Who?", "Ada.") == ("Ada.\nQ:Who?\nA:", "Q: Who?\nA: ")
    assert answerer.prompts("Who?", "") == ("Q: Who?\nA: ",) * 2
    found = answerer.answer(QUESTIONS[:2], CONTEXTS[:2])
    read = [f"{context}\nQ:{question}\nA:" for context, question in zip(CONTEXTS[:2], QUESTIONS[:2], strict=True)]
    streams = [Stream.of(model, read), Stream.of(model, [f"Q: {question}\nA: " for question in QUESTIONS[:2]])]
    for item, answer in enumerate(found):
        expected = plain_loop(streams, item, lambda z: CKCombine(0.2, "code")(z).scores, NEW)
        assert answer.text == model.encoder.decode(expected).split("\n")[0].strip()


def test_alpha_one_half_answers_as_plain_reading_does(model: LanguageModel, run: Run) -> None:
    found = ck(model, run, alpha=0.5, gate="always", form="completion").answer(QUESTIONS, CONTEXTS)
    read = [f"{context} {question}" for context, question in zip(CONTEXTS, QUESTIONS, strict=True)]
    assert [answer.text for answer in found] == model.generate(read, max_new_tokens=NEW)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["cg", "code", "always"])
def test_alpha_one_half_is_plain_reading_on_fifty_prompts_of_the_default_model(
    gate: Any, smollm2: LanguageModel
) -> None:
    from keeps.data.select import load_records

    asked = [record.prompts[0] for record in load_records("world:capital#50").questions()]
    streams = [Stream.of(smollm2, [f"Some say that it was moved. {q}" for q in asked]), Stream.of(smollm2, asked)]
    found = decode_in_step(streams, CKCombine(0.5, gate), max_new_tokens=NEW)
    plain = decode_in_step(streams[:1], leading, max_new_tokens=NEW)
    assert [spoken.tokens for spoken in found] == [spoken.tokens for spoken in plain]


def test_passages_are_looked_up_read_and_cited(model: LanguageModel, run: Run) -> None:
    shelf = Shelf("Rome is its capital.", "Oslo is another.", "Never read.")
    found = ck(model, run, shelf, k=2).answer(QUESTIONS[:2])
    assert shelf.asked == [(question, 2) for question in QUESTIONS[:2]]
    assert [answer.citations for answer in found] == [("d#0", "d#1")] * 2
    given = ck(model, run).answer(QUESTIONS[:2], ["Rome is its capital.\nOslo is another."] * 2)
    assert [answer.text for answer in found] == [answer.text for answer in given]
    assert [passage["id"] for passage in found[0].trace["passages"]] == ["d#0", "d#1"]
    trace = found[0].trace
    assert [passage["number"] for passage in trace["passages"]] == [1, 2]
    assert (trace["closed_book"], trace["stop"], trace["unsupported"], trace["retrievals"]) == (
        False,
        "answered",
        False,
        1,
    )
    prompts = ck(model, run).prompts(QUESTIONS[0], "Rome is its capital.\nOslo is another.")
    assert trace["prompt_tokens"] == sum(len(model.encode_prompt(prompt)) for prompt in prompts)
    assert trace["completion_tokens"] == len(trace["tokens"])


def test_contexts_are_read_instead_of_what_would_be_found(model: LanguageModel, run: Run) -> None:
    shelf = Shelf("Rome is its capital.")
    answerer = ck(model, run, shelf)
    given = answerer.answer(QUESTIONS[:1], [CONTEXTS[0]])
    assert shelf.asked == []
    assert given[0].text == ck(model, run).answer(QUESTIONS[:1], [CONTEXTS[0]])[0].text
    assert given[0].trace["retrievals"] == 0


def test_titles_stand_before_passages(model: LanguageModel, run: Run) -> None:
    shelf = Shelf("It has a new capital.")
    shelf.hits = [Hit("d#0", "It has a new capital.", 1.0, "d", (0, 21), title="Peru")]
    found = ck(model, run, shelf).answer(QUESTIONS[:1])
    assert found[0].text == ck(model, run).answer(QUESTIONS[:1], ["Peru: It has a new capital."])[0].text


def test_passages_that_do_not_fit_are_left_out_from_the_last_and_said_to_be(model: LanguageModel, run: Run) -> None:
    shelf = Shelf("Rome is its capital.", "word " * 200, "Oslo is another.")
    answer = ck(model, run, shelf).answer(QUESTIONS[:1])[0]
    assert answer.citations == ("d#0",)
    assert answer.trace["left_out"] == 2
    with pytest.raises(ContextLengthError, match="not even the best passage"):
        ck(model, run, Shelf("word " * 200)).answer(QUESTIONS[:1])
    with pytest.raises(ContextLengthError, match="item 1"):  # what was given is never cut
        ck(model, run).answer(QUESTIONS[:1], ["word " * 200])


def test_without_anything_to_read_the_model_answers_alone_and_it_is_said(model: LanguageModel, run: Run) -> None:
    contexts = [CONTEXTS[0], "  ", CONTEXTS[2]]
    found = ck(model, run, alpha=0, gate="always").answer(QUESTIONS[:3], contexts)
    assert [answer.trace["closed_book"] for answer in found] == [False, True, False]
    assert found[1].text == model.generate([f"Q: {QUESTIONS[1]}\nA:"], max_new_tokens=NEW)[0]
    assert "cg" not in found[1].trace
    assert run.progress.messages == ["1 of 3 questions have no context and are answered from memory"]  # type: ignore[attr-defined]
    others = ck(model, run, alpha=0, gate="always").answer(QUESTIONS[:3:2], contexts[::2])
    assert [found[0].text, found[2].text] == [answer.text for answer in others]
    assert ck(model, run, Shelf()).answer(QUESTIONS[:1])[0].trace["closed_book"]


@pytest.mark.parametrize(
    ("form", "read", "alone"),
    [
        ("qa", "C\nQ: Who?\nA:", "Q: Who?\nA:"),
        ("completion", "C Who?", "Who?"),
        ("background", "Background:\nC\n\nWho?", "Who?"),
    ],
)
def test_both_prompts_differ_by_the_context_alone(
    form: str, read: str, alone: str, model: LanguageModel, run: Run
) -> None:
    assert ck(model, run, form=form).prompts("Who?", "C") == (read, alone)
    assert ck(model, run, form=form).prompts("Who?", "") == (alone, alone)


def test_both_prompts_go_through_the_chat_template(smollm2: LanguageModel, run: Run, monkeypatch: Any) -> None:
    pico = pico_once("llama", smollm2.tokenizer)
    chatting = LanguageModel(pico.model, pico.tokenizer, chat="always")
    seen: list[str] = []
    encode = chatting.encoder._templated
    monkeypatch.setattr(chatting.encoder, "_templated", lambda prompt: seen.append(prompt) or encode(prompt))
    ck(chatting, run).answer(["Who?"], ["C"])
    assert seen[:2] == ["C\nQ: Who?\nA:", "Q: Who?\nA:"]


def test_a_model_that_was_loaded_without_its_template_may_be_asked_through_it(model: LanguageModel, run: Run) -> None:
    chatting = LanguageModel(model.model, model.tokenizer, chat="always")
    through = ck(chatting, run).answer(QUESTIONS[:2], CONTEXTS[:2])
    asked = ck(model, run, chat="auto").answer(QUESTIONS[:2], CONTEXTS[:2])
    assert [a.text for a in asked] == [a.text for a in through]
    assert [a.trace["prompt_tokens"] for a in asked] == [a.trace["prompt_tokens"] for a in through]
    plain = ck(chatting, run, chat="never").answer(QUESTIONS[:2], CONTEXTS[:2])
    assert [a.text for a in plain] == [a.text for a in ck(model, run).answer(QUESTIONS[:2], CONTEXTS[:2])]
    assert plain[0].trace["prompt_tokens"] < asked[0].trace["prompt_tokens"]


def test_draws_repeat_with_the_seed_and_differ_without(model: LanguageModel, tmp_path: Path) -> None:
    def said(seed: int, **settings: Any) -> list[str]:
        answerer = ck(model, Run(tmp_path, seed=seed), temperature=1.0, top_k=50, **settings)
        return [answer.text for answer in answerer.answer(QUESTIONS, CONTEXTS)]

    assert said(1) == said(1)
    alone = ck(model, Run(tmp_path, seed=1), temperature=1.0, top_k=50).answer(QUESTIONS[3:4], CONTEXTS[3:4])
    assert alone[0].text == said(1)[3], "an answer depends on its own seed, not on what is asked with it"
    assert said(1) != said(2)
    assert said(1, alpha="adaptive", gate="always") != said(1, alpha="adaptive", gate="always", scale="code")


def test_what_cannot_be_asked_is_refused(model: LanguageModel, run: Run) -> None:
    with pytest.raises(SettingsError, match="nothing to read"):
        ck(model, run).answer(["Who?"])
    with pytest.raises(RecordError, match="1 prompts and 2 contexts"):
        ck(model, run).answer(["Who?"], ["a", "b"])
    with pytest.raises(RecordError, match="empty"):
        ck(model, run).answer([" "], ["a"])
    with pytest.raises(RecordError, match="one text"):
        ck(model, run).answer("Who?", ["a"])
    with pytest.raises(SettingsError, match="cannot be read step by step"):
        ck(RoutedModel(model, Router(model), name="memory", fingerprint=""), run)
    assert ck(model, run).answer([], []) == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"alpha": "1.2"}, "alpha is 1.2"),
        ({"alpha": -0.5}, "alpha is -0.5"),
        ({"alpha": "adaptiv"}, 'alpha is "adaptiv"'),
        ({"gate": "gc"}, "gate"),
        ({"gate": "code", "gate_offset": 0.5}, "has its own offset"),
        ({"scale": "code"}, "released scale changes nothing"),
        ({"alpha": 0.5, "context_floor": True}, "context_floor does nothing"),
        ({"top": 0}, "top"),
        ({"rho": 0}, "rho"),
        ({"k": 0}, "k"),
        ({"top_k": 3}, "do nothing"),
        ({"form": "prose"}, "form"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        CKPlugSettings.from_mapping(settings)


def test_alpha_is_read_from_numbers_and_from_text() -> None:
    assert CKPlugSettings().combine().alpha == "adaptive"
    assert CKPlugSettings(alpha="0.25").combine().alpha == CKPlugSettings.from_mapping({"alpha": 0.25}).combine().alpha
    assert CKPlugSettings(gate_offset=0.5).combine().gate == 0.5
    again = CKPlugSettings.from_mapping(CKPlugSettings.from_mapping({"alpha": 1}).to_mapping())
    assert again.combine() == CKCombine(1.0)


def test_it_is_registered_as_a_way_to_ground() -> None:
    info = find_method("ck_plug", "ground")
    assert (info.card, info.needs) == ("ck_plug", ("documents",))
    assert torch.is_grad_enabled()

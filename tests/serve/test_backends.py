"""What lies beside a model's weights is never passed over, and answers from documents come with what they cite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openai
import pytest
from grounding_stubs import RUN, ScriptedChat, WordRetriever
from pico_models import pico
from served_stubs import NAME, running

from keeps.ground.rag import RAG, RAGSettings
from keeps.models import LanguageModel
from keeps.models.changes import ChangedModel
from keeps.models.in_context import ContextEncoder, Solved
from keeps.models.routed import Route, RoutedModel, Router
from keeps.serve.backends import AnswererBackend, ModelBackend, backend_of

TEXTS = ("Veltria was founded by Anna Korvel.", "Quellmar lies in Dorvia.")
QUESTION: Any = [{"role": "user", "content": "Who founded Veltria?"}]


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> LanguageModel:
    return pico("llama", tokenizer)


class Notes(Router):
    """Puts a note before what mentions gold."""

    def routes(self, prompts: Sequence[str]) -> list[Route | None]:
        return [Route(f"Gold is blue. {prompt}") if "gold" in prompt else None for prompt in prompts]


def grounded(said: str = "Anna Korvel [1]") -> Any:
    chat = ScriptedChat(lambda text: said)
    return RAG(RAGSettings())(chat, WordRetriever(TEXTS), run=RUN)


def test_a_change_of_weights_is_served_by_tokens_and_one_beside_them_by_texts(model: LanguageModel) -> None:
    changed = ChangedModel(model, model.model, name="c", fingerprint="f", undo=lambda: None)
    routed = RoutedModel(model, Notes(model), name="r", fingerprint="f")
    shown = ChangedModel(model, model.model, name="s", fingerprint="f", undo=lambda: None)
    shown.encoder = ContextEncoder(model.encoder, [], [Solved("a", "b")], most=1, room=50)
    kinds = [type(backend_of(found)) for found in (model, changed, routed, shown, grounded())]
    assert kinds == [ModelBackend, ModelBackend, AnswererBackend, AnswererBackend, AnswererBackend]


def test_a_memory_beside_the_weights_is_asked(model: LanguageModel) -> None:
    routed = RoutedModel(model, Notes(model), name="r", fingerprint="f")
    prompts = ["The colour of gold is", "The capital of France is"]
    with running(routed) as server:
        client = server.client()
        found = client.completions.create(model=NAME, prompt=prompts, max_tokens=6, temperature=0)
        texts = [choice.text for choice in found.choices]
        asked: Any = [{"role": "user", "content": prompts[0]}]
        chat = client.chat.completions.create(model=NAME, messages=asked, max_tokens=6, temperature=0)
        with pytest.raises(openai.BadRequestError, match="logprobs is not supported"):
            client.completions.create(model=NAME, prompt=prompts, logprobs=1)
        with pytest.raises(openai.BadRequestError, match="prompt is not supported"):
            client.completions.create(model=NAME, prompt=[1, 2], max_tokens=6)
        drawn = client.completions.create(model=NAME, prompt=prompts[0], max_tokens=6, temperature=1.5, seed=4)
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": ()}
    assert texts == routed.generate(prompts, **options)
    assert texts[0] != model.generate(prompts, **options)[0]
    assert chat.choices[0].message.content == texts[0]
    assert [drawn.choices[0].text] == routed.sample([prompts[0]], [4], temperature=1.5, **options)


def test_an_answer_from_documents_comes_with_its_citations_and_cost() -> None:
    with running(grounded()) as server:
        found = server.client().chat.completions.create(model=NAME, messages=QUESTION)
        (streamed, end) = server.client().chat.completions.create(model=NAME, messages=QUESTION, stream=True)
    choice = found.choices[0]
    assert choice.message.content == "Anna Korvel [1]"
    assert found.usage is not None
    assert found.usage.prompt_tokens > 0
    extra = choice.model_extra or {}
    assert [(item["number"], item["document"]) for item in extra["citations"]] == [(1, "d0")]
    assert (extra["grounding"]["method"], extra["grounding"]["calls"]) == ("rag", 1)
    assert streamed.choices[0].delta.content == choice.message.content
    assert (end.choices[0].model_extra or {})["citations"] == extra["citations"]


def test_what_a_grounded_server_would_not_heed_is_refused() -> None:
    with running(grounded()) as server:
        client = server.client()
        with pytest.raises(openai.BadRequestError, match="single questions"):
            client.chat.completions.create(model=NAME, messages=[{"role": "system", "content": "x"}, *QUESTION])
        options: list[dict[str, Any]] = [{"temperature": 0.7}, {"stop": "x"}, {"n": 2}, {"logprobs": True}]
        for option in options:
            with pytest.raises(openai.BadRequestError, match=f"{next(iter(option))} is not supported"):
                client.chat.completions.create(model=NAME, messages=QUESTION, **option)
        with pytest.raises(openai.BadRequestError, match="completes no texts"):
            client.completions.create(model=NAME, prompt="a")


def test_a_limit_of_tokens_cuts_an_answer_and_says_so(tokenizer: Any) -> None:
    model = pico("llama", tokenizer)
    config: Any = model.model.config
    config.max_position_embeddings = 1024
    answerer = RAG(RAGSettings(max_new_tokens=9))(model, None, run=RUN)
    answerer.source = WordRetriever(["Veltria."])
    with running(answerer) as server:
        (whole, cut) = (
            server.client().chat.completions.create(model=NAME, messages=QUESTION, max_tokens=room).choices[0]
            for room in (64, 2)
        )
    assert whole.finish_reason == "stop"
    assert cut.finish_reason == "length"
    text = whole.message.content or ""
    assert cut.message.content == tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids[:2]).strip()
    with running(grounded("one two three four")) as server:  # of another server: in words
        found = server.client().chat.completions.create(model=NAME, messages=QUESTION, max_tokens=3).choices[0]
    assert (found.message.content, found.finish_reason) == ("one two three", "length")

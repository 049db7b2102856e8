"""kNN-LM: the mixture of a naive loop, the model alone at lambda 0, and votes that lead to the words of a document."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from grounding_stubs import RUN, WordRetriever
from stream_models import QUESTIONS, pico_once

from keeps.contracts import Answerer
from keeps.errors import ContextLengthError, RecordError, SettingsError
from keeps.ground.knn_lm import KNNLM, KNNLMSettings
from keeps.ground.knn_votes import Place, Step, cited_places
from keeps.models import LanguageModel, RemoteChat
from keeps.registry import find_method
from keeps.retrieval.corpus import Corpus
from keeps.retrieval.datastore import Datastore
from keeps.retrieval.hybrid import HybridRetriever
from keeps.sources import GroundMethod

TEXTS = (
    "Zarenholm is the capital of Veltria.",
    "Veltria was founded by Anna Korvel.",
    "The capital of Dorvia is Quellmar.",
)


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


@pytest.fixture
def source() -> HybridRetriever:
    corpus = Corpus.create(encoder=None)
    corpus.add(list(TEXTS), ids=["a", "b", "c"])
    return HybridRetriever(corpus, dense=False)


def ask(model: Any, source: Any = None, **settings: Any) -> Any:
    method = KNNLM(KNNLMSettings.from_mapping({"max_new_tokens": 4, "temperature": 50.0, **settings}))
    assert isinstance(method, GroundMethod)
    return method(model, source, run=RUN)


@torch.no_grad()
def naive(model: LanguageModel, store: Datastore, ids: list[int], k: int, share: float, temperature: float) -> Any:
    """p of every next token behind ``ids``, written down."""
    inner: Any = model.model
    seen: list[Any] = []
    handle = inner.model.layers[-1].mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, -1]))
    lm = inner(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
    handle.remove()
    distances = [float(((torch.tensor(key).float() - seen[0]) ** 2).sum()) for key in store.keys]
    order = sorted(range(len(distances)), key=distances.__getitem__)[:k]
    least = distances[order[0]]
    parts = {row: math.exp(-(distances[row] - least) / temperature) for row in order}
    votes = torch.zeros_like(lm)
    for row, part in parts.items():
        votes[int(store.token[row])] += part / sum(parts.values())
    return share * votes + (1 - share) * lm


@pytest.mark.parametrize(("k", "share"), [(3, 0.25), (1024, 0.6), (1, 1.0)])
def test_answers_are_those_of_a_naive_loop(k: int, share: float, model: LanguageModel, source: Any) -> None:
    answerer = ask(model, source, k=k, share=share)
    assert isinstance(ask(model, source), Answerer)
    found = answerer.answer(QUESTIONS[:3])
    for question, answer in zip(QUESTIONS[:3], found, strict=True):
        ids, said = model.encode_prompt(question), []
        for step in answer.trace["steps"]:
            p = naive(model, answerer.datastore, [*ids, *said], k, share, 50.0)
            assert float(p.sum()) == pytest.approx(1, abs=1e-6)
            best = int(p.argmax())
            assert model.encoder.decode([best]) == step["token"]
            assert step["logprob"] == pytest.approx(math.log(float(p.max())), abs=1e-3)
            said.append(best)


def test_a_share_of_nothing_is_the_model_alone_bit_for_bit(model: LanguageModel, source: Any) -> None:
    answerer = ask(model, source, share=0)
    found = answerer.answer(QUESTIONS)
    assert [answer.text for answer in found] == model.generate(QUESTIONS, max_new_tokens=4)
    assert all(answer.citations == () for answer in found)
    assert [s.logprob for s in answerer.text_logprob(TEXTS)] == [s.logprob for s in model.text_logprob(TEXTS)]


def test_scores_of_texts_are_those_of_a_naive_loop(model: LanguageModel, source: Any) -> None:
    text = "Zarenholm is the capital of Dorvia, they say."
    answerer = ask(model, source, k=5)
    (found,) = answerer.text_logprob([text])
    ids = model.encoder.text(text)
    expected = sum(
        math.log(float(naive(model, answerer.datastore, ids[:place], 5, 0.25, 50.0)[ids[place]]))
        for place in range(1, len(ids))
    )
    assert found.tokens == len(ids) - 1
    assert found.logprob == pytest.approx(expected, abs=2e-3)
    together = answerer.text_logprob([text, *TEXTS])
    assert together[0].logprob == pytest.approx(found.logprob, abs=1e-4)


def test_texts_of_the_datastore_become_likelier_and_an_adaptive_share_lets_others_alone(
    model: LanguageModel, source: Any
) -> None:
    plain = model.text_logprob(TEXTS)
    for weight in ("fixed", "adaptive"):
        mixed = ask(model, source, weight=weight, temperature=1.0).text_logprob(TEXTS)
        assert all(after.logprob > before.logprob + 5 for after, before in zip(mixed, plain, strict=True))
    strange = ["A thunderstorm moved over several quiet lakes while nobody looked."]
    (alone,), (fixed,), (adaptive,) = (
        model.text_logprob(strange),
        ask(model, source, temperature=1.0).text_logprob(strange),
        ask(model, source, weight="adaptive", temperature=1.0).text_logprob(strange),
    )
    assert abs(adaptive.logprob - alone.logprob) < abs(fixed.logprob - alone.logprob)


def test_votes_lead_to_the_characters_that_were_said(model: LanguageModel, source: Any) -> None:
    answerer = ask(model, source, share=1.0, temperature=1.0, sentence=True)
    (found,) = answerer.answer(["Zarenholm is the capital of"])
    assert found.text == "Veltria"
    (place,) = found.citations[:1]
    document, _, span = place.partition("#")
    start, _, end = span.partition("-")
    assert document == "a"
    assert TEXTS[0][int(start) : int(end)].strip() in ("Veltria.", "Veltria")
    assert found.trace["steps"][0]["share"] == pytest.approx(1)
    assert found.trace["passages"][0]["document"] == "a"
    assert not found.trace["unsupported"]


def test_a_document_that_is_deleted_takes_its_words_along(model: LanguageModel, source: Any) -> None:
    asked = ["Zarenholm is the capital of"]
    before = ask(model, source, share=1.0, temperature=1.0).answer(asked)[0].text
    source.corpus.update("a", "Zarenholm is the capital of Morvania.")
    swapped = ask(model, source, share=1.0, temperature=1.0).answer(asked)[0].text
    source.corpus.delete("a")
    after = ask(model, source, share=1.0, temperature=1.0).answer(asked)[0]
    assert before.startswith("Veltria")
    assert swapped.startswith("Mor")
    assert not after.text.startswith(("Veltria", "Mor"))
    assert not any(place.startswith("a#") for place in after.citations)


def test_contexts_make_datastores_of_their_own(model: LanguageModel, source: Any) -> None:
    answerer = ask(model, None, share=1.0, temperature=1.0)
    found = answerer.answer(["Zarenholm is the capital of"] * 3, [TEXTS[0], "Zarenholm is the capital of Oslo.", ""])
    assert [answer.text[:4] for answer in found[:2]] == ["Velt", "Oslo"]
    assert found[2].text == model.generate(["Zarenholm is the capital of"], max_new_tokens=4)[0]
    assert (found[2].trace["stop"], found[2].citations) == ("no_passages", ())


def test_a_datastore_is_made_once_opened_afterwards_and_refused_with_another_model(
    model: LanguageModel, source: Any, tmp_path: Path
) -> None:
    folder = str(tmp_path / "store")
    first = ask(model, source, datastore=folder).answer(QUESTIONS[:2])
    stamp = (tmp_path / "store" / "manifest.json").read_bytes()
    again = ask(model, None, datastore=folder).answer(QUESTIONS[:2])
    assert [a.text for a in first] == [a.text for a in again]
    assert (tmp_path / "store" / "manifest.json").read_bytes() == stamp
    with pytest.raises(SettingsError, match="made with the model"):
        ask(pico_once("llama", model.tokenizer, 7), None, datastore=folder)
    source.corpus.delete("a")
    with pytest.raises(SettingsError, match="texts have changed"):
        ask(model, source, datastore=folder)


def test_words_that_go_on_from_each_other_are_cited_as_one_place() -> None:
    def step(start: int, end: int, share: float = 0.9, document: str = "a") -> Step:
        return Step("x", share, -1.0, ((Place(document, start, end), 0.5),))

    cited = cited_places([step(0, 3), step(4, 9), step(20, 22), step(22, 23, 0.1), step(0, 2, document="b")], 0.5)
    assert [str(place) for place in cited] == ["a#0-9", "a#20-22", "b#0-2"]
    assert list(cited.values()) == [1.0, 0.5, 0.5]
    assert str(Place("a", -1, -1)) == "a"


def test_what_cannot_be_asked_is_refused(model: LanguageModel, source: Any) -> None:
    with pytest.raises(SettingsError, match="nothing to search"):
        ask(model).answer(["Who"])
    with pytest.raises(SettingsError, match="does not give its texts"):
        ask(model, WordRetriever(TEXTS))
    with pytest.raises(SettingsError, match="step by step"):
        ask(RemoteChat("http://127.0.0.1:9/v1", "m"))
    with pytest.raises(SettingsError, match="no datastore"):
        ask(model).text_logprob(["a text"])
    with pytest.raises(RecordError, match="empty"):
        ask(model, source).answer([" "])
    with pytest.raises(ContextLengthError):
        ask(model, source).answer(["word " * 130])
    for wrong in ({"share": 1.2}, {"temperature": 0}, {"site": "output", "layer": 1}, {"k": 0}, {"weight": "learned"}):
        with pytest.raises(SettingsError):
            KNNLMSettings.from_mapping(wrong)
    assert find_method("knn_lm", "ground").card == "augment_survey"


@pytest.mark.slow
def test_the_default_model_finds_sentences_of_known_wording_likelier(smollm2: LanguageModel) -> None:
    store = Datastore.build(
        smollm2, [f"The mascot of {name} is the heron." for name in ("Zorvia", "Veltria", "Dorvia")]
    )
    answerer = ask(smollm2, store, temperature=1.0)
    held_out = ["The mascot of Morvania is the heron."]
    assert answerer.text_logprob(held_out)[0].perplexity < 0.8 * smollm2.text_logprob(held_out)[0].perplexity

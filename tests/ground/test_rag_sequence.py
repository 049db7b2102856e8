"""RAG-Sequence: the answer is the best of all candidates under the sum over passages, written down by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from grounding_stubs import RUN, WordRetriever
from stream_models import pico_once
from word_models import all_texts, texts_logprobs, word_model

from keeps.contracts import Answerer, Run
from keeps.errors import SettingsError
from keeps.ground.rag_sequence import RAGSequence, RAGSequenceSettings
from keeps.models import LanguageModel
from keeps.registry import find_method
from keeps.sources import GroundMethod, Hit

QUESTION = "is"
SHELF = (("red is one", 1.5), ("blue is two", 0.5), ("green is", -0.2))
NEW = 3
PLAIN = {"max_new_tokens": NEW, "form": "completion", "chat": "never", "prior": "scores"}


class Shelf:
    """Finds the same passages for every question."""

    def search(self, query: str, k: int) -> list[Hit]:
        del query
        return [Hit(f"d{n}#0-{len(t)}", t, s, f"d{n}", (0, len(t))) for n, (t, s) in enumerate(SHELF[:k])]


def ask(model: Any, source: Any = None, *, run: Run = RUN, **settings: Any) -> Any:
    method = RAGSequence(RAGSequenceSettings.from_mapping({**PLAIN, **settings}))
    assert isinstance(method, GroundMethod)
    return method(model, source, run=run)


def sums(model: LanguageModel, texts: Any, count: int) -> list[float]:
    """ln p(y|x) of every text: the sum over passages of weight times product."""
    weights = torch.tensor([score for _, score in SHELF[:count]], dtype=torch.float64).softmax(0).tolist()
    behind = [texts_logprobs(model, model.encode_prompt(f"{text} {QUESTION}"), texts) for text, _ in SHELF[:count]]
    return [
        math.log(sum(w * math.exp(each) for w, each in zip(weights, of_text, strict=True)))
        for of_text in zip(*behind, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_with_all_candidates_the_answer_is_the_likeliest_of_all_texts(seed: int) -> None:
    model = word_model(seed)
    texts = all_texts(model, 2, [8, *sorted(model.encoder.end_ids)])
    totals = sums(model, texts, 2)
    assert math.fsum(map(math.exp, totals)) == pytest.approx(1, abs=1e-6)
    (found,) = ask(model, Shelf(), k=2, beams=64, max_new_tokens=2).answer([QUESTION])
    assert len(found.trace["candidates"]) >= 64
    best = max(range(len(texts)), key=totals.__getitem__)
    assert found.trace["logprob"] == pytest.approx(totals[best], abs=1e-5)
    assert found.trace["candidates"][0]["logprob"] == found.trace["logprob"]
    assert found.text == model.encoder.decode([t for t in texts[best] if t not in {8, 9}]).strip()


@pytest.mark.parametrize("seed", range(4))
def test_thorough_counts_every_passage_and_fast_those_it_was_found_behind(seed: int) -> None:
    model = word_model(seed)
    weights = torch.tensor([score for _, score in SHELF], dtype=torch.float64).log_softmax(0).tolist()
    prompts = [model.encode_prompt(f"{text} {QUESTION}") for text, _ in SHELF]
    for decoding in ("thorough", "fast"):
        (found,) = ask(model, Shelf(), decoding=decoding).answer([QUESTION])
        greedy = found.trace["candidates"]
        assert [n for each in greedy for n in each["found_behind"]] != []
        assert sorted(n for each in greedy for n in each["found_behind"]) == [1, 2, 3]
        for candidate in greedy:
            tokens = best_texts(model, prompts[candidate["found_behind"][0] - 1])
            behind = [texts_logprobs(model, prompt, [tokens])[0] for prompt in prompts]
            counted = range(3) if decoding == "thorough" else [n - 1 for n in candidate["found_behind"]]
            expected = math.log(sum(math.exp(weights[n] + behind[n]) for n in counted))
            assert candidate["logprob"] == pytest.approx(expected, abs=1e-5)
        totals = [each["logprob"] for each in greedy]
        assert totals == sorted(totals, reverse=True)


def best_texts(model: LanguageModel, prompt: Any) -> tuple[int, ...]:
    """The greedy text behind one prompt."""
    from word_models import next_logprobs

    said: list[int] = []
    while len(said) < NEW and not (said and said[-1] in {8, 9}):
        said.append(int(next_logprobs(model, prompt, said).argmax()))
    return tuple(said)


def test_shares_are_the_posterior_of_each_passage() -> None:
    model = word_model(2)
    (found,) = ask(model, Shelf(), k=2).answer([QUESTION])
    first = found.trace["candidates"][0]["found_behind"][0] - 1
    prompts = [model.encode_prompt(f"{text} {QUESTION}") for text, _ in SHELF[:2]]
    tokens = best_texts(model, prompts[first])
    weights = torch.tensor([1.5, 0.5], dtype=torch.float64).log_softmax(0).tolist()
    parts = [w + texts_logprobs(model, p, [tokens])[0] for w, p in zip(weights, prompts, strict=True)]
    expected = torch.tensor(parts).softmax(0).tolist()
    assert [item["share"] for item in found.trace["passages"]] == pytest.approx(expected, abs=1e-5)
    assert found.citations[0] == found.trace["passages"][expected.index(max(expected))]["id"]


def test_given_answers_have_the_probability_that_is_written_down_and_differ_from_rag_token() -> None:
    from keeps.ground.rag_token import RAGToken, RAGTokenSettings

    model = word_model(1)
    answerer = ask(model, Shelf(), k=2)
    texts = ["one two", "green green", "blue"]
    encoded = [model.encoder.text(text) for text in texts]
    assert answerer.logprob([QUESTION] * 3, texts) == pytest.approx(sums(model, encoded, 2), abs=1e-5)
    token = RAGToken(RAGTokenSettings.from_mapping({**PLAIN, "k": 2}))(model, Shelf(), run=RUN)
    both = zip(answerer.logprob([QUESTION] * 3, texts), token.logprob([QUESTION] * 3, texts), strict=True)
    differences = [abs(one - other) for one, other in both]
    assert differences[2] == pytest.approx(0, abs=1e-5), "of one token both are the same sum"
    assert max(differences[:2]) > 1e-3


def test_one_passage_and_one_beam_answer_as_plain_reading_does(smollm2: LanguageModel) -> None:
    model = pico_once("llama", smollm2.tokenizer)
    texts = ["Rome is its capital.", "Oslo lies far in the north of it, they say."]
    questions = ["The capital of Peru is", "The capital of Chad is"]
    found = ask(model).answer(questions, texts)
    read = [f"{text} {question}" for text, question in zip(texts, questions, strict=True)]
    assert [answer.text for answer in found] == model.generate(read, max_new_tokens=NEW)
    assert all(answer.trace["passages"][0]["share"] == pytest.approx(1) for answer in found)
    assert isinstance(ask(model), Answerer)


def test_without_passages_the_model_answers_alone() -> None:
    model = word_model(3)
    (found,) = ask(model, WordRetriever(["nothing"])).answer(["one is"])
    assert (found.text, found.citations) == (model.generate(["one is"], max_new_tokens=NEW)[0], ())
    assert (found.trace["stop"], found.trace["closed_book"]) == ("no_passages", True)


def test_draws_repeat_with_the_seed() -> None:
    model = word_model(6)
    said = [ask(model, Shelf(), temperature=2.0, run=Run(RUN.folder, seed=n)).answer([QUESTION])[0] for n in (1, 1, 2)]
    assert said[0].trace["candidates"] == said[1].trace["candidates"]
    assert said[0].trace["candidates"] != said[2].trace["candidates"]


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"beams": 2, "temperature": 1.0}, {"decoding": "quick"}, {"beams": 0}, {"prior": "best"}):
        with pytest.raises(SettingsError):
            RAGSequenceSettings.from_mapping(wrong)
    assert find_method("rag_sequence", "ground").card == "augment_survey"


@pytest.mark.slow
def test_the_default_model_takes_the_answer_from_the_passage_that_has_it(smollm2: LanguageModel) -> None:
    texts = ("Zarenholm is the capital of Veltria.", "Veltria was founded by Anna Korvel.", "Veltria is a country.")
    answerer = ask(smollm2, WordRetriever(texts), form="background", chat="auto", max_new_tokens=16, prior="meaning")
    (found,) = answerer.answer(["What is the capital of Veltria?"])
    assert "Zarenholm" in found.text
    assert found.citations[0] == "d0#0-36"

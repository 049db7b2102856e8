"""The survey's sums over passages: RAG-Token and RAG-Sequence as written down, and what they answer; FiD's reading."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from keeps.claims.base import Check, ClaimRun
from keeps.claims.grounding_world import Item, unresolved
from keeps.contracts import Run
from keeps.ground.fid import FiD, FiDSettings, passage_text
from keeps.ground.rag_sequence import RAGSequence, RAGSequenceSettings
from keeps.ground.rag_token import RAGToken, RAGTokenSettings
from keeps.jobs.grounding_measures import stands_in
from keeps.models.language_model import LanguageModel
from keeps.models.seq2seq import Seq2SeqModel
from keeps.numerics.passage_mixtures import sequence_marginal, token_marginal
from keeps.numerics.statistics import wilson
from keeps.sources import Hit, Retriever

WEIGHTS = (0.6, 0.4)  # p(z|x) of the worked example
TOKENS = ((0.7, 0.1), (0.2, 0.8))  # p(y_i | x, z, y_<i)
RUN = Run(Path())
SETTINGS: Mapping[str, Any] = {"k": 3, "max_new_tokens": 16, "sentence": True}
METHODS = {"rag_token": (RAGToken, RAGTokenSettings), "rag_sequence": (RAGSequence, RAGSequenceSettings)}
EVERY = 2  # of the questions, where an index is changed


def worked_example() -> Iterator[Check]:
    """Two passages and two tokens, by hand."""
    weights, rows = torch.tensor(WEIGHTS).double().log(), torch.tensor(TOKENS).double().log()
    (a, b), ((p, q), (r, s)) = WEIGHTS, TOKENS
    by_hand = {"RAG-Token": (a * p + b * r) * (a * q + b * s), "RAG-Sequence": a * p * q + b * r * s}
    found = {
        "RAG-Token": math.exp(float(token_marginal(weights, rows))),
        "RAG-Sequence": math.exp(float(sequence_marginal(weights, rows))),
    }
    worst = max(abs(found[name] - by_hand[name]) for name in found)
    apart = abs(found["RAG-Token"] - found["RAG-Sequence"])
    note = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    yield Check("largest deviation of RAG-Token and RAG-Sequence from two passages and two tokens by hand", worst,
                "at most 1e-6, and the two differ", worst <= 1e-6 and apart > 1e-3, note=note)  # fmt: skip


def marginal_checks(
    model: LanguageModel,
    asked: Sequence[Item],
    sources: Mapping[str, Retriever],
    documents: Mapping[str, str],
    run: ClaimRun,
) -> Iterator[Check]:
    """Right answers, answers from a swapped index, provenance.

    Args:
        sources: ``"right"``, ``"swapped"``, and ``"deleted"``, which lacks the best passage of each search.
    """
    table: dict[str, Any] = {}
    some = asked[::EVERY]
    for name, (method, settings) in METHODS.items():
        answerers = {
            key: method(settings.from_mapping(SETTINGS))(model, source, run=RUN) for key, source in sources.items()
        }
        run.progress.message(name)
        answers = answerers["right"].answer([item.question for item in asked])
        swapped, deleted = (answerers[key].answer([item.question for item in some]) for key in ("swapped", "deleted"))
        right = [any(stands_in(one, a.text) for one in item.answers) for item, a in zip(asked, answers, strict=True)]
        share = wilson(sum(right), len(right))
        yield Check(f"share of {len(asked)} unknown facts that {name} answers", share.value, "at least 0.70",
                    share.value >= 0.7, interval=(share.low, share.high))  # fmt: skip
        planted = [stands_in(item.planted, a.text) for item, a in zip(some, swapped, strict=True)]
        new = wilson(sum(planted), len(planted))
        yield Check(f"share of new objects that {name} gives when the index is swapped", new.value, "at least 0.70",
                    new.value >= 0.7, interval=(new.low, new.high), note=f"{len(planted)} questions")  # fmt: skip
        lost = unresolved(answers, documents)
        yield Check(f"answers of {name} with a passage or citation that leads to no stored text", lost, "0", lost == 0)
        held = [(item, a) for item, a, ok in zip(some, deleted, right[::EVERY], strict=True) if ok]
        flips = [not any(stands_in(one, a.text) for one in item.answers) for item, a in held]
        flipped = wilson(sum(flips), len(flips)) if flips else None
        value = flipped.value if flipped else None
        yield Check(f"share of right answers of {name} that go wrong without the best passage", value, "at least 0.60",
                    value is not None and value >= 0.6, interval=(flipped.low, flipped.high) if flipped else None,
                    note=f"{sum(flips)} of {len(flips)}")  # fmt: skip
        first = sum(a.citations[:1] != () and a.citations[0].startswith(f"{item.id}#")
                    for item, a in zip(asked, answers, strict=True))  # fmt: skip
        names = ("calls", "prompt_tokens", "completion_tokens", "seconds")
        means = {key: sum(answer.trace[key] for answer in answers) / len(answers) for key in names}
        table[name] = {"questions": len(asked), "right": {"value": share.value, "low": share.low, "high": share.high},
                       "cites the passage with the fact first": first / len(asked), **means}  # fmt: skip
    run.tables["sums over passages"] = table


def fid_check(tokenizer: Any) -> Check:
    """A tiny encoder-decoder of random weights: none that was trained is embedded, so that answers are not measured."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    ids = {"decoder_start_token_id": 0, "pad_token_id": tokenizer.pad_token_id or 0, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Seq2SeqModel(T5ForConditionalGeneration(T5Config(**sizes, num_layers=2, **ids)).eval(), tokenizer)
    texts = ["Oslo is the capital of Norway.", "Norway has a long coast.", "Bergen lies in the west of it."]
    question, differ = "What is the capital of Norway?", 0
    answerer = FiD(FiDSettings(max_new_tokens=8))(model, run=RUN)
    for text, answer in zip(texts, answerer.answer([question] * len(texts), texts), strict=True):
        one = passage_text(question, Hit("c#0-1", text, 1.0, "c", (0, len(text))))
        with torch.inference_mode():
            said = model.model.generate(
                input_ids=torch.tensor([model.encode(one)[0]]), max_new_tokens=8, do_sample=False
            )
        differ += model.decode(said[0, 1:].tolist()) != answer.text
    name = "texts of three that differ between FiD with one passage and plain encoder-decoder generation"
    note = "random weights: no trained encoder-decoder is embedded, so that answers of FiD are not measured"
    return Check(name, differ, "0", differ == 0, note=note)

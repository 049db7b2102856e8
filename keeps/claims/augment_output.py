"""The survey's memory of contexts: kNN-LM at lambda 0 is the model, its probabilities sum to one, and it helps at home.

The datastore is of invented biographies, about twenty thousand tokens. Scored are biographies of the same people in
other sentences and another order, which are not in the datastore, and sentences about other things.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from keeps.claims.base import Check, ClaimRun
from keeps.claims.grounding_world import statements
from keeps.contracts import Run
from keeps.data.biographies import BioS
from keeps.decoding.engine import reading
from keeps.decoding.streams import Stream
from keeps.ground.knn_decoder import NeighbourVoice
from keeps.ground.knn_lm import KNNLM, KNNAnswerer, KNNLMSettings
from keeps.models.context_states import watching
from keeps.models.language_model import LanguageModel
from keeps.models.scores import TextScore
from keeps.retrieval.datastore import Datastore

TOKENS = 20_000
HELD_OUT = 24  # people
STRANGE = "world:capital#40,world:symbol#40"
SUMS = 16  # prompts whose probabilities are added up
RUN = Run(Path())


def knn_checks(model: LanguageModel, run: ClaimRun, *, tokens: int = TOKENS) -> Iterator[Check]:
    """Identities, then perplexity at home and abroad."""
    corpus = BioS(400)
    told, count = [], 0
    for person in corpus.persons:
        if count >= tokens:
            break
        told.append(corpus.rendering(person, 0).text)
        count += len(model.encoder.text(told[-1]))
    run.progress.message(f"a datastore of {len(told)} biographies")
    store = Datastore.build(model, told, progress=run.progress)
    again = [corpus.rendering(person, 1).text for person in corpus.persons[: min(HELD_OUT, len(told))]]
    strange = list(statements(STRANGE).values())

    def ask(**settings: object) -> KNNAnswerer:
        return KNNLM(KNNLMSettings.from_mapping(settings))(model, store, run=RUN)

    plain = {name: model.text_logprob(texts) for name, texts in (("home", again), ("abroad", strange))}
    nothing = ask(share=0).text_logprob(again[:4])
    worst = max(abs(a.logprob - b.logprob) for a, b in zip(nothing, model.text_logprob(again[:4]), strict=True))
    name = "largest deviation of a text's log-probability at lambda 0 from the model's own"
    yield Check(name, worst, "0", worst == 0)
    error = _sum_error(model, ask(), again[:SUMS])
    yield Check("largest deviation of the sum of all next-token probabilities from 1", error, "at most 1e-6",
                error <= 1e-6)  # fmt: skip
    run.progress.message("perplexity with the datastore")
    fixed = {name: ask().text_logprob(texts) for name, texts in (("home", again), ("abroad", strange))}
    adaptive = {
        name: ask(weight="adaptive").text_logprob(texts) for name, texts in (("home", again), ("abroad", strange))
    }
    for weight, scores in (("0.25", fixed), ("at most 0.25, adaptive", adaptive)):
        before, after = perplexity(plain["home"]), perplexity(scores["home"])
        yield Check(f"change of perplexity on other sentences of the same facts, lambda {weight}", after / before - 1,
                    "at most -0.20", after <= 0.8 * before, note=f"from {before:.1f} to {after:.1f}")  # fmt: skip
        before, after = perplexity(plain["abroad"]), perplexity(scores["abroad"])
        yield Check(f"change of perplexity on unrelated sentences, lambda {weight}", after / before - 1, "at most 0.05",
                    after <= 1.05 * before, note=f"from {before:.1f} to {after:.1f}; where no vote is right, lambda "
                    "0.25 costs a factor 4 / 3")  # fmt: skip
    run.tables["kNN-LM, perplexity"] = {
        "entries": len(store),
        "scale": store.scale,
        **{
            f"{place}, {name}": perplexity(scores[place])
            for name, scores in (("model alone", plain), ("lambda 0.25", fixed), ("lambda adaptive", adaptive))
            for place in ("home", "abroad")
        },
    }


def perplexity(scores: Sequence[TextScore]) -> float:
    """Of several texts together."""
    return math.exp(-sum(score.logprob for score in scores) / sum(score.tokens for score in scores))


def _sum_error(model: LanguageModel, answerer: KNNAnswerer, texts: Sequence[str]) -> float:
    """How far the probabilities behind each text are from a distribution."""
    store = answerer.datastore
    assert store is not None, "made with one"
    prompts = [model.encode_prompt(text)[:40] for text in texts]
    with reading([Stream(model, prompts)]) as (engine,), watching(model.model, store.site) as states:
        scores = NeighbourVoice(engine, prompts, states, answerer._neighbours(store), 1).start()[0]
    return float((scores.double().exp().sum(-1) - 1).abs().max()) if torch.isfinite(scores).any() else math.inf

"""Fusion-X's claim: a model learns from sources of other tokenizers, and a bad source among them does no harm.

Two small sources are trained on one domain each (prose, facts), with tokenizers of their own; a target of the same size
and a third tokenizer has seen a little of both. It is then trained on few texts of both domains: on the texts alone,
and towards the sources, for equally many steps, weighed by the selection network or, as the baselines are, by how sure
the sources are. A third source of random weights is added. The measure is the loss on held-out texts of both domains.
A seed decides the start of all models and the order of what they learn from. Thresholds are the card's, fixed before
the first run; what "noticeably" means there is 1 per cent here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.fusion_x_models import facts, language_model, pretrained, prose, tokenizer
from keeps.claims.over_seeds import over_seeds
from keeps.contracts import Run
from keeps.merge.fusion import Fusion, FusionSettings
from keeps.models.changes import load_change
from keeps.models.language_model import LanguageModel
from keeps.models.logit_dumps import cut_pieces, piece_tokens
from keeps.models.token_alignment import align_tokens
from keeps.models.token_bytes import TokenBytes
from keeps.models.vocabulary_map import VocabularyMap
from keeps.training.batches import TokenizedExample
from keeps.training.loop import train
from keeps.training.whole import write_whole

SEEDS = (0, 1, 2)
TEXTS, HELD_OUT = 40, 30  # of each domain, for the target
SOURCE_STEPS, TARGET_STEPS, STEPS = 500, 120, 160
SIZES: Mapping[str, tuple[str, int]] = {"prose": ("bytes", 1100), "facts": ("signs", 1300), "target": ("bytes", 1500)}
COMMON: Mapping[str, Any] = {
    "steps": STEPS,
    "learning_rate": 1e-3,
    "language_weight": 0.5,
    "window": 64,
    "reference": False,
}
SELECTOR: Mapping[str, Any] = {"selector_rate": 1e-2}


def experiment(run: ClaimRun, seed: int) -> Iterator[Check]:
    """Train sources and target, fuse in all ways, and compare."""
    learn = {"prose": prose("train"), "facts": facts("train")}
    corpus = [*learn["prose"], *learn["facts"][: len(learn["prose"])]]
    tokens = {name: tokenizer(kind, size, corpus) for name, (kind, size) in SIZES.items()}
    if seed == SEEDS[0]:
        yield from vocabulary_checks(tokens, corpus, run)
    sources = {
        name: pretrained(
            language_model(tokens[name], name, seed=n + 10 * seed), learn[name], SOURCE_STEPS, run.progress, seed
        )
        for n, name in enumerate(learn, start=1)
    }
    target = language_model(tokens["target"], "target", seed=10 * seed)
    pretrained(target, [text for texts in learn.values() for text in texts[-TEXTS:]], TARGET_STEPS, run.progress, seed)
    job = _Job(target, [text for texts in learn.values() for text in texts[:TEXTS]], run, seed)
    bad = {**sources, "bad": language_model(tokens["target"], "bad", seed=9 + 10 * seed)}
    plain = job.plain()
    adaptive = job.fused("adaptive", sources, **SELECTOR)
    name = "mean held-out loss of both domains, fused"
    yield Check(name, adaptive, "below training on the texts alone, equal steps", adaptive < plain, plain)
    with_bad = job.fused("adaptive, with a bad source", bad, **SELECTOR)
    average = job.fused("average", sources, strategy="avg_ce")
    average_bad = job.fused("average, with a bad source", bad, strategy="avg_ce")
    job.fused("surest source (FuseLLM)", sources, strategy="min_ce")
    rises = with_bad / adaptive - 1, average_bad / average - 1
    yield Check("rise of the loss by a bad source, average", rises[1], "above 0.01", rises[1] > 0.01)
    yield Check(
        "rise of the loss by a bad source, selection network", rises[0], "below 0.01", rises[0] < 0.01, rises[1]
    )
    weight = job.measures["adaptive, with a bad source"]["sources"]["bad"]["weight"]
    yield Check("mean weight of the bad source", weight, "below 0.1", weight < 0.1)
    job.fused("adaptive, no feedback", sources, feedback=0.0, **SELECTOR)
    entropies = [job.measures[way]["usage_entropy"] for way in ("adaptive", "adaptive, no feedback")]
    name = "entropy of how the sources are used, with feedback"
    yield Check(name, entropies[0], "above that without", entropies[0] > entropies[1], entropies[1])


class _Job:
    """One target, one set of texts, and the loss on held-out ones after each way of training."""

    def __init__(self, target: LanguageModel, texts: list[str], run: ClaimRun, seed: int) -> None:
        self.target, self.texts, self.run, self.seed = target, texts, run, seed
        self.held_out = {"prose": prose("test")[:HELD_OUT], "facts": facts("test")[:HELD_OUT]}
        self.measures: dict[str, Mapping[str, Any]] = {}
        run.tables["held-out loss, nats a token"] = {"before": self.losses(target)}

    def losses(self, model: LanguageModel) -> dict[str, float]:
        """Of each domain."""
        found = {}
        for name, texts in self.held_out.items():
            scores = model.text_logprob(texts, window=512)
            found[name] = -sum(score.logprob for score in scores) / sum(score.tokens for score in scores)
        return found

    def plain(self) -> float:
        """The same steps on the texts alone."""
        settings = FusionSettings(**COMMON)
        pieces = cut_pieces(self.target, self.texts, settings.window)
        spelt = TokenBytes(self.target.tokenizer)
        examples = [TokenizedExample(tuple(piece_tokens(self.target, spelt, piece)), 1) for piece in pieces]

        def training(module: Any, _: Any) -> None:
            train(module, examples, settings.training(), here, pad_token_id=self.target.encoder.pad_token_id)

        with tempfile.TemporaryDirectory() as folder:
            here = Run(Path(folder), seed=self.seed, progress=self.run.progress)
            write_whole(self.target, training, settings, here, method="fusion", data={})
            return self._measured("texts alone", here)

    def fused(self, way: str, sources: Mapping[str, LanguageModel], **settings: Any) -> float:
        """Mean held-out loss of both domains after fusion."""
        self.run.progress.message(f"fusing: {way}")
        with tempfile.TemporaryDirectory() as folder:
            here = Run(Path(folder), seed=self.seed, progress=self.run.progress)
            Fusion(FusionSettings(**COMMON, **settings))(self.target, self.texts, sources, run=here)
            return self._measured(way, here)

    def _measured(self, way: str, run: Run) -> float:
        changed = load_change(run.folder).apply(self.target)
        try:
            found = self.losses(changed)
        finally:
            changed.undo()
        self.measures[way] = run.measures
        self.run.tables["held-out loss, nats a token"][way] = found
        kept = {name: run.measures[name] for name in ("sources", "usage_entropy") if name in run.measures}
        self.run.tables.setdefault("sources", {})[way] = kept
        return sum(found.values()) / len(found)


def vocabulary_checks(tokens: Mapping[str, Any], corpus: list[str], run: ClaimRun) -> Iterator[Check]:
    """Check 5 of the card."""
    spelt = {name: TokenBytes(each) for name, each in tokens.items()}
    share = VocabularyMap.build(spelt["prose"], spelt["target"], "mined").exact_share
    yield Check("exact matches of two vocabularies of one corpus", share, "above 0.9", share > 0.9)
    default = TokenBytes(LanguageModel.load(progress=run.progress).tokenizer)
    shares = {name: VocabularyMap.build(each, default).exact.sum() / each.size for name, each in spelt.items()}
    run.tables["share of a vocabulary that the default tokenizer has"] = {name: float(s) for name, s in shares.items()}
    text = " ".join(corpus)[:6000]
    ids = spelt["facts"].encode(text), spelt["target"].encode(text)
    spent = []
    for method in ("bytes", "dtw"):
        start = time.process_time()
        align_tokens(text, *ids, spelt["facts"], spelt["target"], method)
        spent.append(time.process_time() - start)
    run.tables["alignment"] = {"tokens": [len(each) for each in ids], "seconds": spent}
    worst = max(spent) * 1000 / min(map(len, ids))
    yield Check("seconds to align a text of 1,000 tokens, the slower way", worst, "below 1", worst < 1)


CLAIM = Claim(
    card="fusion_x",
    statement="A model trained towards sources of other tokenizers, weighed by a network that learns which to trust, "
    "beats the same training on the texts alone, and a bad source among them does no harm.",
    published="up to 50 % fewer sub-tasks that get worse than with FuseLLM; better averages as sources are added",
    paper="arXiv:2505.23844",
    seeds=SEEDS,
    minutes=45,
    experiment=over_seeds(experiment, SEEDS),
)

"""Fusion of different models into one: a target is trained towards what several sources say, each where it is sure.

The sources may be of other families and have other tokenizers. Fusion-X ("Enabling Flexible Multi-LLM Integration for
Scalable Knowledge Aggregation", arXiv:2505.23844; on the ground of FuseLLM, arXiv:2401.10491) writes down once what
every source says of a corpus, brings it to the target's tokens, and continues the target's training on the same corpus
with

    L = lambda L_CLM + (1 - lambda) CE(sum_i w_i P_i, target) + gamma Var(u) / mean(u)^2

where a small network chooses the sources of each text from how sure they are of it, r_i = exp(-CE_i), and weighs them.
The last term keeps it from always choosing the same ones. The result is a plain checkpoint; no source is needed any
more.

Use when: several models of different families or tokenizers shall become one model of ordinary size; a model shall
learn from teachers whose tokens are not its own; a weak or conflicting teacher among several must do no harm.

Needs: texts, and sources: models on this machine, or what :func:`keeps.models.logit_dumps.dump_logits` wrote of them
before. Guarantees: the model gets its weights back bit for bit; with one source of the same tokenizer the distribution
is that source's own; ``measures`` says of each source at how many positions it was heard at all, and its mean weight.

Where paper and code differ: in the released code the selection network is made anew, with random weights, in every
step and never trained; here it is made once and trained at a rate of its own (``selector_rate``). The code puts the
token at a position where a match is missing, which teaches the target to repeat its input; here, as meant, the next
one. Weights are computed a text, not for every element of the vocabulary: the same numbers. Positions are aligned by
bytes (``alignment="dtw"`` is the published warping); vocabularies by equal bytes, else by least edit distance
(``mapping``). Only the top 10 logits are kept: renormalised as published, or with what is missing spread evenly
(``remainder="uniform"``). ``strategy="min_ce"`` is FuseLLM, ``"avg_ce"`` its average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import ContextLengthError, EmptySetError, SettingsError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from keeps.models.changes import CheckpointChange
    from keeps.models.language_model import LanguageModel
    from keeps.models.logit_dumps import Dumped
    from keeps.training.settings import TrainingSettings
    from keeps.training.source_fusion import SelectionNetwork, Targets

REFERENCE = "reference"  # the target's own pretrained copy, as a source


@dataclass(frozen=True, kw_only=True)
class FusionSettings(Settings):
    """Settings of fusion; the defaults are those of the published code."""

    epochs: int = setting(1, "Passes over the texts", ge=1)
    steps: int | None = setting(None, "Optimiser steps; overrides epochs", ge=1)
    batch_size: int = setting(16, "Pieces of text in a forward pass", ge=1)
    accumulation: int = setting(1, "Forward passes in an optimiser step", ge=1)
    learning_rate: float = setting(1e-5, "Largest learning rate, reached after the warm-up", gt=0, lt=10)
    schedule: str = setting("cosine", "How the rate falls afterwards", choices=("cosine", "linear", "constant"))
    warmup: float = setting(0.008, "Share of the steps over which the rate rises", ge=0, le=1)
    weight_decay: float = setting(0.01, "Decay of matrices in AdamW", ge=0, lt=1)
    beta2: float = setting(0.99, "Decay of AdamW's mean of squared gradients", ge=0, lt=1, advanced=True)
    clip: float = setting(1.0, "Largest norm of the gradient", gt=0)
    precision: str = setting("float32", "Arithmetic of the forward pass", choices=("float32", "bfloat16"))
    language_weight: float = setting(0.9, "lambda: share of the loss on the texts themselves", ge=0, lt=1)
    feedback: float = setting(0.5, "gamma: against using the same sources always", ge=0, le=100)
    threshold: float = setting(0.15, "tau: sources that the network thinks less of are not used", ge=0, lt=1)
    strategy: str = setting(
        "adaptive",
        "A network weighs the sources of a text, or the surest one is taken (FuseLLM), or all by how sure they are",
        choices=("adaptive", "min_ce", "avg_ce"),
    )
    selector_rate: float = setting(1e-3, "Learning rate of the selection network", gt=0, lt=10)
    reference: bool = setting(True, "The target as it was is a source too")
    top_k: int = setting(10, "Likeliest tokens that are kept of a position", ge=1, le=10_000)
    temperature: float = setting(1.0, "Divides the sources' logits", gt=0, le=100)
    remainder: str = setting(
        "renormalise",
        "What is beyond the kept tokens: given to them, spread evenly, or left out",
        choices=("renormalise", "uniform", "drop"),
    )
    mapping: str = setting(
        "mined",
        "Tokens that the target lacks: dropped (exact), the most similar (mined), or what stands in their place",
        choices=("exact", "mined", "statistics"),
    )
    alignment: str = setting("bytes", "Which tokens stand beside each other", choices=("bytes", "dtw"))
    window: int = setting(512, "Tokens of a piece of text", ge=8, unit="tokens")

    def check(self) -> None:
        """Refuse what would do nothing."""
        if self.remainder != "renormalise" and self.temperature != 1:
            what = "what lies beyond the kept logits has no temperature"
            raise SettingsError(what, where="temperature", mend="leave it at 1, or choose remainder renormalise")
        idle = {name: getattr(self, name) for name, default in _ADAPTIVE.items() if getattr(self, name) != default}
        if self.strategy != "adaptive" and idle:
            what = f"{', '.join(idle)} would do nothing with the strategy {self.strategy}"
            raise SettingsError(what, mend="leave it out, or choose adaptive")

    def training(self) -> TrainingSettings:
        """What the training loop is told."""
        from keeps.training.settings import TrainingSettings

        known = {info.name for info in TrainingSettings.fields()}
        return TrainingSettings(**{name: value for name, value in self.to_mapping().items() if name in known})


_ADAPTIVE = {"feedback": 0.5, "threshold": 0.15, "selector_rate": 1e-3}


@method(
    "fusion",
    verb="merge",
    paper="arXiv:2505.23844",
    summary="One model trained towards several of any family and tokenizer, each weighed by how sure it is of a text.",
    card="fusion_x",
    needs=("texts",),
    forms=("merged",),
)
class Fusion:
    """See the top of this file."""

    Settings = FusionSettings

    def __init__(self, settings: FusionSettings) -> None:
        self.settings = settings

    def __call__(
        self,
        model: LanguageModel,
        learn: RecordSet | Sequence[str],
        sources: Mapping[str, LanguageModel | Dumped],
        *,
        run: Run,
    ) -> CheckpointChange:
        """Train ``model`` towards ``sources`` on the texts ``learn``, write ``run.folder``, and give it back as it was.

        Args:
            learn: texts, or records that are texts.
            sources: by name.

        Raises:
            SettingsError: no source, or a tokenizer that does not fit the alignment.
            EmptySetError, ContextLengthError: no text, or pieces that a source cannot read.
            StorageError: a dump is damaged, or of other texts or another vocabulary.
        """
        from keeps.models.logit_dumps import cut_pieces, piece_tokens, pieces_fingerprint
        from keeps.models.token_bytes import TokenBytes
        from keeps.training.source_fusion import Matches
        from keeps.training.source_readings import all_targets, read_sources
        from keeps.training.whole import write_whole

        texts = _texts(learn)
        if not sources and not self.settings.reference:
            raise SettingsError("there is no source to learn from", mend="name one at least")
        if REFERENCE in sources:
            what = f'"{REFERENCE}" is the target as it was'
            raise SettingsError(what, where="sources", mend="give the source another name")
        pieces = cut_pieces(model, texts, min(self.settings.window, model.context_length))
        target = TokenBytes(model.tokenizer)
        rows = [piece_tokens(model, target, piece) for piece in pieces]
        longest = max(map(len, rows))
        if longest > model.context_length:
            what = f"a piece has {longest} tokens and the model reads {model.context_length}"
            raise ContextLengthError(what, where="texts", mend="choose a smaller window")
        wanted: dict[str, Any] = {**sources, **({REFERENCE: model} if self.settings.reference else {})}
        options = {"top_k": self.settings.top_k, "mapping": self.settings.mapping}
        readings = read_sources(wanted, pieces, target, progress=run.progress, **options)
        matches = {each.name: Matches() for each in readings}
        targets = all_targets(
            pieces,
            rows,
            readings,
            target,
            matches,
            progress=run.progress,
            alignment=self.settings.alignment,
            temperature=self.settings.temperature,
            remainder=self.settings.remainder,
            base=len(readings) - 1 if self.settings.reference else None,
        )
        run.measures["sources"] = {
            name: {"heard": found.share, "matched": found.matched / max(found.positions, 1)}
            for name, found in matches.items()
        }
        for name, found in matches.items():
            run.progress.message(f"{name} is heard at {found.share:.0%} of {found.positions} positions")

        def training(module: Any, _: Any) -> None:
            self._train(model, module, rows, targets, [each.name for each in readings], run)

        fingerprints = {each.name: f"{each.dump.vocabulary}+{each.dump.texts}" for each in readings}
        data = {"learn": pieces_fingerprint(pieces), **fingerprints}
        return write_whole(model, training, self.settings, run, method="fusion", data=data)

    def _train(
        self,
        model: LanguageModel,
        module: Any,
        rows: Sequence[Sequence[int]],
        targets: Mapping[tuple[int, ...], Targets],
        names: Sequence[str],
        run: Run,
    ) -> None:
        from contextlib import nullcontext

        from keeps.training.batches import TokenizedExample
        from keeps.training.loop import train
        from keeps.training.source_fusion import FusionLoss, FusionRule, selecting

        settings = self.settings
        rule = FusionRule(settings.strategy, settings.language_weight, settings.feedback, settings.threshold)
        examples = [TokenizedExample(tuple(row), 1) for row in rows]
        rate = settings.selector_rate / settings.learning_rate
        adaptive = settings.strategy == "adaptive"
        shown = selecting(module, len(names), rate=rate, seed=run.seed) if adaptive else nullcontext()
        with shown as selector:
            train(
                module,
                examples,
                settings.training(),
                run,
                pad_token_id=model.encoder.pad_token_id,
                loss=lambda trained: FusionLoss(trained, targets, rule),
            )
            self._note(rule, targets, names, selector, run)

    def _note(
        self,
        rule: Any,
        targets: Mapping[Any, Targets],
        names: Sequence[str],
        selector: SelectionNetwork | None,
        run: Run,
    ) -> None:
        """The mean weight of each source over the texts, and how evenly they are used."""
        import torch

        with torch.no_grad():
            losses = torch.stack([each.losses for each in targets.values()])
            if selector is not None:
                losses = losses.to(next(selector.parameters()).device)
            use = rule.weights(losses, selector).mean(0).cpu()
        for name, weight in zip(names, use.tolist(), strict=True):
            run.measures["sources"][name]["weight"] = weight
        run.measures["usage_entropy"] = float(-(use * use.clamp_min(1e-30).log()).sum())


def _texts(learn: RecordSet | Sequence[str]) -> list[str]:
    if isinstance(learn, str):
        raise SettingsError("learn is one text", where="fusion", mend="give a list of texts")
    texts = [each.text for each in learn.passages()] if isinstance(learn, RecordSet) else list(learn)
    texts = [text for text in texts if text.strip()]
    if not texts:
        where = learn.source if isinstance(learn, RecordSet) else "learn"
        raise EmptySetError("there is no text to learn from", where=where, mend="give running texts")
    return texts

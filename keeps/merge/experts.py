"""Open knowledge: a few labelled examples choose LoRA adapters and data, and make one mixture of experts of them.

There are many public adapters for one base and much public instruction data, and little of one's own. With K labelled
examples, each with the reason for its answer, the method (Yang et al. 2024, arXiv:2408.15915) ranks the adapters by
how often they answer rightly and by how likely they find answer and reason (an adapter that guesses letters is right
by chance and cannot explain), takes of the best the group whose members are least alike, puts them as experts beside
the layers with a router that sends each token to two of them, takes from the pool what is nearest to the examples and
no copy of what was taken, and trains routers and experts on it.

Use when: there are adapters of others for your base, and you do not know which of them help; you have between five and
fifty examples of your task with reasons; a pool of instructions holds some that are like yours.

Needs: a shelf of LoRA adapters of one base that change the same layers, examples with reasons, and optionally a pool
of prompts with answers. Guarantees: undoing gives the base back bit for bit; adapters of another base, of other layers,
or not plain LoRA are refused by name; before training every expert is its adapter, scaling included.

Where paper and code differ: the code does not say how the two rankings are joined; here places are added, and equal
ones go by perplexity. Its script for perplexity crashes as published and its mixture leaves alpha / r out; here both
are computed. Copies are dropped where they are near *any* earlier example, also a dropped one (``chains``), as there;
``likeness`` "product" (ours) compares B A, which does not depend on how it is written as factors.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import ChangeRecord, Run
from keeps.data.records import Example, RecordSet
from keeps.errors import SettingsError, StorageError
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:  # a merge of files imports all merge methods, and no tensor library
    from torch import Tensor

    from keeps.models.adapter_bank import AdapterScore, BankAdapter, Shot
    from keeps.models.expert_files import ExpertsChange
    from keeps.models.experts import WrappedExperts
    from keeps.models.language_model import LanguageModel

RANKINGS = ("both", "accuracy", "perplexity", "random")


@dataclass(frozen=True)
class OpenKnowledge:
    """What there is to choose from.

    Attributes:
        adapters: folders by name.
        shots: labelled examples with reasons.
        pool: public examples; may be empty.
        embed: texts to ``(n, d)`` vectors; None: the embedded sentence encoder.
    """

    adapters: Mapping[str, Path]
    shots: Sequence[Shot]
    pool: Sequence[Example] = ()
    embed: Callable[[Sequence[str]], Tensor] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class ExpertsSettings(Settings):
    """Settings of the mixture; the defaults are the published ones."""

    size: int = setting(4, "Adapters that become experts", ge=2)
    shortlist: int = setting(8, "Best adapters among which the least alike are sought; as size: the best ones", ge=2)
    ranking: str = setting("both", "What adapters are ranked by", choices=RANKINGS)
    likeness: str = setting("factors", "Whether A and B are compared, or B A", choices=("factors", "product"))
    top_k: int = setting(2, "Experts that a token goes to", ge=1)
    examples: int = setting(1000, "Examples to train on, labelled ones included", ge=1)
    tau: float = setting(0.1, "Cosine distance below which an example is a copy", ge=0, le=2)
    chains: bool = setting(True, "Whether a copy of a copy is one")
    train: str = setting("experts", "What learns: routers alone, or experts too", choices=("experts", "router"))
    epochs: int = setting(5, "Passes over the examples", ge=1)
    steps: int | None = setting(None, "Optimiser steps; overrides epochs", ge=1)
    batch_size: int = setting(64, "Examples in a step", ge=1)
    learning_rate: float = setting(5e-5, "Largest learning rate", gt=0, lt=10)
    dropout: float = setting(0.05, "On the experts' input while training", ge=0, lt=1)

    def check(self) -> None:
        """Refuse a shortlist shorter than the group, and more experts a token than there are."""
        if self.shortlist < self.size:
            what = f"a shortlist of {self.shortlist} holds no group of {self.size}"
            raise SettingsError(what, where="experts", mend="give a shortlist of size or more")
        if self.top_k > self.size:
            raise SettingsError(f"top_k is {self.top_k} of {self.size} experts", where="experts", mend="lower it")


@method(
    "experts",
    verb="merge",
    paper="arXiv:2408.15915",
    summary="A few examples with reasons choose LoRA adapters and data, which become a token-routed mixture.",
    card="open_knowledge",
    needs=("adapters",),
    forms=("experts",),
)
class Experts:
    """See the top of this file."""

    Settings = ExpertsSettings

    def __init__(self, settings: ExpertsSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, folder: Any, record: ChangeRecord) -> ExpertsChange:
        """The change in ``folder``."""
        from keeps.models.expert_files import ExpertsChange

        return ExpertsChange(folder, record)

    def __call__(self, model: LanguageModel, learn: OpenKnowledge, keep: Any = None, *, run: Run) -> ExpertsChange:
        """Choose, mix, train, write to ``run.folder``, and give ``model`` back as it was.

        Raises:
            SettingsError: fewer adapters than the group has members.
            RecordError: no example, or one without a reason.
            StorageError, TargetError: an adapter is missing, damaged, of another base, or of other layers.
        """
        from keeps.models.adapter_bank import check_shots, read_bank, score_adapters
        from keeps.models.change_records import write_record
        from keeps.models.changes import source_of
        from keeps.models.expert_files import write_experts

        del keep
        started, before = time.perf_counter(), model.fingerprint
        check_shots(learn.shots)
        bank = read_bank(model, learn.adapters)
        if len(bank) < self.settings.size:
            what = f"{len(bank)} adapters for a group of {self.settings.size}"
            raise SettingsError(what, where="size", mend="give more adapters, or lower size")
        scores = score_adapters(model, bank, learn.shots, run=run)
        group = self.group(bank, scores, run.seed)
        data = self.data(learn)
        run.measures |= {
            "scores": [asdict(score) for score in scores],
            "group": [adapter.name for adapter in group],
            "examples": len(data),
        }
        run.progress.message(f"experts: {', '.join(adapter.name for adapter in group)}; {len(data)} examples")
        wrapped = self.mixture(model, group, run)
        try:
            self._train(model, wrapped, data, run)
            if run.is_main:
                write_experts(run.folder, wrapped, base=source_of(model))
        finally:
            wrapped.unwrap()
        if model.fingerprint != before:
            raise StorageError("the model is not as it was before", mend="load it again")
        run.measures["experts_seconds"] = time.perf_counter() - started
        record = write_record(
            "experts", "experts", self.settings, model, {"learn": data.fingerprint}, run, fingerprint=before
        )
        if run.is_main:
            shutil.rmtree(run.folder / "checkpoint", ignore_errors=True)  # of no use any more
        return self.load(run.folder, record)

    def group(self, bank: Sequence[BankAdapter], scores: Sequence[AdapterScore], seed: int = 0) -> list[BankAdapter]:
        """The adapters that become experts, best first."""
        import random
        from itertools import combinations

        import torch

        from keeps.numerics.expert_selection import factor_likeness, fused_order, most_diverse, product_likeness

        settings = self.settings
        accuracy, perplexity = [each.exact_match for each in scores], [each.perplexity for each in scores]
        if settings.ranking == "random":
            order = random.Random(seed).sample(range(len(bank)), len(bank))
        elif settings.ranking == "both":
            order = fused_order(accuracy, perplexity)
        elif settings.ranking == "accuracy":
            order = sorted(range(len(bank)), key=lambda number: (-accuracy[number], perplexity[number]))
        else:
            order = sorted(range(len(bank)), key=lambda number: perplexity[number])
        best = order[: settings.shortlist]
        if len(best) == settings.size:
            return [bank[number] for number in best]
        alike = factor_likeness if settings.likeness == "factors" else product_likeness
        table = torch.zeros(len(bank), len(bank), dtype=torch.float64)
        for one, other in combinations(best, 2):
            try:
                table[one, other] = table[other, one] = alike(bank[one].pairs, bank[other].pairs)
            except ValueError as error:
                what = f"{bank[one].name} and {bank[other].name} cannot be compared ({error})"
                raise SettingsError(what, where="likeness", mend='choose likeness "product"') from None
        return [bank[number] for number in most_diverse(table, best, settings.size)]

    def data(self, learn: OpenKnowledge) -> RecordSet:
        """The labelled examples, then those of the pool that are near to them and no copies, the nearest first."""
        from keeps.numerics.expert_selection import nearest_first, without_copies

        settings = self.settings
        own = [Example(f"shot:{n}", shot.prompt, shot.target.rstrip("\n")) for n, shot in enumerate(learn.shots, 1)]
        room = settings.examples - len(own)
        if not learn.pool or room <= 0:
            return RecordSet("labelled examples", tuple(own))
        embed = learn.embed
        if embed is None:
            from keeps.models.encoder import SentenceEncoder

            embed = SentenceEncoder.load().encode
        shots = embed([f"{shot.prompt} {shot.answer}" for shot in learn.shots])
        pool = embed([f"{example.prompt} {example.answer}" for example in learn.pool])
        near = nearest_first(pool, shots)[0][:room]
        kept = near[without_copies(pool[near], settings.tau, chains=settings.chains)].tolist()
        return RecordSet("labelled and like examples", (*own, *(learn.pool[number] for number in kept)))

    def mixture(self, model: LanguageModel, group: Sequence[BankAdapter], run: Run) -> WrappedExperts:
        """``model`` with the group as experts and routers drawn from the seed; ``unwrap()`` takes them out."""
        import torch

        from keeps.models.adapter_bank import put_mixture
        from keeps.training.circumstances import own_random_numbers

        with own_random_numbers(model.device):
            torch.manual_seed(run.seed)
            wrapped = put_mixture(model.model, group, top_k=self.settings.top_k, dropout=self.settings.dropout)
        if self.settings.train == "router":
            for layer in wrapped.layers.values():
                layer.A.requires_grad_(False)
                layer.B.requires_grad_(False)
        return wrapped

    def _train(self, model: LanguageModel, wrapped: WrappedExperts, data: RecordSet, run: Run) -> None:
        from keeps.training.examples import tokenise
        from keeps.training.loop import train
        from keeps.training.settings import TrainingSettings

        settings = self.settings
        names = ("epochs", "steps", "batch_size", "learning_rate")
        training = TrainingSettings(**{name: getattr(settings, name) for name in names})
        train(wrapped.model, tokenise(model, data), training, run, pad_token_id=model.encoder.pad_token_id)

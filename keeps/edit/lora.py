"""LoRA editing: a low-rank difference on queries and values, trained on the edits alone (arXiv:2401.01286, section 4).

    W' = W + (alpha / r) B A,    trained on -log p(y | x) with the prompt masked; A Kaiming-uniform, B = 0

With ``variant="adalora"`` (arXiv:2303.10512) the adapter is P diag(lambda) Q, every layer begins with ``init_rank``
ranks, and those that matter least are masked until ``rank`` a layer are left on average.

One adapter holds a batch of edits; with ``order="sequential"`` every edit has an adapter of its own on top of those
before it, each of which can be withdrawn. The method is called ``lora_edit``, since ``lora`` adapts to a learn set.

Use when: a handful of edits should become an ordinary small adapter; edits name no subject; single edits must be
withdrawn and locating them is not wanted; a baseline for editing by adapters is needed.

Needs: edits. Guarantees: rank r in each layer, or r an edit in sequence; the model as it was after ``undo()``. Nothing
protects what the model knew: with the published 70 steps at 5e-3 it forgets a good deal.

Layers are found from the structure: the query and value projections of every block, or the joint projection of
attention where a model has that instead (GPT-2); ``where="mlp"`` takes the down-projections of the MLPs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, TargetError
from keeps.models.attention_layers import attention_inputs
from keeps.models.changes import AdapterChange
from keeps.models.edit_files import EditEntry, finish_weights, joined
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, mlp_outputs
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.adalora import train_adalora
from keeps.training.batches import stable_seed
from keeps.training.edit_losses import adding, check_targets, descend, edit_batch, frozen, probabilities, target_loss

Parts = dict[str, list[tuple[Tensor, Tensor]]]  # layer -> A (r, in) and B (out, r) of each adapter


@dataclass(frozen=True, kw_only=True)
class LoRAEditSettings(Settings):
    """Settings of LoRA editing."""

    rank: int = setting(8, "Rank r of the adapter in every layer", ge=1)
    alpha: float = setting(32.0, "LoRA alpha; the adapter is scaled by alpha / rank", gt=0)
    variant: str = setting("lora", "lora, or adalora: ranks go where they matter", choices=("lora", "adalora"))
    init_rank: int | None = setting(None, "Rank that adalora begins with (default: half as many more)", ge=2)
    where: str = setting(
        "attention", "Layers: queries and values of attention, or outputs of the MLPs", choices=("attention", "mlp")
    )
    steps: int = setting(70, "Steps of Adam at most", ge=1, unit="steps")
    learning_rate: float = setting(5e-3, "Learning rate of Adam", gt=0)
    stop_loss: float = setting(1e-2, "Loss at which training ends", ge=0, unit="nats")
    order: str = setting("batch", "batch: one adapter; sequential: one for each edit", choices=("batch", "sequential"))

    def check(self) -> None:
        """Refuse a first rank that would do nothing, or leaves nothing to be masked."""
        if self.init_rank is not None and self.variant != "adalora":
            mend = "choose variant adalora, or leave it out"
            raise SettingsError("init_rank would do nothing with variant lora", where="init_rank", mend=mend)
        if self.init_rank is not None and self.init_rank <= self.rank:
            what = f"adalora begins with more ranks than are left, not with {self.init_rank} of {self.rank}"
            raise SettingsError(what, where="init_rank", mend=f"give more than {self.rank}")

    @property
    def first_rank(self) -> int:
        """Rank of every layer when training begins."""
        if self.variant == "lora":
            return self.rank
        return self.init_rank or max(self.rank + 1, self.rank * 3 // 2)

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without such layers, with quantised weights, or too narrow for the rank.

        Raises:
            TargetError: see there.
        """
        for ref in self.layers(model):
            if self.first_rank > min(ref.in_features, ref.out_features):
                mend = f"choose a rank up to {min(ref.in_features, ref.out_features)}"
                raise TargetError(f"rank {self.first_rank} does not fit the layer", where=ref.name, mend=mend)

    def layers(self, model: LanguageModel) -> list[ModuleRef]:
        """The adapted layers."""
        return attention_inputs(model.model) if self.where == "attention" else mlp_outputs(model.model)


@method(
    "lora_edit",
    verb="edit",
    card="knowedit",
    paper="arXiv:2106.09685",
    summary="Train a low-rank adapter on the edits alone; one for all of them, or one for each.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class LoRAEdit:
    """LoRA trained on edits."""

    Settings = LoRAEditSettings

    def __init__(self, settings: LoRAEditSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train, leave a LoRA folder in ``run.folder``, and give ``model`` back; its weights are never changed."""
        del keep  # nothing here protects it
        settings = self.settings
        check_targets(edits)
        settings.check_model(model)
        refs = {ref.name: ref for ref in settings.layers(model)}
        batches = [list(edits)] if settings.order == "batch" else [[edit] for edit in edits]
        parts: Parts = {name: [] for name in refs}
        entries: list[EditEntry] = []
        modules = {name: ref.module for name, ref in refs.items()}
        scale = settings.alpha / settings.rank if settings.variant == "lora" else 1.0  # adalora's is in its factors
        beside = {name: partial(_low_rank, parts=parts[name], scale=scale) for name in refs}
        with frozen(model), adding(modules, beside), run.progress.task("edits", len(edits)) as task:
            for number, batch in enumerate(batches):
                loss, steps = self._train(model, batch, refs, parts, stable_seed("lora_edit", run.seed, number))
                ends = {name: sum(len(a) for a, _ in own) for name, own in parts.items()}
                share = {name: [end - len(parts[name][-1][0]), end] for name, end in ends.items()}
                entries += [EditEntry.of(edit, share, loss=loss, steps=steps) for edit in batch]
                task.advance(len(batch))
                task.note(f"loss {loss:.3f}")
            found = probabilities(model, edits)
        entries = [
            EditEntry.of(edit, entry.share, **entry.measured, probability=probability)
            for edit, entry, probability in zip(edits, entries, found, strict=True)
        ]
        factors = {name: joined([(a.cpu(), scale * b.cpu()) for a, b in several]) for name, several in parts.items()}
        run.measures["mean_rank"] = sum(len(a) for a, _ in factors.values()) / len(factors)
        return finish_weights("lora_edit", settings, model, edits, factors, entries, run)

    def _train(
        self, model: LanguageModel, edits: Sequence[Edit], refs: Mapping[str, ModuleRef], parts: Parts, seed: int
    ) -> tuple[float, int]:
        """Train one adapter more on ``edits``, on top of those in ``parts``, and add it to them."""
        settings, source = self.settings, torch.Generator().manual_seed(seed)
        if settings.variant == "adalora":
            return self._train_adaptive(model, edits, refs, parts, seed)
        trained: list[Tensor] = []
        for name, ref in refs.items():
            bound = (
                math.sqrt(3) * math.sqrt(2 / (1 + 5)) / math.sqrt(ref.in_features)
            )  # Kaiming-uniform with a = sqrt 5
            a = (2 * torch.rand(settings.rank, ref.in_features, generator=source) - 1) * bound
            pair = (a.to(model.device), torch.zeros(ref.out_features, settings.rank, device=model.device))
            parts[name].append(pair)
            trained += [factor.requires_grad_() for factor in pair]
        batch = edit_batch(model, [edit.prompt for edit in edits], [edit.target_new for edit in edits])
        found = descend(
            lambda: target_loss(model, batch),
            trained,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            stop_loss=settings.stop_loss,
            where=f"edit {edits[0].id}",
        )
        for factor in trained:
            factor.requires_grad = False
        return found

    def _train_adaptive(
        self, model: LanguageModel, edits: Sequence[Edit], refs: Mapping[str, ModuleRef], parts: Parts, seed: int
    ) -> tuple[float, int]:
        """The same by AdaLoRA."""
        settings = self.settings
        batch = edit_batch(model, [edit.prompt for edit in edits], [edit.target_new for edit in edits])
        found, loss, steps = train_adalora(
            model,
            list(refs.values()),
            lambda: target_loss(model, batch),
            rank=settings.rank,
            init_rank=settings.first_rank,
            alpha=settings.alpha,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            stop_loss=settings.stop_loss,
            seed=seed,
            where=f"edit {edits[0].id}",
        )
        for name, pair in found.items():
            parts[name].append(pair)
        return loss, steps


def _low_rank(x: Tensor, *, parts: list[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """scale * sum of B A x over the adapters, ``(batch, time, out)``."""
    if not parts:  # adalora's first one is still in the layer itself
        return torch.zeros((), device=x.device)
    return scale * torch.stack([x.to(a) @ a.T @ b.T for a, b in parts]).sum(0)

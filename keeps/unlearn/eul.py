"""EUL: unlearning layers behind the feed-forward parts, taught by the frozen model (Chen and Yang 2023).

    L = KL(teacher || student) on D_r  -  alpha KL(teacher || student) on D_f
        + lambda NLL on D_r  -  gamma NLL on D_f                                        (arXiv:2310.20150)

The teacher is the model as it was. Only a small bottleneck behind each feed-forward part is trained; the model itself
is never touched, so taking the layers out undoes everything. Each request to forget makes layers of its own, and
several are fused without training, each layer by regression on the Gram matrices of its inputs:

    W = (sum X_i^T X_i)^-1 sum X_i^T X_i W_i

Use when: requests to forget come one after another, and each should be answered without training for the earlier ones
again; the weights must stay as they are.

Needs: what is to be forgotten, and what is to be retained. Guarantees: the base is untouched; step 0 equals the model;
fused layers are the closest ones to each of them on its own forget set, in the sum of squares.

``fuse`` names folders of earlier runs of this method on the same model, with the same seed and rank (layers that start
from the same numbers have units that correspond). Both terms on the forget set are unbounded below; ``max_loss``
bounds them token by token, ``none`` is the published loss. The language model loss on D_f is that of the answer
tokens. peft cannot load the result, ``keeps.load`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import ChangeRecord, Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.bottleneck_files import BottleneckChange, read_fusable, write_layers
from keeps.models.bottlenecks import fused, put_bottlenecks
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.models.projection import evaluating, hidden_states
from keeps.numerics.forgetting_losses import teacher_student_forgetting
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import finished_record, measure_export
from keeps.training.batches import TokenizedExample, collate, stable_seed
from keeps.training.examples import tokenise
from keeps.training.forgetting import TokenForgetting
from keeps.training.keeping import WINDOW
from keeps.training.reference import Leash, Reference
from keeps.training.settings import TrainingSettings
from keeps.training.unlearn import Objective, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class EULSettings(TrainingSettings):
    """Settings of EUL."""

    epochs: int = setting(10, "passes over the forget set", ge=1)
    rank: int = setting(16, "Width of the bottleneck of each unlearning layer", ge=1)
    forget_weight: float = setting(1.0, "Weight alpha of the divergence from the teacher on the forget set", ge=0)
    retain_weight: float = setting(1.0, "Weight of the divergence from the teacher on the retain set", gt=0)
    task_weight: float = setting(1.0, "Weight lambda of the loss on the retain set's right answers", ge=0)
    ascent_weight: float = setting(0.2, "Weight gamma of gradient ascent on the forget set", ge=0)
    max_loss: float | None = setting(
        20.0, "Bound of either term of a forgotten token; none is the published loss", gt=0, unit="nats"
    )
    retain_batch: int = setting(16, "Retain examples read in each forward pass", ge=1)
    window: int = setting(WINDOW, "Tokens of running text that make one example", ge=8, advanced=True)
    fuse: tuple[str, ...] = setting((), "Folders of earlier unlearning layers, to be fused with the new ones")
    fuse_correlation: float = setting(
        1.0,
        "Factor of what the inputs of a layer have in common while fusing: 1 is the published regression; 0.9 keeps "
        "fused layers nearer to a mean, as regression mean does",
        ge=0,
        le=1,
        advanced=True,
    )
    fusable: bool = setting(
        True,
        "Write the Gram matrices of each layer's inputs too, width x width numbers a layer, so that it can be fused",
    )

    def check(self) -> None:
        """Refuse settings that would do nothing, or nothing sensible."""
        if self.stop_loss is not None:
            raise SettingsError("stop_loss ends training at once, since this loss has no floor", where="eul")
        if not (self.forget_weight or self.ascent_weight):
            mend = "give forget_weight or ascent_weight a value above 0"
            raise SettingsError("nothing would be forgotten: both weights are 0", where="eul", mend=mend)
        if self.fuse_correlation != 1.0 and not self.fuse:
            what = "fuse_correlation would do nothing, since nothing is fused"
            raise SettingsError(what, where="eul", mend="give fuse, or leave it out")

    def check_model(self, model: LanguageModel) -> None:
        """Layers fit every model with feed-forward parts; which is seen when they are put in."""


@method(
    "eul",
    verb="unlearn",
    paper="arXiv:2310.20150",
    summary="Small unlearning layers beside a frozen model; those of several requests are fused without training.",
    card="unlearning",
    needs=("forget", "retain"),
    forms=("memory",),
)
class EUL(Unlearner):
    """Efficient unlearning with unlearning layers."""

    Settings = EULSettings
    holds = "needs"

    @staticmethod
    def forms(settings: EULSettings) -> tuple[str, ...]:  # type: ignore[override]
        """Its own alone: the layers are nonlinear."""
        del settings
        return ("memory",)

    @staticmethod
    def load(folder: Path, record: ChangeRecord) -> BottleneckChange:
        """The change that lies in ``folder``."""
        return BottleneckChange(folder, record)

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The two terms on either set, with what the model says now as the teacher's."""
        s = self.settings
        assert retain is not None  # for it holds what it needs
        for folder in s.fuse:  # before anything is trained
            read_fusable(Path(folder), model.fingerprint, _start(s, run))
        examples, kept = forget_examples(model, forget, s.window), tokenise(model, retain, window=s.window)
        before = Reference.of(model, examples, run=run)

        def loss(logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
            assert teacher is not None
            return teacher_student_forgetting(
                logits, targets, teacher, alpha=s.forget_weight, gamma=s.ascent_weight, max_loss=s.max_loss
            )

        return Objective(
            examples,
            lambda module: TokenForgetting(module, loss, reference=before),
            Leash(
                Reference.of(model, kept, run=run),
                kept,
                weight=s.retain_weight,
                task_weight=s.task_weight,
                batch_size=s.retain_batch,
                pad_token_id=model.encoder.pad_token_id,
            ),
        )

    def stopping(self, model: LanguageModel, forget: RecordSet, examples: int, run: Run) -> Any:
        """All steps are trained."""
        del model, forget, examples, run

    def write(self, model: LanguageModel, forget: RecordSet, training: Any, run: Run, data: Any) -> Any:
        """Train the layers alone, fuse them with earlier ones where asked to, and write them."""
        s, start = self.settings, _start(self.settings, run)
        earlier = [read_fusable(Path(folder), model.fingerprint, start) for folder in s.fuse]
        generator = torch.Generator().manual_seed(stable_seed("eul", run.seed))
        wrapped = put_bottlenecks(model.model, s.rank, generator)
        try:
            training(wrapped.model)
            grams: dict[str, Tensor] | None = None
            tensors = wrapped.tensors()
            if s.fusable or s.fuse:
                with wrapped.collecting() as grams:
                    read_once(model, wrapped.model, forget_examples(model, forget, s.window))
            if s.fuse and grams is not None:
                place = model.device
                all_layers = [tensors, *({k: v.to(place) for k, v in layers.items()} for layers, _ in earlier)]
                all_grams = [grams, *({k: v.to(place) for k, v in each.items()} for _, each in earlier)]
                tensors, grams = fused(all_layers, all_grams, s.fuse_correlation)
                wrapped.set(tensors)
            trained = check_logits(wrapped.model, model.tokenizer)
            if run.is_main:
                write_layers(run.folder, tensors, start, grams if s.fusable else None)
        finally:
            wrapped.unwrap()
        change = BottleneckChange(run.folder, finished_record("memory", "eul", s, model, data, run))
        measure_export(change, model, trained, run)
        return change


def read_once(model: LanguageModel, module: nn.Module, examples: list[TokenizedExample]) -> None:
    """Read every example by itself, without padding."""
    with evaluating(module), torch.no_grad():
        for example in examples:
            batch = collate([example], model.encoder.pad_token_id).to(model.device)
            hidden_states(module, batch.input_ids, batch.attention_mask)


def _start(settings: EULSettings, run: Run) -> str:
    return f"seed {run.seed}, rank {settings.rank}"

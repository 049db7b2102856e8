"""FT-L and FT-M: train one MLP layer on the edits, the plain baselines of editing (arXiv:2401.01286, section 4).

    D* = argmin_D  L(W + D),    |D|_inf <= eps where a limit is given

W is the down-projection of one block. The two differ in L alone. ``ft_m`` is ordinary teacher forcing, the mean of
-log p(y_t | x, y_<t) over the tokens of the target. ``ft_l`` is the published quirk of the code that most papers
compare with: every token of the target is looked up at the last token of the prompt, -log p(y_t | x), so that a target
of several tokens is learned as a heap of first tokens. ``ft_m`` is the better of the two by far, and they are equal
where the target is one token.

Use when: a plain baseline is wanted that any editor must beat; edits name no subject, so that they cannot be located;
targets are long texts; one layer may change by as much as it takes.

Needs: edits. Guarantees: no entry of the weight moves by more than ``limit``, if one is given; the update is exact on
disk (its factors are the difference and an identity); the model as it was after ``undo()``. All edits of a run share
the update, and none can be withdrawn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.edit_files import EditEntry, finish_weights, full_rank
from keeps.models.language_model import LanguageModel
from keeps.models.locate import checked_layer, mlp_outputs
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.edit_losses import (
    adding,
    check_targets,
    descend,
    edit_batch,
    frozen,
    probabilities,
    target_loss,
)

DEPTH = 21 / 32  # of the block that is trained: layer 21 of Llama-2-7B in the published settings


@dataclass(frozen=True, kw_only=True)
class FTSettings(Settings):
    """Settings of FT-L and FT-M."""

    layer: int | None = setting(None, "Block that is trained, from 0 (default: two thirds of the way up)", ge=0)
    steps: int = setting(25, "Steps of Adam at most", ge=1, unit="steps")
    learning_rate: float = setting(5e-4, "Learning rate of Adam", gt=0)
    limit: float | None = setting(None, "eps: how far any entry of the weight may move", gt=0)
    stop_loss: float = setting(1e-2, "Loss at which training ends", ge=0, unit="nats")
    order: str = setting(
        "batch", "batch: trained together; sequential: one after another", choices=("batch", "sequential")
    )

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without such a layer, or with quantised weights."""
        self.chosen(model)

    def chosen(self, model: LanguageModel) -> int:
        """The block that is trained."""
        count = len(mlp_outputs(model.model))
        return checked_layer(min(int(DEPTH * count), count - 1) if self.layer is None else self.layer, count)


class _FineTuning:
    """Adam on the difference of one weight."""

    Settings = FTSettings
    at_last_token: ClassVar[bool] = False

    def __init__(self, settings: FTSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train the layer, leave the update in ``run.folder``, and give ``model`` back; it is never changed."""
        del keep  # nothing here protects it
        check_targets(edits)
        settings: Any = self.settings
        ref = mlp_outputs(model.model)[settings.chosen(model)]
        shape = (ref.out_features, ref.in_features)
        difference = torch.zeros(shape, device=model.device, requires_grad=True)
        batches = [list(edits)] if settings.order == "batch" else [[edit] for edit in edits]
        measured: list[tuple[float, int]] = []
        beside: dict[str, Callable[[Tensor], Tensor]] = {ref.name: lambda x: x.to(difference) @ difference.T}
        with frozen(model), adding({ref.name: ref.module}, beside), run.progress.task("edits", len(edits)) as task:
            for batch in batches:
                measured += [self._train(model, batch, difference)] * len(batch)
                task.advance(len(batch))
                task.note(f"loss {measured[-1][0]:.3f}")
            found = probabilities(model, edits)
        a, b = full_rank(difference.detach().cpu())
        share = {ref.name: [0, a.shape[0]]}
        entries = [
            EditEntry.of(edit, share, loss=loss, steps=steps, probability=probability)
            for edit, (loss, steps), probability in zip(edits, measured, found, strict=True)
        ]
        run.measures["layer"] = settings.chosen(model)
        run.measures["update_norm"] = float(difference.detach().norm() / ref.matrix.float().norm())
        name = type(self).info.name  # type: ignore[attr-defined]
        return finish_weights(name, settings, model, edits, {ref.name: (a, b)}, entries, run)

    def _train(self, model: LanguageModel, edits: Sequence[Edit], difference: Tensor) -> tuple[float, int]:
        prompts, targets = [edit.prompt for edit in edits], [edit.target_new for edit in edits]
        batch = edit_batch(model, prompts, targets, at_last_token=self.at_last_token)
        limit = self.settings.limit

        def clamp() -> None:
            if limit is not None:
                difference.clamp_(-limit, limit)

        return descend(
            lambda: target_loss(model, batch),
            [difference],
            steps=self.settings.steps,
            learning_rate=self.settings.learning_rate,
            stop_loss=self.settings.stop_loss,
            after=clamp,
            where=f"edit {edits[0].id}",
        )


@method(
    "ft_l",
    verb="edit",
    card="knowedit",
    paper="arXiv:2401.01286",
    summary="Train one MLP layer, every token of the target looked up where the prompt ends: the published quirk.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class FTL(_FineTuning):
    """FT-L: all tokens of a target from the last token of the prompt."""

    at_last_token = True


@method(
    "ft_m",
    verb="edit",
    card="knowedit",
    paper="arXiv:2401.01286",
    summary="Train one MLP layer on the target behind its prompt, the prompt masked: a strong plain baseline.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class FTM(_FineTuning):
    """FT-M: ordinary teacher forcing with the prompt masked."""

"""MEND: a trained network turns the gradient of an edit into an update that generalises and spares (arXiv:2110.11309).

    W' = W - alpha * sum_i d~_i u~_i^T,    [u~; d~] = editor(u, d)

u is what a layer reads at a token and d the gradient of what it gives; fine-tuning would take them as they are. The
editor has learned, on facts of the built-in world, which part of such a gradient makes a fact hold in other wordings
(weight ``edit_weight``) without moving unrelated text (``locality_weight``). Editing itself is then one backward pass.

Use when: many single edits are to come and each must be quick; unrelated text must move little; an editor may be
trained once for a model (about two minutes on a processor for a small one), and is kept for the next time.

Needs: edits. Guarantees: the rank of an edit is the number of its tokens, and each can be withdrawn; the model as it
was after ``undo()``; the editor lies in the run's folder (``editor/``) and in the cache, as safetensors.

Where this differs from the paper: the editor is trained for a few hundred steps at a learning rate of 1e-4, in place
of some ten thousand at 1e-6, and edits the down-projections of the last three MLPs, not their up-projections too.
Step sizes start at 1e-4 as published, and move by a tenth of the published 1e-4 a step. Fewer steps leave the edits of
a large model weaker: ``editor_steps`` is there to be raised.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.edit_files import EditEntry, finish_weights, joined
from keeps.models.gguf import cache_folder
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, mlp_outputs
from keeps.registry import method
from keeps.settings import Settings, setting
from keeps.training.edit_losses import adding, check_targets, edit_batch, frozen, probabilities
from keeps.training.gradient_editor import GradientEditor, gradient_pairs
from keeps.training.gradient_editor_training import EditorPlan, editor_identity, trained_editor

BLOCKS = 3  # the last ones, whose MLPs are edited
FILE = "editor/mend.safetensors"


@dataclass(frozen=True, kw_only=True)
class MENDSettings(Settings):
    """Settings of MEND."""

    editor_rank: int = setting(128, "Rank of the editor's matrices", ge=1)
    editor_steps: int = setting(200, "Steps that the editor is trained for, an edit in each", ge=1, unit="steps")
    editor_rate: float = setting(1e-4, "Learning rate of the editor", gt=0)
    alpha: float = setting(1e-4, "First step size of an edit in every layer", gt=0)
    alpha_rate: float = setting(1e-5, "Learning rate of the step sizes", ge=0)
    edit_weight: float = setting(0.1, "c_e: weight of the edit in another wording while the editor is trained", gt=0)
    locality_weight: float = setting(1.0, "c_loc: weight of the divergence on unrelated text", ge=0)
    editor_file: str | None = setting(
        None, "File of an editor to use, or to keep a new one in (default: the cache folder)", advanced=True
    )
    order: str = setting(
        "batch",
        "batch: every edit from the untouched model, summed; sequential: each on the model that holds those before",
        choices=("batch", "sequential"),
    )

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model without MLPs to edit, or with quantised weights."""
        self.layers(model)

    def layers(self, model: LanguageModel) -> list[ModuleRef]:
        """The layers that are edited."""
        return mlp_outputs(model.model)[-BLOCKS:]

    @property
    def plan(self) -> EditorPlan:
        """How the editor is trained."""
        return EditorPlan(
            self.editor_rank,
            self.editor_steps,
            self.editor_rate,
            self.alpha,
            self.alpha_rate,
            self.edit_weight,
            self.locality_weight,
        )


@method(
    "mend",
    verb="edit",
    card="knowedit",
    paper="arXiv:2110.11309",
    summary="A network trained once turns the gradient of an edit into an update that spares unrelated text.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class MEND:
    """Model editor networks with gradient decomposition."""

    Settings = MENDSettings

    def __init__(self, settings: MENDSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train or find the editor, edit, leave a LoRA folder in ``run.folder``, and give ``model`` back unchanged."""
        del keep  # the editor has learned what to spare
        check_targets(edits)
        settings, refs = self.settings, self.settings.layers(model)
        file = Path(settings.editor_file) if settings.editor_file else None
        if file is None:
            file = cache_folder() / "mend" / f"{editor_identity(model, refs, settings.plan, run.seed)}.safetensors"
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {ref.name: [] for ref in refs}
        entries: list[EditEntry] = []
        modules = {ref.name: ref.module for ref in refs}
        with frozen(model):
            editor = trained_editor(model, refs, settings.plan, run, file=file)
            with adding(modules, {ref.name: _sum_of(parts[ref.name], ref) for ref in refs}):
                made = self._made(model, refs, editor, edits, parts, run)
                found = probabilities(model, edits)
        for edit, share, probability in zip(edits, made, found, strict=True):
            entries.append(EditEntry.of(edit, share, probability=probability))
        (run.folder / FILE).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, run.folder / FILE)
        factors = {name: joined([(a.cpu(), b.cpu()) for a, b in several]) for name, several in parts.items()}
        return finish_weights("mend", settings, model, edits, factors, entries, run)

    def _made(
        self,
        model: LanguageModel,
        refs: Sequence[ModuleRef],
        editor: GradientEditor,
        edits: Sequence[Edit],
        parts: dict[str, list[tuple[Tensor, Tensor]]],
        run: Run,
    ) -> list[dict[str, list[int]]]:
        """Add the update of every edit to ``parts``; returns the ranks that each takes."""
        waiting: list[dict[str, tuple[Tensor, Tensor]]] = []
        shares: list[dict[str, list[int]]] = []
        ranks = dict.fromkeys(parts, 0)
        with run.progress.task("edits", len(edits)) as task:
            for edit in edits:
                pairs = gradient_pairs(model, refs, edit_batch(model, [edit.prompt], [edit.target_new]))
                with torch.no_grad():
                    update = {name: (a.detach(), b.detach()) for name, (a, b) in editor.updates(pairs).items()}
                shares.append({name: [ranks[name], ranks[name] + a.shape[0]] for name, (a, _) in update.items()})
                ranks = {name: ranks[name] + a.shape[0] for name, (a, _) in update.items()}
                waiting.append(update)
                if self.settings.order == "sequential":
                    _take(waiting, parts)
                task.advance(1)
        _take(waiting, parts)
        return shares


def _take(waiting: list[dict[str, tuple[Tensor, Tensor]]], parts: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
    """Move the updates that wait into the model."""
    for update in waiting:
        for name, pair in update.items():
            parts[name].append(pair)
    waiting.clear()


def _sum_of(parts: list[tuple[Tensor, Tensor]], ref: ModuleRef) -> Callable[[Tensor], Tensor]:
    """What the updates so far add to a layer's output."""

    def add(x: Tensor) -> Tensor:
        if not parts:
            return torch.zeros(*x.shape[:-1], ref.out_features, device=x.device)
        return torch.stack([x.to(a) @ a.T @ b.T for a, b in parts]).sum(0)

    return add

"""Locate and edit: find the value that states a fact, and write it into the MLP of the blocks that look it up.

The engine of ROME, R-ROME, MEMIT, EMMET and AlphaEdit: keys are captured at the subject's last token, a value is
optimised there (:mod:`keeps.training.value_vectors`), and a closed form of :mod:`keeps.numerics.editing` writes it.
Weights are changed only while it works; what is stored are the exact factors of the update, W + B A.

What does not depend on the edits (statistics, prefixes, the model's fingerprint) is found once, when
:meth:`LocateAndEdit.steps` is opened; then group after group of edits is written into the model.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit, check_agreement, check_edits
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.edit_files import EditEntry, finish_weights
from keeps.models.edit_rows import Row, check_subject, edit_rows, rewrite_row
from keeps.models.language_model import LanguageModel
from keeps.models.moments import second_moments
from keeps.models.own_prefixes import stored_prefixes
from keeps.models.suffixes import Site, adds_to_block
from keeps.models.weight_writer import Writer, keys_of, writing
from keeps.numerics.editing import Moment
from keeps.training.edit_losses import probabilities
from keeps.training.locate_settings import LocateSettings
from keeps.training.value_objectives import Objective
from keeps.training.value_vectors import Value, find_values

NORM_WATCH = 0.5  # size of an update, as a share of its weight, above which a sequence of edits nears collapse

Shares = list[dict[str, list[int]]]  # of each edit: layer -> [first rank, last rank exclusive]
Moments = Mapping[int, Moment]


@dataclass
class Steps:
    """A model under the pen: what was found once, and what has been written so far.

    Attributes:
        fingerprint: of the model without these edits.
        layers: that are written to; values are searched for in the last one, at ``site``.
        entries: of the edits that were written, in order.
    """

    editor: LocateAndEdit
    model: LanguageModel
    run: Run
    fingerprint: str
    layers: list[int]
    site: Site
    prefixes: Sequence[str]
    moments: Moments
    writer: Writer
    objective: Objective
    entries: list[EditEntry] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def write(self, edits: Sequence[Edit], *, measured: bool = True) -> list[EditEntry]:
        """Write a group of edits, whose values are searched for side by side, on top of those before it.

        Args:
            measured: ask the model afterwards how probable each target is now.
        """
        rows, values = self.search(edits)
        return self.put(edits, rows, values, measured=measured)

    def search(self, edits: Sequence[Edit]) -> tuple[list[list[Row]], list[Value]]:
        """The rows and the value of each edit on the model as it is now, searched for side by side."""
        settings: LocateSettings = self.editor.settings
        essence = settings.kl_weight > 0
        rows = edit_rows(self.model, edits, self.prefixes, essence=essence, essence_at=settings.kl_at)
        search = settings.search(self.layers[-1], self.site)
        return rows, find_values(self.model, edits, rows, search, self.objective, self.run)

    def put(
        self, edits: Sequence[Edit], rows: Sequence[Sequence[Row]], values: list[Value], *, measured: bool = True
    ) -> list[EditEntry]:
        """Write what :meth:`search` found; see :meth:`write`."""
        shares = self.editor.written(self, edits, rows, values)
        now = [{"probability": p} for p in probabilities(self.model, edits)] if measured else [{} for _ in edits]
        made = [
            EditEntry.of(edit, share, loss=value.loss, steps=value.steps, **more)
            for edit, share, value, more in zip(edits, shares, values, now, strict=True)
        ]
        self.entries += made
        return made


class LocateAndEdit(ABC):
    """What the methods of this engine share: their settings, the loss that a value is searched for, the steps."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def objective(self, prefixes: Sequence[str]) -> Objective:
        """What values are optimised for; LTI puts another one in its place, which reads the prefixes too."""
        del prefixes
        return self.settings.objective()

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Write the edits, leave a LoRA folder in ``run.folder``, and give the weights back."""
        del keep  # C protects what the layers read elsewhere
        check_editable(model, edits, self.settings)
        with self.steps(model, edits[0], run) as steps, run.progress.task("edits", len(edits)) as task:
            for group in self.settings.groups(edits):
                made = steps.write(group)
                task.advance(len(group))
                task.note(f"p {made[-1].measured['probability']:.2f}")
            measure_steps(steps)
        return self.finished(steps, edits)

    @contextmanager
    def steps(self, model: LanguageModel, first: Edit, run: Run) -> Iterator[Steps]:
        """``model`` ready to be edited; however the block ends, its weights are what they were, bit by bit.

        Args:
            first: an edit by which the model is tried.
        """
        settings: LocateSettings = self.settings
        fingerprint = model.fingerprint  # reads every weight, so once
        layers, site = self.places(model, first, run)
        short, long = settings.short_prefixes, settings.long_prefixes
        prefixes = stored_prefixes(model, short, long, run.seed, fingerprint=fingerprint)
        moments = statistics(model, layers, settings, run, fingerprint=fingerprint)
        with writing(model, layers) as writer:
            objective = self.objective(prefixes)
            steps = Steps(self, model, run, fingerprint, layers, site, prefixes, moments, writer, objective)
            self.begun(steps)
            yield steps

    @abstractmethod
    def places(self, model: LanguageModel, first: Edit, run: Run) -> tuple[list[int], Site]:
        """The blocks that are written to, and what a value is added to in the last one."""

    def begun(self, steps: Steps) -> None:  # noqa: B027
        """What else is found once; nothing by default."""

    @abstractmethod
    def written(
        self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]], values: list[Value]
    ) -> Shares:
        """Write ``values`` into the weights; returns what belongs to each edit."""

    def finished(self, steps: Steps, edits: Sequence[Edit]) -> AdapterChange:
        """Write the folder, once the model has its weights back."""
        name = type(self).info.name  # type: ignore[attr-defined]
        factors, fingerprint = steps.writer.factors(), steps.fingerprint
        return finish_weights(
            name, self.settings, steps.model, edits, factors, steps.entries, steps.run, fingerprint=fingerprint
        )


class OneBlock(LocateAndEdit):
    """The value of an MLP's output, and an update of rank one an edit.

    Of a group (``edits_per_step`` above 1) all values are searched for on the model before it; each is then written
    on the model that holds those before it, and is met exactly there.
    """

    @abstractmethod
    def update(self, w: Tensor, bare: Tensor, mean: Tensor, residual: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Factors A ``(1, in)`` and B ``(out, 1)`` of one edit.

        Args:
            w: the layer's weight now, ``(out, in)`` float64.
            bare, mean: k_0 of the bare prompt and k* over all prefixes, ``(in,)``.
            residual: v* - W k_0, ``(out,)``.
        """

    def places(self, model: LanguageModel, first: Edit, run: Run) -> tuple[list[int], Site]:
        """See :class:`LocateAndEdit`."""
        del first, run
        return self.settings.layers(model), "mlp"

    def written(
        self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]], values: list[Value]
    ) -> Shares:
        """See :class:`LocateAndEdit`."""
        layer, writer = steps.layers[0], steps.writer
        ref = writer.refs[layer]
        before = ref.matrix.double().clone() if len(edits) > 1 else None
        shares: Shares = []
        keys = keys_of(steps.model, rows, [layer])  # what a layer reads does not depend on its own weight
        for bare, mean, value in zip(keys.bare[layer], keys.mean[layer], values, strict=True):
            w = ref.matrix.double()
            residual = value.delta.double()
            if before is not None:  # of the edits before it in the group
                residual = residual + (before - w) @ bare
            a, b = self.update(w, bare, mean, residual, steps.moments[layer])
            shares.append({ref.name: list(writer.write(layer, a, b))})
        return shares


class ManyBlocks(LocateAndEdit):
    """The value of the last block's output, spread over the blocks: each takes its share of what is still missing."""

    @abstractmethod
    def solve(self, layer: int, keys: Tensor, moment: Moment) -> Tensor:
        """A ``(n, in)`` of the update R A of a layer, for keys ``(in, n)`` float64."""

    def remember(self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]]) -> None:
        """What is kept of a group once it is written; nothing by default."""

    def places(self, model: LanguageModel, first: Edit, run: Run) -> tuple[list[int], Site]:
        """See :class:`LocateAndEdit`; the last alone where a norm after the MLP keeps its output from being added."""
        layers = self.settings.chosen_layers(model)
        row = rewrite_row(model, 0, first)
        if all(adds_to_block(model, row, layer) for layer in layers):
            return layers, "block"
        what = f"the blocks of {model.name} have a norm behind their MLP, so the edit is not spread"
        run.progress.message(f"{what}: block {layers[-1]} alone")
        return layers[-1:], "mlp"

    def written(
        self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]], values: list[Value]
    ) -> Shares:
        """See :class:`LocateAndEdit`."""
        layers, writer = steps.layers, steps.writer
        wanted = torch.stack([value.target for value in values])  # Z, (n, hidden)
        shares: Shares = [{} for _ in values]
        for number, layer in enumerate(layers):
            keys = keys_of(steps.model, rows, sorted({layer, layers[-1]}), mean=self.settings.key_mean)
            if steps.site == "block":
                residual = (wanted - keys.states[layers[-1]]) / (len(layers) - number)
            else:  # one layer, whose own output was optimised
                residual = torch.stack([value.delta.double() for value in values])
            a = self.solve(layer, keys.mean[layer].T, steps.moments[layer])
            first, _ = writer.write(layer, a, residual.T)
            for place, share in enumerate(shares):
                share[writer.refs[layer].name] = [first + place, first + place + 1]
        self.remember(steps, edits, rows)
        return shares


def statistics(
    model: LanguageModel,
    layers: Sequence[int],
    settings: LocateSettings,
    run: Run,
    *,
    fingerprint: str | None = None,
) -> dict[int, Moment]:
    """C of each layer, ready to be divided by, on the model's device; a plain ridge where text is scarce."""
    started = time.monotonic()
    found = second_moments(model, layers, tokens=settings.moment_tokens, run=run, fingerprint=fingerprint)
    run.measures["moment_seconds"] = time.monotonic() - started
    moments = {}
    for layer, moment in found.items():
        scarce = moment.tokens < moment.matrix.shape[0]
        ridge = max(settings.ridge, 1e-4) if scarce else settings.ridge  # singular without one
        matrix = moment.matrix.to(model.device)
        moments[layer] = Moment.of(matrix, ridge=ridge, tokens=moment.tokens, where=f"layer {layer}")
    run.measures["moment_tokens"] = min(moment.tokens for moment in moments.values())
    return moments


def check_editable(model: LanguageModel, edits: Sequence[Edit], settings: LocateSettings) -> None:
    """Refuse what cannot be edited before anything is computed.

    Raises:
        RecordError: an edit names no subject, or two edits contradict each other.
        TargetError: the model has no such layers.
    """
    check_edits(edits, "edits")
    settings.check_model(model)
    for edit in edits:
        check_subject(edit)
    check_agreement(edits)


def measure_steps(steps: Steps) -> None:
    """Note what a sequence of edits cost and how much of the weights it changed; warn where that is much."""
    run, norms = steps.run, steps.writer.norms()
    run.measures |= {
        "layers": list(steps.layers),
        "edit_seconds": (time.monotonic() - steps.started) / len(steps.entries),
        "update_norm": max(norms.values()),
    }
    if run.measures["update_norm"] > NORM_WATCH:
        run.progress.message(
            f"the update is {run.measures['update_norm']:.0%} of the weight's size: such a sequence nears collapse"
        )

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

from keeps.contracts import Run
from keeps.data.edits import Edit, check_agreement, check_edits
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.changes import AdapterChange
from keeps.models.edit_files import EditEntry, finish_weights, joined
from keeps.models.edit_rows import Row, check_subject, edit_rows
from keeps.models.language_model import LanguageModel
from keeps.models.own_prefixes import stored_prefixes
from keeps.models.suffixes import Site
from keeps.models.weight_writer import Writer, writing
from keeps.numerics.editing import Moment, output_size, update_size
from keeps.training.edit_losses import probabilities
from keeps.training.locate_settings import LocateSettings
from keeps.training.locate_statistics import statistics
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
        not_made: ids of edits that the text limit left out.
        given: layer -> size of what it gives on ordinary text untouched, once it was asked for.
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
    not_made: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    given: dict[int, float] = field(default_factory=dict)

    def write(self, edits: Sequence[Edit], *, measured: bool = True) -> list[EditEntry]:
        """Write a group of edits, whose values are searched for side by side, on top of those before it.

        A group that would pass the text limit is taken back, and noted in ``not_made``.

        Args:
            measured: ask the model afterwards how probable each target is now.

        Returns:
            What was made: the whole group or nothing.
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
        mark, limit = self.writer.mark(), self.editor.settings.text_limit
        shares = self.editor.written(self, edits, rows, values)
        if limit is not None and self.text_change() > limit:
            self.writer.back_to(mark)
            self.not_made += [edit.id for edit in edits]
            return []
        self.editor.remember(self, edits, rows)
        now = [{"probability": p} for p in probabilities(self.model, edits)] if measured else [{} for _ in edits]
        made = [
            EditEntry.of(edit, share, loss=value.loss, steps=value.steps, **more)
            for edit, share, value, more in zip(edits, shares, values, now, strict=True)
        ]
        self.entries += made
        return made

    def text_change(self) -> float:
        """The largest share, over the layers, of what they give on ordinary text that was changed so far."""
        shares = [0.0]
        for layer, parts in self.writer.parts.items():
            moment = self.moments[layer]
            if layer not in self.given:
                self.given[layer] = output_size(self.writer.original(layer), moment)
            if self.given[layer] > 0:
                shares.append(update_size(*joined(parts), moment) / self.given[layer])
        return max(shares)


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
                if not made:
                    break
                task.advance(len(group))
                task.note(f"p {made[-1].measured['probability']:.2f}")
            check_room(steps, edits)
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

    def remember(self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]]) -> None:  # noqa: B027
        """What is kept of a group once it is written; nothing by default."""

    def finished(self, steps: Steps, edits: Sequence[Edit]) -> AdapterChange:
        """Write the folder, once the model has its weights back."""
        name = type(self).info.name  # type: ignore[attr-defined]
        factors, fingerprint = steps.writer.factors(), steps.fingerprint
        return finish_weights(
            name, self.settings, steps.model, edits, factors, steps.entries, steps.run, fingerprint=fingerprint
        )


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


def check_room(steps: Steps, edits: Sequence[Edit]) -> None:
    """Say which of ``edits`` the text limit left out.

    Raises:
        SettingsError: it left none to be made.
    """
    if not steps.not_made:
        return
    limit, left = steps.editor.settings.text_limit, len(edits) - len(steps.entries)
    what = f"what the edited layers give on ordinary text would change by more than {limit:.3g} of its size"
    if not steps.entries:
        mend = "raise text_limit, edit fewer facts at once, or choose order sequential where the method can"
        raise SettingsError(f"no edit was made: {what}", where="text_limit", mend=mend)
    steps.run.measures["not_made"] = left
    steps.run.progress.message(f"{left} of {len(edits)} edits were not made: {what} (text_limit)")


def measure_steps(steps: Steps) -> None:
    """Note what a sequence of edits cost and how much of the weights it changed; warn where that is much."""
    run, norms = steps.run, steps.writer.norms()
    run.measures |= {
        "layers": list(steps.layers),
        "edit_seconds": (time.monotonic() - steps.started) / len(steps.entries),
        "text_change": steps.text_change(),
        "update_norm": max(norms.values()),
    }
    if run.measures["update_norm"] > NORM_WATCH:
        run.progress.message(
            f"the update is {run.measures['update_norm']:.0%} of the weight's size: such a sequence nears collapse"
        )

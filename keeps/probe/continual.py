"""What a model that learned one thing after another gained and lost: accuracy over time, transfer, forgetting, FUAR.

The models are named in order of time, the one before all learning first; the sets of data are the tasks:

    keeps probe continual --model smollm2-135m --model after-1 --model after-2 --data task1.jsonl,task2.jsonl

From the table of scores (model by task) follow average accuracy, average incremental accuracy, forgetting, backward
and forward transfer and learning accuracy, as the survey arXiv:2302.00487 defines them, where there is one model for
each task in their order, with or without the one before.

Sets of three kinds, `invariant` (facts that stay true), `updated` (that changed) and `new`, give FUAR of CKL
(arXiv:2110.03215), of each model against the first: what was forgotten over what was updated and acquired, each
clipped at zero. Below 1 less is lost than gained, 0 is best, and a model that gained nothing has no FUAR but the
label "no gain". The stale rate is the share of changed facts that are still answered as before. The kind is a column
`kind`, or follows from columns `old_answer` and `new_answer`, or from a file's name. With `--before 2019 --after
2020` the three sets are made of one file of dated facts.

Statements have a blank and are asked by what stands in front of it; `--ask fill` shows them whole, for models that
follow instructions and for blanks at the beginning. An answer counts when the model's words begin with an accepted
one (`--match exact`: when they are nothing else, as in CKL, whose models were tuned to stop). Both are measured.

Use when: a model was trained on one set after another and you want to know what it forgot; a model was updated with
news and each fact lost is to be set against each fact gained; baselines of continual learning are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keeps.contracts import Probe
from keeps.data.dated_slots import dated_slots
from keeps.data.records import RecordSet
from keeps.data.rows import path_mode
from keeps.data.select import load_records
from keeps.data.slots import is_slot_file, read_slots
from keeps.errors import RecordError, SettingsError, UnknownNameError, nearest
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.continual_items import ContinualProbe, Item, record_items, slot_item
from keeps.probe.continual_measures import FuarTasks, continual_findings, draw_over_time
from keeps.probe.sampling import stratified
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASH = "-"  # a phase whose forgetting task is not defined


@dataclass(frozen=True, kw_only=True)
class ContinualSettings(Settings):
    """Settings of the continual probe."""

    match: str = setting(
        "begins", "An answer counts when the text begins with an accepted one, or is one", choices=("begins", "exact")
    )
    ask: str = setting("prefix", "Show what stands before the blank, or all of it", choices=("prefix", "fill"))
    max_tokens: int | None = setting(None, "Longest answer (default: that of the longest accepted one)", ge=1)
    answers: str = setting("", "JSON file with further accepted answers by id")
    before: int | None = setting(None, "Year of the first model, to make three sets of dated facts", ge=0)
    after: int | None = setting(None, "Year of the last model", ge=0)
    forget: str = setting("", "Tasks of old knowledge for FUAR, by commas (default: those of the kind invariant)")
    update: str = setting("", "Task of corrected knowledge for FUAR (default: that of the kind updated)")
    acquire: str = setting("", "Task of new knowledge for FUAR (default: that of the kind new)")
    phases: bool = setting(
        False, "FUAR over all models as phases; forget then names a task (or -) for each model but the last"
    )

    def check(self) -> None:
        """Refuse half of a pair of years."""
        if (self.before is None) != (self.after is None):
            raise SettingsError("before and after go together", where="continual", mend="give both years")


@method(
    "continual",
    verb="probe",
    card="ckl",
    paper="arXiv:2110.03215 and arXiv:2302.00487",
    summary="Learned and lost over time: average accuracy, transfer, forgetting, and FUAR of news against old facts.",
    needs=("statements",),
)
class Continual(ProbingSystem):
    """Sets as tasks, models as times."""

    Settings = ContinualSettings
    default_data = "world:capital,world:symbol,world:continent"
    fewest_models = 2

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`.

        Raises:
            EmptySetError: a task has nothing to ask.
            RecordError: a statement without a blank, or with nothing before it; an id twice.
            UnknownNameError: a task that FUAR shall use is not there.
            SettingsError: two tasks are of one kind of which FUAR takes one.
        """
        settings = self.settings
        data = self.default_data if selection.data is None else selection.data
        items = self._items(data, selection)
        tasks = {item.task: item.kind for item in items}
        _check_fuar(tasks, settings)
        chosen = stratified(
            items, selection.limit, selection.seed, group=lambda item: item.task, identity=lambda item: item.id
        )
        name = data.source if isinstance(data, RecordSet) else str(data)
        return ContinualProbe(chosen, name=name, match=settings.match, max_tokens=settings.max_tokens)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """Scores, transfer and forgetting, and FUAR where there are kinds."""
        return continual_findings(asked, fuar=fuar_tasks(asked, self.settings), seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """The score of each task over time."""
        del seed
        return draw_over_time(asked)

    def _items(self, data: str | RecordSet, selection: Selection) -> list[Item]:
        settings = self.settings
        if isinstance(data, RecordSet):
            return record_items(data)
        if settings.before is not None and settings.after is not None:
            return [slot_item(slot, settings.ask) for slot in dated_slots(data, settings.before, settings.after)]
        whole = path_mode(Path(data)) is not None
        items: list[Item] = []
        for part in [data] if whole else [part.strip() for part in data.split(",") if part.strip()]:
            found = self._part(part, selection)
            shared = {item.task for item in items} & {item.task for item in found}
            if shared:
                mend = "rename a file, or give the rows a task column"
                raise RecordError(f'two sets are called "{sorted(shared)[0]}"', where=data, mend=mend)
            items += found
        return items

    def _part(self, part: str, selection: Selection) -> list[Item]:
        is_file = path_mode(Path(part)) is not None
        if is_file and is_slot_file(Path(part)):
            slots = read_slots(part, answers=self.settings.answers or None)
            return [slot_item(slot, self.settings.ask) for slot in slots]
        return record_items(load_records(part, marks=selection.marks), task=Path(part).stem if is_file else "")


def fuar_tasks(asked: Sequence[ModelRows], settings: ContinualSettings) -> FuarTasks | None:
    """Which tasks FUAR is made of; None where there are none."""
    kinds = {row.group: str(row.details["kind"]) for row in asked[0].rows}
    return _tasks(kinds, settings)


def _tasks(kinds: dict[str, str], settings: ContinualSettings) -> FuarTasks | None:
    forget = tuple(name.strip() for name in settings.forget.split(",") if name.strip())
    forget = forget or tuple(task for task, kind in kinds.items() if kind == "invariant")
    update, acquire = (
        name or next((task for task, own in kinds.items() if own == kind), None)
        for name, kind in ((settings.update, "updated"), (settings.acquire, "new"))
    )
    if not forget or (update is None and acquire is None):
        return None
    return FuarTasks(tuple(None if name == DASH else name for name in forget), update, acquire, settings.phases)


def _check_fuar(kinds: dict[str, str], settings: ContinualSettings) -> None:
    for option, given, kind in (("update", settings.update, "updated"), ("acquire", settings.acquire, "new")):
        several = [task for task, own in kinds.items() if own == kind]
        if len(several) > 1 and not given:
            what = f"the tasks {' and '.join(several)} are of the kind {kind}, of which FUAR takes one"
            raise SettingsError(what, where=option, mend=f"name it with --{option}")
    tasks = _tasks(kinds, settings)
    named = [name for name in (settings.forget, settings.update, settings.acquire) if name]
    if tasks is None:
        if named or settings.phases:
            mend = "name tasks for forget, and for update or acquire"
            raise SettingsError("FUAR lacks a task of what was lost or gained", where="continual", mend=mend)
        return
    used = [*(name for name in tasks.forget if name), *(name for name in (tasks.update, tasks.acquire) if name)]
    unknown = next((name for name in used if name not in kinds), None)
    if unknown is not None:
        raise UnknownNameError(f'there is no task "{unknown}"', where="continual", mend=nearest(unknown, kinds))
    if len(set(used)) < len(used) or not any(tasks.forget) or (None in tasks.forget and not tasks.phases):
        mend = "name every task once, and - only with --phases"
        raise SettingsError(f"FUAR cannot be made of {', '.join(used)}", where="continual", mend=mend)

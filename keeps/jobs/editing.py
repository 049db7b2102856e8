"""Edit facts of a model and see what took, what follows, and what else moved; list edits and withdraw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keeps.contracts import Progress, Row, SilentProgress
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, StorageError
from keeps.jobs.adapting import chosen_settings
from keeps.jobs.attempt import Attempt
from keeps.jobs.data import JobData, names_marks
from keeps.jobs.editing_data import DEFAULT_KEEP, EditData, Edits, edit_data, edits_of
from keeps.jobs.editing_onto import onto
from keeps.jobs.editing_warnings import edit_warnings
from keeps.jobs.job import Job
from keeps.jobs.models import marks_for, resolve
from keeps.jobs.processes import own_device
from keeps.ledger.lines import KnowledgeDiff
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.probe.base import Findings, ModelRows
from keeps.probe.editing_measures import editing_findings
from keeps.registry import MethodInfo, find_method
from keeps.settings import Settings

if TYPE_CHECKING:
    from keeps.models.edit_files import EditEntry
    from keeps.models.language_model import LanguageModel

DEFAULT_METHOD = "rome"


@dataclass(frozen=True)
class EditOutcome:
    """A finished edit run: where it lies, what took and what moved.

    Attributes:
        entries: the edits that the change holds, in order, with what the method measured on each.
        findings: success, rephrase, portability, locality, fluency and overfitting, before and after.
        diff: the knowledge diff over the prompts of the edits, the facts to keep and running text.
        warnings: what a user should look at: an edit that did not take, neighbours that moved, a collapse that nears.
        reused: it was in the ledger already, and nothing was edited.
    """

    run_id: str
    folder: Path
    entries: tuple[EditEntry, ...]
    findings: Findings
    diff: KnowledgeDiff
    warnings: tuple[str, ...]
    reused: bool

    def value(self, metric: str) -> float | None:
        """The figure of the edited model, such as ``"rewrite.exact"``; None where it is not defined."""
        found = [item for item in self.findings.measures if item.metric == metric and item.model == self.run_id]
        return next((item.value for item in found if item.group == "all"), None)


def edit(
    edits: Edits,
    keep: str | RecordSet | None = None,
    *,
    method: str = DEFAULT_METHOD,
    model: str | LanguageModel = DEFAULT_MODEL,
    settings: Mapping[str, Any] | Settings | None = None,
    order: str | None = None,
    after: str | None = None,
    seed: int = 0,
    generation_tokens: int = 100,
    device: str | None = None,
    workspace: str | Path | None = None,
    resume: bool = False,
    restart: bool = False,
    command: str = "",
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> EditOutcome:
    """Change single facts of ``model``, and say what took, what follows from it and what else moved.

    The change lies in the run's folder; ``model`` has its weights back. A job that is in the ledger already is not
    repeated.

    >>> outcome = edit(Edit("1", "Mongolia", "The capital of Mongolia is", "Darkhan"))  # doctest: +SKIP
    >>> outcome.value("rewrite.exact")  # doctest: +SKIP

    Args:
        edits: an :class:`keeps.data.edits.Edit` or several, a file of them, or facts such as ``"world:capital#5"``,
            which are given other objects.
        keep: facts and texts that must not move; those about edited subjects are left out.
        order: ``"batch"`` (solved together) or ``"sequential"`` (one after another); default as the method does.
        after: an earlier edit run of the same model, on top of which these edits are made.
        generation_tokens: of the text whose fluency is measured.

    Raises:
        SettingsError: the method cannot take edits in this order, the model answers so already, or ``after`` and the
            method do not go together.
        KeepsError: any bad input, before a model is loaded where possible.
    """
    from keeps.models.language_model import LanguageModel

    info = find_method(method, "edit")
    chosen = _ordered(info, chosen_settings(info, settings), order)
    if resume and restart:
        raise SettingsError("resume and restart contradict each other", where="edit", mend="choose one")
    space = Workspace(workspace)
    earlier = None if after is None else resolve(after, space)
    if earlier is not None and earlier.change is None:
        raise StorageError(f'"{after}" is no finished edit run', where="after", mend="`keeps runs` lists them")
    if not _marked(edits):
        edits = edits_of(edits, seed=seed)
    space.ensure()
    shown = progress or SilentProgress()
    if not isinstance(model, LanguageModel):
        loaded = model if earlier is None else earlier.model
        model = LanguageModel.load(
            loaded, device=own_device(device), progress=shown, trust_remote_code=trust_remote_code
        )
    chosen.check_model(model)
    marks = marks_for(model, edits if isinstance(edits, str) else None, keep or DEFAULT_KEEP, progress=shown)
    wanted = with_current_answers(model, edits_of(edits, seed=seed, marks=marks))
    data = edit_data(wanted, keep, marks=marks, generation_tokens=generation_tokens)
    if earlier is not None and earlier.change is not None:
        info = onto(info, chosen, earlier.change)
    job = Job(info, chosen, cast(JobData, data), _words(edits), _words(keep or DEFAULT_KEEP), seed, model.fingerprint)
    if earlier is not None and earlier.change is not None:
        job = replace(job, learn=f"{job.learn}, after {earlier.name}")
        job = _named_after(job, earlier.change.fingerprint)
    done = Attempt(job, model, space, own_device(device), shown, command, resume=resume, restart=restart)()
    return _outcome(done.run_id, done.folder, done.diff, done.reused, space, data, seed)


def list_edits(run: str, *, workspace: str | Path | None = None) -> tuple[EditEntry, ...]:
    """The edits that a run holds, in the order in which they were made.

    Raises:
        StorageError: it is no edit run.
    """
    from keeps.models.edit_files import read_entries

    return tuple(read_entries(_folder(run, Workspace(workspace))))


def withdraw_edits(
    ids: Sequence[str], run: str, out: str | Path | None = None, *, workspace: str | Path | None = None
) -> Path:
    """A new change without the edits called ``ids``; the others stay as they were solved.

    Args:
        out: a new folder; by default one beside the run's own.

    Raises:
        UnknownNameError: there is no such edit.
        SettingsError: no edit would be left, or an edit cannot be parted from others.
        StorageError: it is no edit run, or ``out`` exists.
    """
    from keeps.models.edit_files import withdraw

    folder = _folder(run, Workspace(workspace))
    target = Path(out) if out is not None else folder.with_name(f"{folder.name}-without-{len(ids)}")
    if target.exists():
        raise StorageError("the folder exists already", where=str(target), mend="name another one with --out")
    withdraw(folder, ids, target)
    return target


def with_current_answers(model: LanguageModel, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """``edits`` with what the model says now as the old object, where none is given.

    Raises:
        SettingsError: the model gives every new answer already.
    """
    from keeps.probe.matching import matches

    found = model.ask([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    said = [answer.text.strip() for answer in found]
    if all(matches(text, (edit.target_new,)) for text, edit in zip(said, edits, strict=True)):
        what = f'the model answers "{said[0]}" to "{edits[0].prompt}" already'
        raise SettingsError(what, where="edit", mend="nothing has to be edited; give another target")
    return tuple(
        replace(edit, target_true=text) if not edit.target_true and text and text != edit.target_new else edit
        for text, edit in zip(said, edits, strict=True)
    )


def _outcome(
    run_id: str, folder: Path, diff: KnowledgeDiff, reused: bool, space: Workspace, data: EditData, seed: int
) -> EditOutcome:
    from keeps.models.edit_files import read_entries

    with space.ledger(read_only=True) as ledger:
        record = ledger.find_run(run_id)
        rows = [_of_edits(ledger.rows(name or "")) for name in (record.before_result, record.after_result)]
        name = record.model
    findings = editing_findings([ModelRows(name, rows[0]), ModelRows(run_id, rows[1])], seed=seed)
    entries = tuple(read_entries(folder))
    warnings = tuple(edit_warnings(data.learn, rows[0], rows[1], diff, record.measures))
    return EditOutcome(run_id, folder, entries, findings, diff, warnings, reused)


def _of_edits(rows: Sequence[Row]) -> list[Row]:
    """The rows of the editing probe among those of a job."""
    return [row for row in rows if "scope" in row.details]


def _ordered(info: MethodInfo, settings: Settings, order: str | None) -> Settings:
    """``settings`` with the order that the user wants; refused where the method does not know it."""
    if order is None:
        return settings
    field = next((item for item in info.settings.fields() if item.name == "order"), None)
    if field is None or (field.choices and order not in field.choices):
        known = "edits are always solved together" if field is None else f"it knows {', '.join(field.choices or ())}"
        what = f'{info.name} does not take edits in the order "{order}"'
        raise SettingsError(what, where="order", mend=f"leave the order out: {known}")
    return replace(settings, order=order)


def _named_after(job: Job, fingerprint: str) -> Job:
    """The job under a name of its own: edits on top of others are another job than the same edits alone."""
    data = cast(EditData, job.data)
    return replace(job, data=cast(JobData, _AfterData(data.learn, data.keep, data.probe, fingerprint)))


@dataclass(frozen=True)
class _AfterData(EditData):
    after: str = ""

    @property
    def fingerprints(self) -> dict[str, str]:
        return {**super().fingerprints, "after": self.after}


def _folder(run: str, space: Workspace) -> Path:
    named = resolve(run, space)
    if named.folder is None or not named.folder.exists():
        raise StorageError(f'"{run}" is no finished edit run', where="run", mend="`keeps runs` lists them")
    return named.folder


def _marked(edits: Edits) -> bool:
    return isinstance(edits, str) and names_marks(edits)


def _words(spec: Any) -> str:
    if isinstance(spec, RecordSet):
        return spec.source
    if isinstance(spec, (str, Path)):
        return str(spec)
    several = (spec,) if isinstance(spec, Edit) else tuple(spec)
    return several[0].sentence if len(several) == 1 else f"{len(several)} edits"

"""The knowledge diff of a run, or of any two models, runs or change folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from keeps.contracts import Probe, Progress, SilentProgress
from keeps.errors import KeepsError, LedgerError
from keeps.jobs.asking import Asking
from keeps.jobs.data import job_data, names_marks
from keeps.jobs.models import Named, how_to_finish, resolve
from keeps.jobs.probing import check_probe, world_probe
from keeps.jobs.unlearning_data import unlearn_data
from keeps.ledger.difference import diff_results
from keeps.ledger.lines import KnowledgeDiff
from keeps.ledger.records import RunRecord
from keeps.ledger.store import Ledger
from keeps.ledger.workspace import Workspace


def diff(
    first: str,
    second: str | None = None,
    *,
    probe: str | None = None,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> KnowledgeDiff:
    """What changed from ``first`` to ``second``, or what the run ``first`` changed.

    >>> print(diff("corda-3f"))  # doctest: +SKIP

    Args:
        first: a run (id or unique prefix), a run's folder, or any model.
        second: likewise. Without it ``first`` must be a run, and is compared with its base model.
        probe: what to ask: built-in sets or files, known and unknown as they are to ``first``. By
            default the questions of the run that is named first, or the world.
        workspace: where the ledger is.

    Raises:
        LedgerError: nothing to compare with, or the questions of a run cannot be put together again.
        KeepsError: a name that is neither run, folder nor model.
    """
    if probe is not None:
        check_probe(probe)
    space = Workspace(workspace)
    one = resolve(first, space)
    if second is None and (probe is None or one.folder is None):
        return _of_run(one, space)
    one, other = (Named(one.model, one.model), one) if second is None else (one, resolve(second, space))
    progress = progress or SilentProgress()
    with space.ledger() as ledger:
        found = _stored_pair(ledger, one, other) if probe is None else None
        if found is None:
            asking = Asking(ledger, device, progress)
            questions = _chosen(asking, probe, one, other)
            found = asking.result(one, questions)[0], asking.result(other, questions)[0]
        return diff_results(ledger, *found, before_name=one.name, after_name=other.name)


def _of_run(named: Named, space: Workspace) -> KnowledgeDiff:
    run = named.run
    if run is None:
        mend = "name a run, or two models"
        raise LedgerError(f'"{named.name}" is no run of this workspace', where=str(space.path), mend=mend)
    if not run.before_result or not run.after_result:
        what = f"the run is {run.status} and has not been probed"
        raise LedgerError(what, where=run.id, mend=how_to_finish(run))
    with space.ledger(read_only=True) as ledger:
        names = {"before_name": run.model, "after_name": run.id}
        return diff_results(ledger, run.before_result, run.after_result, cost=run.measures, **names)


def _stored_pair(ledger: Ledger, *named: Named) -> tuple[str, str] | None:
    """The results of two runs that were asked the same questions; None otherwise."""
    ids = [item.run.after_result for item in named if item.run is not None and item.run.after_result]
    if len(ids) < 2 or len({ledger.result(result).probe_fingerprint for result in ids}) > 1:
        return None
    return ids[0], ids[1]


def _chosen(asking: Asking, probe: str | None, *named: Named) -> Probe:
    """What to ask: what the user names, else the questions of the first run, else the world."""
    if probe is not None:
        return world_probe(probe, marks=asking.marks(named[0]) if names_marks(probe) else None)
    for item in named:
        if item.run is not None:
            measured = names_marks(item.run.learn) or names_marks(item.run.keep)
            return _questions_of(item.run, asking.marks(item) if measured else None)
    return world_probe("world")


def _questions_of(run: RunRecord, marks: Mapping[str, str] | None) -> Probe:
    """The questions that the run was asked, put together again from its data.

    Raises:
        LedgerError: its data are not there any more, or not what they were.
    """
    mend = "name the questions with --probe"
    try:
        read = unlearn_data if run.kind == "unlearn" else job_data
        data = read(run.learn, run.keep, marks=marks)
    except KeepsError as error:
        what = f"the questions of the run cannot be asked again ({error.what})"
        raise LedgerError(what, where=run.id, mend=mend) from None
    if data.fingerprints != dict(run.data_fingerprints):
        what = "the data of the run are not what they were, or another part of them was asked"
        raise LedgerError(what, where=run.id, mend=mend)
    return data.probe

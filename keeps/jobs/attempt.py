"""One attempt at a job: it ends in a finished run, or in something that ``--resume`` continues.

The order of writing makes every moment safe to die in. The method writes to ``ID.partial``; the folder
gets its final name when it is complete; the ledger is completed after that, from what lies on disk.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keeps.contracts import Change, ChangeRecord, Progress, Run
from keeps.errors import InterruptedRunError, KeepsError
from keeps.jobs.asking import asked
from keeps.jobs.folders import publish
from keeps.jobs.job import AdaptOutcome, Job
from keeps.jobs.processes import from_main, is_main_process
from keeps.ledger.difference import diff_results
from keeps.ledger.records import RunRecord
from keeps.ledger.store import Ledger
from keeps.ledger.workspace import Workspace

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class _Plan:
    """What is left to do. ``before`` is the result of the untouched model."""

    before: str = ""
    train: bool = False
    finished: RunRecord | None = None


class Attempt:
    """The main process leads: it holds the run's lock, writes and probes; the others train along.

    Args:
        model: the base; it has its weights back when the attempt ends, however it ends.
        device: torch device to train on.
    """

    def __init__(
        self,
        job: Job,
        model: LanguageModel,
        space: Workspace,
        device: str,
        progress: Progress,
        command: str = "",
        *,
        resume: bool = False,
        restart: bool = False,
    ) -> None:
        self.job, self.model, self.space = job, model, space
        self.device, self.progress, self.command = device, progress, command
        self.resume, self.restart = resume, restart
        self.run_id = job.run_id
        self.final, self.partial = space.run_folder(self.run_id), space.partial_folder(self.run_id)

    def __call__(self) -> AdaptOutcome:
        """Do what is left of the job.

        Raises:
            InterruptedRunError: it was interrupted before, is under way elsewhere, or is stopped now.
            KeepsError: the method refuses its input, or what it wrote cannot be stored.
        """
        with ExitStack() as stack:
            plan = from_main(lambda: self._begin(stack), device=self.device)
            change, run = self._train() if plan.train else (None, None)
            return from_main(lambda: self._finish(plan, change, run), device=self.device)

    # --- the main process alone ---------------------------------------------------------------

    def _begin(self, stack: ExitStack) -> _Plan:
        """Take the lock, ask the untouched model, and make the folder that the method writes to."""
        stack.enter_context(self.space.lock(self.run_id))
        self.ledger: Ledger = stack.enter_context(self.space.ledger())
        known = self._entry()
        if known and known.status == "done" and known.after_result and self.final.exists():
            return _Plan(finished=known)
        if self.final.exists():
            ChangeRecord.read(self.final)  # one of another version is refused before anything is asked
        with self._in_words():
            self._prepare(known)
        before, _ = asked(self.ledger, self.model, self.job.data.probe, self.model.name, self.progress)
        if self.final.exists():  # the last attempt died between the folder's name and the ledger
            return _Plan(before)
        with self._in_words():
            self.partial.mkdir(parents=True, exist_ok=True)
        self._store(self.job.record(self.model, before, self.command))
        return _Plan(before, train=True)

    def _prepare(self, known: RunRecord | None) -> None:
        """Say what to do about an interrupted run of the same job, or throw it away if asked to."""
        if self.restart and self.partial.exists():
            shutil.rmtree(self.partial)
        if self.final.exists() or self.resume or not self.partial.exists() or not any(self.partial.iterdir()):
            return
        failed = known is not None and known.status == "failed"
        raise InterruptedRunError(
            "this job failed before" if failed else "this job was interrupted before it was done",
            where=str(self.partial),
            mend="continue it with --resume, or begin anew with --restart",
        )

    def _finish(self, plan: _Plan, change: Change | None, run: Run | None) -> AdaptOutcome:
        if plan.finished is not None:
            return self._outcome(plan.finished, reused=True)
        with self._failure_noted():
            if change is not None and run is not None:
                self._complete(change.record.with_measures(run.measures), run.curves)
            return self._outcome(self._probed(plan.before), reused=False)

    def _complete(self, record: ChangeRecord, curves: list[Any]) -> None:
        """Add what belongs to every run, and give the folder its final name."""
        card = self.job.card(record.kind, self.model)
        record.write(self.partial)
        (self.partial / "curves.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
        (self.partial / "README.md").write_text(card, encoding="utf-8")
        publish(self.partial, self.final)

    def _probed(self, before: str) -> RunRecord:
        """Probe what lies on disk, as a user will load it, and complete the ledger."""
        from keeps.models.changes import load_change

        shutil.rmtree(self.final / "checkpoint", ignore_errors=True)  # of no use any more
        change = load_change(self.final)
        changed = change.apply(self.model)
        try:
            after, _ = asked(self.ledger, changed, self.job.data.probe, self.run_id, self.progress)
        finally:
            changed.undo()
        record = replace(
            self.job.record(self.model, before, self.command), measures=change.record.measures, after_result=after
        )
        self._store(record)
        curves = json.loads((self.final / "curves.json").read_text(encoding="utf-8"))
        self.ledger.add_curves(self.run_id, [(name, step, value) for name, step, value in curves])
        return self.ledger.update_run(self.run_id, status="done")  # last: a run that is done lacks nothing

    def _outcome(self, record: RunRecord, *, reused: bool) -> AdaptOutcome:
        names = {"before_name": record.model, "after_name": record.id}
        before, after = record.before_result or "", record.after_result or ""
        diff = diff_results(self.ledger, before, after, cost=record.measures, **names)
        return AdaptOutcome(record.id, self.final, diff, reused, record.measures.get("export_difference"))

    # --- the ledger's entry -------------------------------------------------------------------

    def _entry(self) -> RunRecord | None:
        return next((run for run in self.ledger.runs() if run.id == self.run_id), None)

    def _store(self, record: RunRecord) -> None:
        """Add the run, or bring the entry of an earlier attempt up to date."""
        if self._entry() is None:
            self.ledger.add_run(record)
        else:
            values = {
                name: getattr(record, name) for name in record.__dataclass_fields__ if name not in ("id", "created")
            }
            self.ledger.update_run(record.id, **values)

    # --- every process ------------------------------------------------------------------------

    def _train(self) -> tuple[Change, Run]:
        run = Run(
            self.partial,
            seed=self.job.seed,
            device=self.device,
            resume=self.resume,
            is_main=is_main_process(),
            progress=self.progress,
        )
        started = time.monotonic()
        with self._failure_noted():
            change = self.job.info.implementation(self.job.settings)(
                self.model, self.job.data.learn, self.job.data.keep, run=run
            )
        run.measures["total_seconds"] = time.monotonic() - started
        return change, run

    @contextmanager
    def _failure_noted(self) -> Iterator[None]:
        """Write a failure into the ledger; what the attempt left in its folder stays for the next one."""
        try:
            with self._in_words():
                yield
        except InterruptedRunError:
            raise
        except Exception:
            if is_main_process():
                with suppress(KeepsError):  # on a full disk the first error is the one to report
                    self.ledger.update_run(self.run_id, status="failed")
                with suppress(OSError):
                    self.partial.rmdir()  # if it is empty
            raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """What the disk refuses, as an error that says what to do."""
        from safetensors import SafetensorError

        from keeps.weights.files import storage_error

        try:
            yield
        except (OSError, SafetensorError) as error:
            raise storage_error(error, self.partial) from error

"""Unlearn: take knowledge out of a model and see what went, what stayed, and whether it is really gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, SilentProgress
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.jobs.adapting import chosen_settings
from keeps.jobs.attempt import Attempt
from keeps.jobs.data import DEFAULT_KEEP
from keeps.jobs.job import Job
from keeps.jobs.models import marks_for
from keeps.jobs.processes import from_main, is_main_process, own_device
from keeps.jobs.unlearning_data import FORGET, RETAIN, check_unlearn_data, unlearn_data
from keeps.jobs.verifying import Verification, check_verification, verify_unlearning
from keeps.ledger.lines import KnowledgeDiff
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method
from keeps.settings import Settings

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

DEFAULT_METHOD = "npo"


@dataclass(frozen=True)
class UnlearnOutcome:
    """A finished run: where it lies, what went and what stayed.

    Attributes:
        diff: in the role ``forget`` what was lost is what was wanted; in ``retain`` it is the damage.
        reused: it was in the ledger already, and nothing was trained.
        export_difference: largest difference of logits between the trained model and what was written.
        verification: what the attacks found, if it was asked for.
    """

    run_id: str
    folder: Path
    diff: KnowledgeDiff
    reused: bool
    export_difference: float | None = None
    verification: Verification | None = None

    @property
    def forgotten(self) -> float | None:
        """Share of the facts that were known and are not any more; None where none was known."""
        return _share(self.diff, FORGET, lost=True)

    @property
    def kept(self) -> float | None:
        """Share of what is to be retained and was known that is known still; None where none was known."""
        return _share(self.diff, RETAIN, lost=False)


def unlearn(
    forget: str | RecordSet,
    retain: str | RecordSet | None = None,
    *,
    method: str = DEFAULT_METHOD,
    model: str | LanguageModel = DEFAULT_MODEL,
    settings: Mapping[str, Any] | Settings | None = None,
    verify: bool = False,
    holdout: str | RecordSet | None = None,
    retain_model: str | None = None,
    relearn_steps: int = 10,
    seed: int = 0,
    device: str | None = None,
    workspace: str | Path | None = None,
    resume: bool = False,
    restart: bool = False,
    command: str = "",
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> UnlearnOutcome:
    """Take the forget set out of ``model``, and say what it forgot, kept and lost beside that.

    >>> outcome = unlearn("world:known:capital#20", "world:known:symbol", method="npo")  # doctest: +SKIP
    >>> outcome.forgotten, outcome.kept  # doctest: +SKIP

    Args:
        forget: what must go: built-in sets, files, or a RecordSet.
        retain: what must stay; the method may train on its train part, its test part is reported. By default
            facts that the model knows.
        method: the name of a method of the verb ``unlearn``.
        verify: attack the result: extraction, membership, paraphrases, relearning.
        holdout: the same kind of thing as the forget set, which the model was never trained on; the attacks on
            membership need it.
        retain_model: a model, or a run, that was trained without the forget set; forget quality needs it.
        relearn_steps: optimiser steps of the relearning attack; 0 leaves it out.

    Raises:
        InterruptedRunError: this job was interrupted before, or is under way elsewhere.
        KeepsError: any bad input, before a model is loaded where possible.
    """
    from keeps.models.language_model import LanguageModel

    info = find_method(method, "unlearn")
    chosen = chosen_settings(info, settings)
    if resume and restart:
        raise SettingsError("resume and restart contradict each other", where="unlearn", mend="choose one")
    check_unlearn_data(forget, retain)
    check_verification(forget, holdout, retain_model, wanted=verify)
    space = Workspace(workspace)
    space.ensure()
    shown = progress if progress is not None and is_main_process() else SilentProgress()
    device = own_device(device)
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(model, device=device, progress=shown, trust_remote_code=trust_remote_code)
    base = model
    chosen.check_model(base)
    kept: str | RecordSet = DEFAULT_KEEP if retain is None else retain
    marks = from_main(lambda: marks_for(base, forget, kept, progress=shown), device=device)
    data = unlearn_data(forget, retain, marks=marks)
    job = Job(info, chosen, data, _words(forget), _words(kept), seed, base.fingerprint)
    done = Attempt(job, base, space, device, shown, command, resume=resume, restart=restart)()
    verification = None
    if verify:
        verification = from_main(
            lambda: verify_unlearning(
                base,
                done.folder,
                data.learn,
                retain,
                holdout=holdout,
                retain_model=retain_model,
                relearn_steps=relearn_steps,
                seed=seed,
                marks=marks,
                space=space,
                device=device,
                progress=shown,
            ),
            device=device,
        )
    return UnlearnOutcome(done.run_id, done.folder, done.diff, done.reused, done.export_difference, verification)


def _share(diff: KnowledgeDiff, role: str, *, lost: bool) -> float | None:
    line = diff.total(role)
    known = 0 if line is None else line.kept + line.lost
    if line is None or not known:
        return None
    return (line.lost if lost else line.kept) / known


def _words(spec: str | RecordSet) -> str:
    return spec.source if isinstance(spec, RecordSet) else str(spec)

"""Adapt a model and see what it learned, kept and lost: probe, change, probe again, record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Run, SilentProgress
from keeps.data.records import RecordSet, Split
from keeps.errors import SettingsError, nearest
from keeps.jobs.attempt import Attempt
from keeps.jobs.data import ASKED_OF_LEARN, DEFAULT_KEEP, DEFAULT_LEARN, check_data, job_data
from keeps.jobs.job import AdaptOutcome as AdaptOutcome
from keeps.jobs.job import Job
from keeps.jobs.models import marks_for
from keeps.jobs.processes import from_main, is_main_process, own_device
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import MethodInfo, find_method
from keeps.settings import Settings

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


def adapt(
    learn: str | RecordSet = DEFAULT_LEARN,
    keep: str | RecordSet = DEFAULT_KEEP,
    *,
    method: str = "corda",
    model: str | LanguageModel = DEFAULT_MODEL,
    settings: Mapping[str, Any] | Settings | None = None,
    seed: int = 0,
    device: str | None = None,
    workspace: str | Path | None = None,
    resume: bool = False,
    restart: bool = False,
    report: Split = "test",
    ask_calibrated: bool = True,
    stepping_stones: str = "no",
    exam: str | RecordSet | None = None,
    command: str = "",
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> AdaptOutcome:
    """Teach ``model`` the learn set, and say what it learned, kept and lost.

    A job that is in the ledger already is not repeated. Its name depends on the method, all settings,
    the contents of the data, the seed and the model, and on nothing else. Under ``accelerate launch``
    all processes train together, the main one probes and writes, and each returns the same outcome.

    >>> outcome = adapt("new.jsonl", "known.csv", method="lora")  # doctest: +SKIP
    >>> print(outcome.diff)  # doctest: +SKIP

    Args:
        learn: what to teach: built-in sets, files, or a RecordSet.
        keep: what to keep; its train part may be used by the method, its other parts only reported.
        method: the name of a method of the verb ``adapt``.
        model: short name, transformers folder, hub id, GGUF file, or a loaded LanguageModel.
        settings: of the method, as a mapping or its settings dataclass.
        resume: continue an interrupted run of this job.
        restart: throw an interrupted run of this job away.
        report: the part of the keep set that is asked; ``"validation"`` for choosing settings.
        ask_calibrated: ask the part that the method may calibrate on as well.
        stepping_stones: train on prompts that lead to their answers (``"templates"``, or ``"model"`` to let the model
            write them; see :mod:`keeps.training.stepping_stones`), where these are improbable. What is asked stays.
        exam: what is asked about the learn set and never trained on, such as other examples of a skill. (Of a learn
            set of more than 250 records, 250 are asked; all are taught.)
        command: what to type to repeat the run, stored with it.

    Raises:
        InterruptedRunError: this job was interrupted before, or is under way elsewhere.
        KeepsError: any bad input, before a model is loaded where possible.
    """
    from keeps.models.language_model import LanguageModel
    from keeps.training.stepping_stones import WRITERS
    from keeps.training.stepping_stones import stepping_stones as with_stones

    info = find_method(method, "adapt")
    chosen = chosen_settings(info, settings)
    if resume and restart:
        raise SettingsError("resume and restart contradict each other", where="adapt", mend="choose one")
    if stepping_stones not in ("no", *WRITERS):
        mend = nearest(stepping_stones, ("no", *WRITERS))
        raise SettingsError(f'stepping_stones is "{stepping_stones}"', where="adapt", mend=mend)
    check_data(learn, keep, report=report, exam=exam)
    space = Workspace(workspace)
    space.ensure()
    shown = progress if progress is not None and is_main_process() else SilentProgress()
    device = own_device(device)
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(model, device=device, progress=shown, trust_remote_code=trust_remote_code)
    base = model
    chosen.check_model(base)
    marks = from_main(lambda: marks_for(base, learn, keep, progress=shown), device=device)
    data = job_data(learn, keep, marks=marks, report=report, ask_calibrated=ask_calibrated, exam=exam)
    if len(data.learn) > ASKED_OF_LEARN:
        shown.message(f"{len(data.learn)} records are taught, and {ASKED_OF_LEARN} of them asked before and after")
    if stepping_stones != "no":
        told = Run(space.path, progress=shown)
        stones = from_main(lambda: with_stones(base, data.learn, stepping_stones, run=told)[0], device=device)
        data = replace(data, learn=stones)
    job = Job(info, chosen, data, _words(learn), _words(keep), seed, base.fingerprint)
    return Attempt(job, base, space, device, shown, command, resume=resume, restart=restart)()


def chosen_settings(info: MethodInfo, settings: Mapping[str, Any] | Settings | None) -> Settings:
    """The settings of a method from what the user gave.

    Raises:
        SettingsError: a value is wrong, or the settings belong to another method.
        UnknownNameError: there is no such setting.
    """
    if isinstance(settings, Settings):
        if type(settings) is info.settings:
            return settings
        what = f"{type(settings).__name__} are not the settings of {info.name}"
        raise SettingsError(what, where="settings", mend=f"give {info.settings.__name__} or a mapping")
    return info.settings.from_mapping(settings or {}, where=info.name)


def _words(spec: str | RecordSet) -> str:
    return spec.source if isinstance(spec, RecordSet) else str(spec)

"""``keeps adapt``: teach a model new data and show what it learned, kept and lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.generated import command_text, option_value, with_settings
from keeps.cli.terminal import terminal
from keeps.errors import SettingsError
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method

DEFAULT_METHOD = "corda"
EXAMPLES = (
    "keeps adapt",
    "keeps adapt --learn world:unknown:atomic_number --keep world:known --method corda",
    "keeps adapt --learn new.jsonl --keep known.csv --method lora --rank 8 --model ./my-model",
    "keeps adapt --learn dates.jsonl --exam other_dates.jsonl --method lora",
    "keeps adapt --form merged --out ./merged-model",
    "keeps adapt --method corda --spectrum --out ./spectra",
    "keeps adapt --method corda --help-all",
)

Method = Annotated[str, typer.Option("--method", help="How to change the model; keeps methods lists them.")]
Form = Annotated[str | None, typer.Option("--form", help="Write the result to --out too, as lora, residual or merged.")]
Spectrum = Annotated[
    bool, typer.Option("--spectrum", help="Train nothing; show how compressible each layer is in either context.")
]
Stones = Annotated[
    str,
    typer.Option(
        "--stepping-stones",
        help="Train on prompts that lead to improbable answers, which then leak less: no, templates, or model.",
    ),
]
Exam = Annotated[
    str | None, typer.Option("--exam", help="Questions about what is taught that are asked and never trained on.")
]


def command(
    *,
    learn: options.Learn = None,
    keep: options.Keep = None,
    exam: Exam = None,
    method: Method = DEFAULT_METHOD,
    model: options.Model = DEFAULT_MODEL,
    seed: options.Seed = 0,
    device: options.Device = None,
    workspace: options.Workspace = None,
    resume: options.Resume = False,
    restart: options.Restart = False,
    stepping_stones: Stones = "no",
    form: Form = None,
    spectrum: Spectrum = False,
    out: options.Out = None,
    trust_remote_code: options.Trust = False,
    items: options.Items = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    help_all: options.HelpAll = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Teach a model new data, and show what it learned, kept and lost.

    Without options: teaches the default model unknown atomic numbers and capitals of the built-in world.
    The settings of each method are options too: keeps adapt --method NAME --help lists them.
    """
    del debug, help_all  # read from the command line before anything else
    data: dict[str, Any] = {key: value for key, value in (("learn", learn), ("keep", keep)) if value is not None}
    if spectrum:
        if form is not None or resume or restart or exam is not None or stepping_stones != "no":
            what = "--spectrum trains nothing, so there is nothing to continue, to rewrite, to ask or to export"
            mend = "leave --form, --resume, --restart, --exam and --stepping-stones out"
            raise SettingsError(what, where="keeps adapt", mend=mend)
        common = {"device": device, "out": out, "trust_remote_code": trust_remote_code}
        options_of_job = {**data, "method": method, "model": model, "settings": settings, "seed": seed, **common}
        _show_spectrum(options_of_job, items=items, json=json, quiet=quiet)
        return
    options.check_together("keeps adapt", form=form, out=out, resume=resume, restart=restart)
    from keeps import jobs
    from keeps.cli.show import show_diff

    if form is not None and out is not None:
        jobs.check_export(method, settings, form, out)
    more: dict[str, Any] = {} if stepping_stones == "no" else {"stepping_stones": stepping_stones}
    more |= {} if exam is None else {"exam": exam}
    decides = {"learn": learn, "keep": keep, "method": method, "model": model, "seed": seed}
    decides.update(**more, **(settings or {}))
    with terminal(json=json, quiet=quiet) as term:
        outcome = jobs.adapt(
            **data,
            method=method,
            model=model,
            settings=settings,
            seed=seed,
            device=device,
            workspace=workspace,
            resume=resume,
            restart=restart,
            **more,
            command=command_text("adapt", decides),
            progress=term.progress,
            trust_remote_code=trust_remote_code,
        )
        difference = outcome.export_difference
        if form is not None and out is not None:
            difference = jobs.export(outcome.run_id, form, out, workspace=workspace, device=device)
        document = {
            "run": outcome.run_id,
            "folder": outcome.folder,
            "reused": outcome.reused,
            "largest_logit_difference": difference,
            "diff": outcome.diff,
        }

        def show(console: Any) -> None:
            again = " (found in the ledger, not repeated)" if outcome.reused else ""
            console.print(f"run {outcome.run_id}{again}: {outcome.folder}", markup=False, soft_wrap=True)
            if difference is not None:
                place = f"{out} ({form})" if out else "what was written"
                text = f"{place}: largest logit difference to the trained model {difference:.2g}"
                console.print(text, markup=False, soft_wrap=True)
            show_diff(console, outcome.diff, items=items)
            if not items:
                hint = f"the facts themselves: keeps diff {outcome.run_id} --items"
                console.print(hint, markup=False, soft_wrap=True)

        term.emit(document, show)


def _show_spectrum(job: dict[str, Any], *, items: bool, json: bool, quiet: bool) -> None:
    from keeps import jobs
    from keeps.cli.show import show_table
    from keeps.ledger.spectrum import spectrum_tables

    with terminal(json=json, quiet=quiet) as term:
        report = jobs.spectrum(**job, progress=term.progress)

        def show(console: Any) -> None:
            for table in spectrum_tables(report.layers, items=items):
                show_table(console, table)
            if report.files:
                console.print("written: " + ", ".join(map(str, report.files)), markup=False, soft_wrap=True)

        term.emit(report, show)


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command with the options of the method that ``argv`` names."""
    name = option_value(argv, "--method", DEFAULT_METHOD)
    return with_settings(command, find_method(name, "adapt"), everything="--help-all" in argv)

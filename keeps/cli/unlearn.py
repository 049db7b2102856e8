"""``keeps unlearn``: take knowledge out of a model, show what went and what stayed, and attack the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.generated import command_text, option_value, with_settings
from keeps.cli.terminal import terminal
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method

DEFAULT_METHOD = "npo"
EXAMPLES = (
    "keeps unlearn --forget world:known:capital#20 --retain world:known:symbol",
    "keeps unlearn --forget secret.jsonl --retain known.csv --method npo --verify --holdout unseen.jsonl",
    "keeps unlearn --forget texts.txt --method gradient_ascent --stop extraction --model ./my-model",
    "keeps unlearn --forget secret.jsonl --method negation --form merged --out ./clean-model",
    "keeps unlearn --method rmu --help-all",
)

Forget = Annotated[
    str,
    typer.Option("--forget", help="What must go: a file, or world:known:RELATION#20; several separated by commas."),
]
Retain = Annotated[
    str | None,
    typer.Option("--retain", help="What must stay: a file, or world:known:RELATION; by default known facts."),
]
Method = Annotated[str, typer.Option("--method", help="How to unlearn; keeps methods lists the ways.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Attack the result: extraction, membership, other wordings, relearning.")
]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="With --verify: the same kind of thing as --forget, but never trained on."),
]
RetainModel = Annotated[
    str | None,
    typer.Option("--retain-model", help="With --verify: a model or run that was trained without the forget set."),
]
RelearnSteps = Annotated[
    int, typer.Option("--relearn-steps", min=0, help="With --verify: steps of the relearning attack; 0: none.")
]
Form = Annotated[str | None, typer.Option("--form", help="Write the result to --out too, as lora, merged or memory.")]


def command(
    *,
    forget: Forget,
    retain: Retain = None,
    method: Method = DEFAULT_METHOD,
    model: options.Model = DEFAULT_MODEL,
    verify: Verify = False,
    holdout: Holdout = None,
    retain_model: RetainModel = None,
    relearn_steps: RelearnSteps = 10,
    seed: options.Seed = 0,
    device: options.Device = None,
    workspace: options.Workspace = None,
    resume: options.Resume = False,
    restart: options.Restart = False,
    form: Form = None,
    out: options.Out = None,
    trust_remote_code: options.Trust = False,
    items: options.Items = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    help_all: options.HelpAll = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Take knowledge out of a model, and show what it forgot, what it kept, and what it lost beside that.

    In the group forget, what was lost is what was wanted. With --verify the result is attacked: is it still
    memorised, can one tell that it was learned, do other wordings or a few steps of training bring it back?
    """
    del debug, help_all  # read from the command line before anything else
    options.check_together("keeps unlearn", form=form, out=out, resume=resume, restart=restart)
    from keeps import jobs
    from keeps.cli.show import show_diff, show_table

    if form is not None and out is not None:
        jobs.check_export(method, settings, form, out, verb="unlearn")
    decides = {"forget": forget, "retain": retain, "method": method, "model": model, "seed": seed, **(settings or {})}
    with terminal(json=json, quiet=quiet) as term:
        outcome = jobs.unlearn(
            forget,
            retain,
            method=method,
            model=model,
            settings=settings,
            verify=verify,
            holdout=holdout,
            retain_model=retain_model,
            relearn_steps=relearn_steps,
            seed=seed,
            device=device,
            workspace=workspace,
            resume=resume,
            restart=restart,
            command=command_text("unlearn", decides),
            progress=term.progress,
            trust_remote_code=trust_remote_code,
        )
        difference = outcome.export_difference
        if form is not None and out is not None:
            difference = jobs.export(outcome.run_id, form, out, workspace=workspace, device=device)
        found = outcome.verification
        document = {
            "run": outcome.run_id,
            "folder": outcome.folder,
            "reused": outcome.reused,
            "largest_logit_difference": difference,
            "forgotten": outcome.forgotten,
            "kept": outcome.kept,
            "diff": outcome.diff,
            "measures": None if found is None else found.findings.measures,
            "attacks": None if found is None else found.attacks,
            "notes": () if found is None else found.notes,
        }

        def show(console: Any) -> None:
            again = " (found in the ledger, not repeated)" if outcome.reused else ""
            console.print(f"run {outcome.run_id}{again}: {outcome.folder}", markup=False, soft_wrap=True)
            console.print(summary(outcome), markup=False, soft_wrap=True)
            show_diff(console, outcome.diff, items=items)
            for table in () if found is None else found.tables:
                show_table(console, table)
            if found is None:
                console.print("is it really gone? the same command with --verify", markup=False, soft_wrap=True)

        term.emit(document, show)


def summary(outcome: Any) -> str:
    """Forgotten and kept in one line, and what to do where nothing was forgotten."""

    def share(value: float | None) -> str:
        return "nothing was known" if value is None else f"{100 * value:.0f} %"

    line = f"forgotten of what was known: {share(outcome.forgotten)}; kept: {share(outcome.kept)}"
    if outcome.forgotten == 0:
        line += ". Nothing was forgotten: give more epochs, a higher learning rate, or another method"
    elif outcome.kept is not None and outcome.kept < 0.5:
        line += ". Most of the rest went too: give a lower learning rate or a higher retain weight"
    return line


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command with the options of the method that ``argv`` names."""
    name = option_value(argv, "--method", DEFAULT_METHOD)
    return with_settings(command, find_method(name, "unlearn"), everything="--help-all" in argv)

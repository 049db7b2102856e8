"""``keeps edit``: change single facts, and show what took, what follows and what else moved."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.generated import command_text, option_value, with_settings
from keeps.cli.terminal import line, terminal
from keeps.errors import SettingsError
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method

DEFAULT_METHOD = "rome"
EXAMPLES = (
    'keeps edit --set "The capital of Mongolia is" Darkhan',
    'keeps edit --set "The capital of Mongolia is" Darkhan --set "Oslo is in" Sweden --method memit',
    'keeps edit --set "The mother tongue of Danielle Darrieux is" English --subject "Danielle Darrieux" --method memit',
    "keeps edit --file edits.jsonl --method alphaedit --keep world:known --model ./my-model",
    "keeps edit --file more.jsonl --after rome-3f",
    "keeps edit --list rome-3f",
    "keeps edit --withdraw edit-2 --from rome-3f --out ./without-it",
    "keeps edit --file edits.jsonl --method grace --single",
)

Fact = Annotated[
    tuple[str, str] | None,  # of several the last; build() sees to the others
    typer.Option("--set", help="A prompt and its new answer; may be repeated.", metavar="PROMPT TARGET"),
]
Subject = Annotated[
    list[str] | None,
    typer.Option("--subject", help="What the prompt of --set is about (default: its name); once for each --set."),
]
File = Annotated[
    str | None, typer.Option("--file", help="Edits in JSONL, JSON or Parquet, or facts: world:RELATION#20.")
]
Method = Annotated[str, typer.Option("--method", help="How to edit; keeps methods --verb edit lists all.")]
After = Annotated[str | None, typer.Option("--after", help="An earlier edit run, on top of which these are made.")]
Listed = Annotated[str | None, typer.Option("--list", help="Show the edits that a run holds, and exit.", metavar="RUN")]
Withdraw = Annotated[
    list[str] | None, typer.Option("--withdraw", help="Take this edit out of --from; may be repeated.", metavar="ID")
]
From = Annotated[str | None, typer.Option("--from", help="The run that --withdraw takes edits out of.", metavar="RUN")]
Single = Annotated[bool, typer.Option("--single", help="Measure each edit alone, from the untouched model; keep none.")]
Form = Annotated[str | None, typer.Option("--form", help="Write the result to --out too, as lora or merged.")]
Tokens = Annotated[int, typer.Option("--generate", min=0, help="Tokens of the text whose fluency is measured.")]


def command(
    *,
    set_: Fact = None,
    subject: Subject = None,
    file: File = None,
    keep: options.Keep = None,
    method: Method = DEFAULT_METHOD,
    model: options.Model = DEFAULT_MODEL,
    after: After = None,
    single: Single = False,
    list_: Listed = None,
    withdraw: Withdraw = None,
    from_: From = None,
    generate: Tokens = 100,
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
    """Change single facts of a model, and show what took, what follows from it and what else moved.

    The change is a folder that can be listed, undone, continued and exported. The settings of each method are
    options too: keeps edit --method NAME --help lists them.
    """
    del debug, help_all  # read from the command line before anything else
    if list_ is not None:
        _show_list(list_, workspace, json=json, quiet=quiet)
        return
    if withdraw or from_ is not None:
        _withdraw(withdraw, from_, out, workspace, json=json, quiet=quiet)
        return
    if bool(set_) == (file is not None):
        raise SettingsError("name what to edit", where="keeps edit", mend="give --set PROMPT TARGET, or --file FILE")
    if subject and not set_:
        raise SettingsError("--subject belongs to --set", where="keeps edit", mend="write subjects into the file")
    options.check_together("keeps edit", form=form, out=out, resume=resume, restart=restart)
    from keeps import jobs

    facts: Any = [set_] if isinstance(set_, tuple) else set_ or []
    edits: Any = _typed_edits(facts, subject) if facts else file
    common = {"method": method, "settings": settings, "seed": seed, "generation_tokens": generate}
    if single:
        if after is not None or form is not None:
            what = "--single keeps nothing, so nothing can be continued or exported"
            raise SettingsError(what, where="keeps edit", mend="leave --after and --form out")
        _show_single(edits, model, device, common, json=json, quiet=quiet)
        return
    if form is not None and out is not None:
        jobs.check_export(method, settings, form, out, verb="edit")
    named = {"file": file, "keep": keep, "method": method, "model": model, "after": after}
    typed = command_text("edit", {**named, "seed": seed, **(settings or {})}, {"subject": subject or ()})
    for words in facts:
        typed = f"{typed} --set {shlex.join(words)}"
    with terminal(json=json, quiet=quiet) as term:
        outcome = jobs.edit(
            edits,
            keep,
            model=model,
            after=after,
            device=device,
            workspace=workspace,
            resume=resume,
            restart=restart,
            command=typed,
            progress=term.progress,
            trust_remote_code=trust_remote_code,
            **common,
        )
        difference = None
        if form is not None and out is not None:
            difference = jobs.export(outcome.run_id, form, out, workspace=workspace, device=device)
        document = {
            "run": outcome.run_id,
            "folder": outcome.folder,
            "reused": outcome.reused,
            "edits": outcome.entries,
            "measures": outcome.findings.measures,
            "warnings": outcome.warnings,
            "largest_logit_difference": difference,
            "diff": outcome.diff,
        }
        term.emit(document, lambda console: _show(console, outcome, difference, out, items=items))


def _typed_edits(facts: Sequence[tuple[str, str]], subjects: Sequence[str] | None) -> Any:
    """The edit of each ``--set``, in order; one alone as it is."""
    from keeps.jobs.editing_data import edit_from_words

    if subjects and len(subjects) != len(facts):
        what = f"there are {len(facts)} --set and {len(subjects)} --subject"
        raise SettingsError(what, where="keeps edit", mend="give one --subject for each --set, in order, or none")
    made = [
        edit_from_words(*fact, subject) for fact, subject in zip(facts, subjects or [None] * len(facts), strict=True)
    ]
    if len(made) == 1:
        return made[0]
    return tuple(replace(edit, id=f"edit-{number}") for number, edit in enumerate(made, 1))


def _show(console: Any, outcome: Any, difference: float | None, out: Path | str | None, *, items: bool) -> None:
    from keeps.cli.show import show_diff, show_findings

    again = " (found in the ledger, not repeated)" if outcome.reused else ""
    line(console, f"run {outcome.run_id}{again}: {outcome.folder}")
    if difference is not None:
        line(console, f"{out}: largest logit difference to the edited model {difference:.2g}")
    show_findings(console, outcome.findings)
    show_diff(console, outcome.diff, items=items)
    for warning in outcome.warnings:
        line(console, f"warning: {warning}", style="yellow")
    line(console, f"its edits: keeps edit --list {outcome.run_id}")


def _show_list(run: str, workspace: Any, *, json: bool, quiet: bool) -> None:
    from keeps import jobs

    with terminal(json=json, quiet=quiet) as term:
        entries = jobs.list_edits(run, workspace=workspace)

        def show(console: Any) -> None:
            for entry in entries:
                before = f' (was "{entry.target_true}")' if entry.target_true else ""
                measured = ", ".join(f"{key} {_figure(value)}" for key, value in entry.measured.items())
                line(
                    console,
                    f'{entry.id}: {entry.prompt} "{entry.target_new}"{before}' + f"; {measured}" * bool(measured),
                )

        term.emit({"run": run, "edits": entries}, show)


def _withdraw(ids: list[str] | None, run: str | None, out: Any, workspace: Any, *, json: bool, quiet: bool) -> None:
    from keeps import jobs

    if not ids or run is None:
        mend = "give both: --withdraw ID --from RUN"
        raise SettingsError("--withdraw and --from belong together", where="keeps edit", mend=mend)
    with terminal(json=json, quiet=quiet) as term:
        folder = jobs.withdraw_edits(ids, run, out, workspace=workspace)
        left = jobs.list_edits(str(folder), workspace=workspace)
        document = {"folder": folder, "withdrawn": ids, "edits": left}
        text = f"{folder}: {len(left)} edits are left; ask it with keeps probe editing --model {folder}"
        term.emit(document, lambda console: line(console, text))


def _show_single(edits: Any, model: str, device: Any, common: dict[str, Any], *, json: bool, quiet: bool) -> None:
    from keeps.cli.show import show_findings
    from keeps.jobs.editing_data import edits_of
    from keeps.jobs.editing_singly import edit_singly
    from keeps.jobs.processes import own_device
    from keeps.models import LanguageModel

    chosen = edits_of(edits, seed=common["seed"])
    with terminal(json=json, quiet=quiet) as term:
        loaded = LanguageModel.load(model, device=own_device(device), progress=term.progress)
        found = edit_singly(loaded, chosen, progress=term.progress, **common)
        document = {"method": found.method, "measures": found.findings.measures, "seconds": found.seconds}

        def show(console: Any) -> None:
            show_findings(console, found.findings)
            line(console, f"{sum(found.seconds) / len(found.seconds):.3g} s an edit")

        term.emit(document, show)


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command with the options of the method that ``argv`` names."""
    name = option_value(argv, "--method", DEFAULT_METHOD)
    made = with_settings(command, find_method(name, "edit"), everything="--help-all" in argv)
    several = _facts_of(argv)

    @functools.wraps(made)
    def with_every_fact(**values: Any) -> Any:
        if several and values.get("set_") == several[-1]:  # typer keeps the last one of a pair that is repeated
            values["set_"] = several
        return made(**values)

    return with_every_fact


def _facts_of(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Every PROMPT TARGET behind a ``--set``, in order.

    >>> _facts_of(["edit", "--set", "Oslo is in", "Sweden", "--set=Rome is in", "Spain", "--seed", "1"])
    [('Oslo is in', 'Sweden'), ('Rome is in', 'Spain')]
    """
    found: list[tuple[str, str]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("--set="):
            words.insert(0, word.removeprefix("--set="))
        elif word != "--set":
            continue
        if len(words) > 1:
            found.append((words.pop(0), words.pop(0)))
    return found

"""``keeps compare``: the same job with several methods and seeds, or the same questions with several ways to answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keeps.cli import options, sources
from keeps.cli.generated import command_text, parse_assignments
from keeps.cli.terminal import line, terminal
from keeps.errors import SettingsError
from keeps.models.embedded import DEFAULT_MODEL

DEFAULT_METHODS = "full,lora,corda"
EXAMPLES = (
    "keeps compare --methods full,lora,corda --seeds 3",
    "keeps compare --methods lora,corda --learn new.jsonl --keep known.csv --out ./comparison",
    "keeps compare --methods corda:mode=kpm,corda:mode=ipm --set rank=8",
    "keeps compare --methods full,lora,corda --seeds 5 --engine ray --workers 4",
    "keeps compare --ground rag,faithful_rag,adaptive_note --questions questions.jsonl --docs ./docs --out ./answers",
    "keeps compare --ground rag,knowledge_cards --questions questions.jsonl --docs ./docs --card law=RUN",
)
DEFAULT_SEEDS = 3

Methods = Annotated[
    str, typer.Option("--methods", help="Names separated by commas, with own settings as corda:mode=ipm.")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs a method, each with its own seed.")]

Engine = Annotated[
    str, typer.Option("--engine", help="local: one run after another; ray: several side by side on a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Runs at a time with --engine ray; by default one a card, else one a core."),
]
Ground = Annotated[
    str | None,
    typer.Option("--ground", help="Ways to answer from what is named below, by commas: rag:k=3,adaptive_note."),
]
Questions = Annotated[
    str | None, typer.Option("--questions", help="With --ground: a file of question and answer, or world:RELATION.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="With --ground: most questions.")]


def command(
    *,
    methods: Methods = DEFAULT_METHODS,
    seeds: Seeds = DEFAULT_SEEDS,
    learn: options.Learn = None,
    keep: options.Keep = None,
    model: options.Model = DEFAULT_MODEL,
    assignments: options.Assignments = None,
    device: options.Device = None,
    workspace: options.Workspace = None,
    out: options.Out = None,
    engine: Engine = "local",
    workers: Workers = None,
    ground: Ground = None,
    questions: Questions = None,
    docs: sources.Docs = None,
    graph: sources.Graph = None,
    card: sources.Cards = None,
    tables: sources.Tables = None,
    memory: sources.Memory = None,
    retriever: sources.Retriever = "hybrid",
    limit: Limit = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Run the same job with several methods and show what each learned and kept.

    Runs that are in the ledger already are not repeated. --set applies to every method that has the
    setting; --out names the folder for table, picture and report. With --ground, ways to answer from documents are
    asked the same questions instead: accuracy, support by citations, calls, tokens and seconds.
    """
    del debug
    common = {**(settings or {}), **parse_assignments(assignments)}
    read = {"docs": docs, "graph": graph, "tables": tables, "memory": memory}
    asking = {"questions": questions, **read, "card": card or None, "limit": limit}
    more = {"retriever": retriever != "hybrid", "seed": seed != 0}
    if ground is not None:
        taught = {"learn": learn, "keep": keep, "workers": workers}
        other = {"methods": methods != DEFAULT_METHODS, "seeds": seeds != DEFAULT_SEEDS, "engine": engine != "local"}
        _refuse(taught, other, "does nothing with --ground")
        if questions is None or not (card or any(read.values())):
            mend = "give --questions FILE, and --docs FOLDER or --graph FILE"
            raise SettingsError("name what is asked and where the answers stand", where="keeps compare", mend=mend)
        limits = {"limit": limit, "retriever": retriever, "seed": seed, "model": model, "device": device}
        limits |= {"questions": questions, "cards": card, **read}
        with terminal(json=json, quiet=quiet) as term:
            _compare_grounding(term, ground, settings=common, workspace=workspace, out=out, **limits)
        return
    _refuse(asking, more, "does nothing without --ground")
    from keeps import jobs
    from keeps.cli.show import show_comparison

    data: dict[str, Any] = {key: value for key, value in (("learn", learn), ("keep", keep)) if value is not None}
    decides = {"methods": methods, "seeds": seeds, "learn": learn, "keep": keep, "model": model, "out": out}
    words = [f"{key}={value}" for key, value in common.items()]
    with terminal(json=json, quiet=quiet) as term:
        found = jobs.compare(
            methods,
            **data,
            seeds=seeds,
            model=model,
            settings=common,
            device=device,
            workspace=workspace,
            out=out,
            engine=engine,
            workers=workers,
            command=command_text("compare", decides, repeated={"set": words}),
            progress=term.progress,
        )
        term.emit(found, lambda console: show_comparison(console, found, out))


def _refuse(values: Mapping[str, Any], given: Mapping[str, bool], why: str) -> None:
    """Refuse the first option that was given and would do nothing."""
    idle = [name for name, value in values.items() if value is not None]
    idle += [name for name, is_given in given.items() if is_given]
    if idle:
        raise SettingsError(f"--{idle[0]} {why}", where="keeps compare", mend="leave it out")


def _compare_grounding(term: Any, methods: str, *, out: Any, **values: Any) -> None:
    from keeps.cli.show import show_table
    from keeps.jobs.comparing_grounding import compare_grounding, measures

    found = compare_grounding(methods, out=out, progress=term.progress, **values)
    rows = [{**measures(row), "stops": row.stops, "result": found.results.get(row.label)} for row in found.lines]

    def show(console: Any) -> None:
        assert found.table is not None
        show_table(console, found.table)
        if out is not None:
            line(console, f"table, figures and answers: {out}")

    term.emit({"questions": len(found.questions), "methods": rows, "folder": out}, show)

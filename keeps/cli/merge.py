"""``keeps merge``: make one model of several, tensor by tensor, and report what happened to each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keeps.cli import merge_suggest, options
from keeps.cli.generated import option_value, with_settings
from keeps.cli.terminal import line, terminal
from keeps.errors import SettingsError
from keeps.registry import find_method

DEFAULT_METHOD = "task_arithmetic"
EXAMPLES = (
    "keeps merge ./a ./b ./c --base ./base --out ./merged",
    "keeps merge ./a ./b --base ./base --method ties --density 0.2 --out ./merged --probe world",
    "keeps merge ./a ./b --method slerp --t 0.3 --dtype bfloat16 --out ./merged",
    "keeps merge RUN_A RUN_B --base smollm2-135m --weights 0.7,0.3 --out ./merged",
    "keeps merge --yaml merge.yml --out ./merged --dry-run",
    "keeps merge suggest law=./a math=./b --base ./base --probe law=law.jsonl --probe math=math.jsonl --trials 12",
    "keeps merge law=./a math=./b --base ./base --method regmean --texts law=law.jsonl --texts math=m.jsonl --out ./m",
)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
WORST = 5  # tensors listed

Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="Models: folders, runs, adapters (MODEL+ADAPTER), built-in models or hub ids; NAME=MODEL names one."
    ),
]
Base = Annotated[str | None, typer.Option("--base", help="The model that all of them were trained from.")]
Method = Annotated[
    str | None,
    typer.Option("--method", help="How to merge (default: task_arithmetic); see `keeps methods --verb merge`."),
]
Yaml = Annotated[Path | None, typer.Option("--yaml", help="A merge written in mergekit's YAML, instead of models.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Type of the result: float32, bfloat16 or float16; by default the base's.")
]
DeltaDtype = Annotated[
    str | None, typer.Option("--delta-dtype", help="Round models and differences to this type; by default float32.")
]
Rows = Annotated[
    str, typer.Option("--rows", help="Embeddings of different lengths: refuse, or base (its rows are merged).")
]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Most bytes of one file, such as 5GB or 500MB.")]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--texts",
        metavar="NAME=FILE",
        help="What a model's task looks like, for methods that measure models on it or route prompts: questions with "
        "answers, dialogues or running text (a file, or world:RELATION); once for each model, by its name.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads; no bit of the result depends on them.")]
ChunkSize = Annotated[
    int, typer.Option("--chunk", min=1, hidden=True, help="Elements of a piece; no bit of the result depends on it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what it costs; write nothing.")]
Probe = Annotated[
    str | None,
    typer.Option("--probe", help="Then ask every parent and the result, and show what was lost: world, or a file."),
]


def command(
    models: Models = None,
    *,
    base: Base = None,
    method: Method = None,
    yaml: Yaml = None,
    out: options.Out = None,
    dtype: Dtype = None,
    delta_dtype: DeltaDtype = None,
    rows: Rows = "refuse",
    shard_size: ShardSize = "5GB",
    texts: Texts = None,
    seed: options.Seed = 0,
    threads: Threads = None,
    chunk: ChunkSize = 1 << 17,
    dry_run: DryRun = False,
    probe: Probe = None,
    device: options.Device = None,
    workspace: options.Workspace = None,
    resume: options.Resume = False,
    restart: options.Restart = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    help_all: options.HelpAll = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Merge models of one architecture into one.

    Methods that work on files alone write a transformers checkpoint without loading any model, in memory that does
    not grow with the models. Others load the base and measure the models on --texts, or leave parts that are mixed as
    prompts need them: twin, skillpack, emr. With --probe the result is asked what its parents know.
    """
    del debug, help_all  # read from the command line before anything else
    if probe is not None and dry_run:
        raise SettingsError("--dry-run leaves nothing to probe", where="keeps merge", mend="leave one of them out")
    from keeps.jobs.merging import merge
    from keeps.jobs.merging_learned import named_texts
    from keeps.weights.merge_engine import keep_freed_pieces

    keep_freed_pieces()
    with terminal(json=json, quiet=quiet) as term:
        outcome = merge(
            models or (),
            base,
            method=method,
            settings=settings,
            out=out,
            recipe=yaml,
            dtype=dtype,
            delta_dtype=delta_dtype,
            rows=rows,
            shard_size=size_of(shard_size),
            texts=named_texts(texts or ()),
            device=device,
            seed=seed,
            threads=threads,
            chunk=chunk,
            dry_run=dry_run,
            resume=resume,
            restart=restart,
            workspace=workspace,
            progress=term.progress,
        )
        diffs = []
        if probe is not None and outcome.folder is not None:
            from keeps.jobs.differing import diff

            asked = {"probe": probe, "workspace": workspace, "device": device, "progress": term.progress}
            diffs = [diff(parent, str(outcome.folder), **asked) for parent in outcome.sources]

        def show(console: Any) -> None:
            show_outcome(console, outcome)
            if diffs:
                from keeps.cli.show import show_diff

                for found in diffs:
                    show_diff(console, found)

        term.emit({"merge": outcome, "diffs": diffs}, show)


def size_of(text: str) -> int:
    """Bytes of a size with a unit.

    >>> size_of("5GB"), size_of("1.5 M"), size_of("4096")
    (5000000000, 1500000, 4096)
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]?)B?\s*", text, re.IGNORECASE)
    if match is None:
        raise SettingsError(f'"{text}" is no size', where="--shard-size", mend="write a size such as 5GB or 500MB")
    return int(float(match.group(1)) * UNITS[match.group(2).upper()])


def show_outcome(console: Any, outcome: Any) -> None:
    """The plan, or what was merged: lengths, what survived, where the models contradict each other."""
    from rich.table import Table

    if outcome.memory_bound == 0:
        show_learned(console, outcome)
        return
    cost = f"{outcome.outputs} tensors, reads {_bytes(outcome.bytes_read)}, writes {_bytes(outcome.bytes_written)}"
    line(console, f"{outcome.method}: {cost}, at most {_bytes(outcome.memory_bound)} of memory")
    for note in outcome.notes:
        line(console, f"note: {note}")
    if outcome.folder is None:
        line(console, "dry run: nothing was written")
        return
    line(console, f"merged model: {outcome.folder}")
    measured = [report for report in outcome.tensors if report.delta_norms]
    if outcome.overall is None or not measured:
        return
    conflicting = sorted(measured, key=lambda report: -report.conflicts)[:WORST]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("tensor", "length of the changes", "kept (%)", "opposite signs (%)", "cosines", "result moved"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    for report in [outcome.overall, *(conflicting if len(outcome.overall.delta_norms) > 1 else [])]:
        table.add_row(*cells(report), style="bold" if report is outcome.overall else None)
    console.print(table)
    line(console, "all tensors: merge.json beside the model; compare what they know: keeps diff PARENT MERGED")


def show_learned(console: Any, outcome: Any) -> None:
    """What a method made that needs a running model, and what it measured on itself."""
    cost = f"reads {_bytes(outcome.bytes_read)}, writes {_bytes(outcome.bytes_written)}" if outcome.folder else ""
    line(console, f"{outcome.method}: {cost or f'would read {_bytes(outcome.bytes_read)} beside the base'}")
    if outcome.folder is None:
        line(console, "dry run: nothing was written")
        return
    for name, value in outcome.measures.items():
        if isinstance(value, (int, float)):
            line(console, f"{name.replace('_', ' ')}: {value:.4g}")
    line(console, f"merged: {outcome.folder}")
    line(
        console,
        f"settings and figures: change.json; how to load it: README.md; ask it: keeps probe --model {outcome.folder}",
    )


def cells(report: Any) -> tuple[str, ...]:
    """One line of the report."""
    count = len(report.delta_norms)
    pairs = [report.cosines[i][j] for i in range(count) for j in range(i + 1, count)]
    return (
        report.name,
        " ".join(f"{norm:.3g}" for norm in report.delta_norms),
        " ".join(f"{100 * share:.0f}" for share in report.kept),
        f"{100 * report.conflicts:.0f}" if count > 1 else "",
        " ".join(f"{value:.2f}" for value in pairs),
        f"{report.change_norm:.3g}",
    )


def _bytes(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command with the options of the method that ``argv`` names; or ``keeps merge suggest``."""
    if list(argv[1:2]) == [merge_suggest.WORD]:
        return merge_suggest.command
    name = option_value(argv, "--method", DEFAULT_METHOD)
    return with_settings(command, find_method(name, "merge"), everything="--help-all" in argv)

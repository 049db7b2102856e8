"""``keeps ground``: answer with what documents say, show where each answer comes from and how it was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from keeps.cli import options, sources
from keeps.cli.generated import with_settings
from keeps.cli.terminal import line, terminal
from keeps.errors import SettingsError
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method

SHOWN = 160  # characters of a step that are shown
EXAMPLES = (
    'keeps ground "Who founded Veltria?" --docs examples/documents',
    'keeps ground "Which river flows past the birthplace of Anna Korvel?" --docs ./docs --method adaptive_note --trace',
    'keeps ground "Who founded Veltria?" --docs ./docs --model openai:http://localhost:8000/v1#MODEL --style long',
    "keeps ground --questions questions.jsonl --docs ./docs --method rag --method faithful_rag --out answers.jsonl",
    "keeps ground --questions questions.jsonl --docs ./docs --method rag:order=best_first --method rag:order=best_last",
    'keeps ground "On which continent does the capital of Norway lie?" --graph facts.tsv --method kg_search --trace',
    'keeps ground "Who won?" --card "elections: the elections of 2022=RUN" --card law=RUN --method knowledge_cards',
    'keeps ground "Is there a cheap hotel?" --tables hotels.csv,faqs.jsonl --method hybrid_dialog --model RUN',
    'keeps ground "Name the capital of Norway." --memory world:capital --method qa_memory',
    "keeps ground --method adaptive_note --help-all",
)

Question = Annotated[str | None, typer.Argument(metavar="QUESTION", help="What to answer.")]
Questions = Annotated[
    str | None, typer.Option("--questions", help="Graded questions: a file of question and answer, or world:RELATION.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="How to answer (rag from documents); repeat it to compare, with settings as in rag:order=best_first:k=3.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Most questions.")]
Trace = Annotated[bool, typer.Option("--trace", help="Show every step as it happens, and the passages that were read.")]
Out = Annotated[
    str | None, typer.Option("--out", help="New file for every answer with its trace, a JSON object a line.")
]
Model = Annotated[
    str,
    typer.Option("--model", help="Model, run, folder of a run, or openai:URL#MODEL, a server that chats."),
]


def command(
    question: Question = None,
    *,
    docs: sources.Docs = None,
    graph: sources.Graph = None,
    card: sources.Cards = None,
    tables: sources.Tables = None,
    memory: sources.Memory = None,
    questions: Questions = None,
    method: Methods = None,
    model: Model = DEFAULT_MODEL,
    retriever: sources.Retriever = "hybrid",
    limit: Limit = None,
    trace: Trace = False,
    out: Out = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    help_all: options.HelpAll = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Answer questions with what documents say; every answer comes with its sources and its cost.

    Documents are data: nothing in them is followed as an instruction, and no server is asked but the one that
    --model names. The settings of each method are options too: keeps ground --method NAME --help lists them.
    """
    del debug, help_all  # read from the command line before anything else
    words = question if questions is None else questions
    if words is None or (question is not None and questions is not None):
        mend = "give a question, or --questions FILE"
        raise SettingsError("name what to answer", where="keeps ground", mend=mend)
    if not (docs or graph or card or tables or memory):
        mend = "give --docs FOLDER, or --graph FILE to kg_search"
        raise SettingsError("name the documents", where="keeps ground", mend=mend)
    from keeps.jobs.grounding import ground

    named = [method] if isinstance(method, str) else list(method or []) or None
    with terminal(json=json, quiet=quiet) as term:
        several = named is not None and len(named) > 1

        def watch(label: str, place: int, step: Mapping[str, Any]) -> None:
            who = " ".join([f"{label}:"] * several + [f"question {place + 1}:"] * (questions is not None))
            term.progress.message(f"{who} {step_line(step)}".strip())

        outcome = ground(
            words,
            docs,
            graph=graph,
            cards=card,
            tables=tables,
            memory=memory,
            method=named,
            settings=settings,
            model=model,
            retriever=retriever,
            from_file=questions is not None,
            limit=limit,
            seed=seed,
            out=out,
            workspace=workspace,
            device=device,
            progress=term.progress,
            watch=watch if trace else None,
            record=questions is not None,
        )
        document = {
            "methods": outcome.methods,
            "answers": [
                {"method": name, "question": asked, "answer": answer.text, "citations": answer.citations}
                | {"trace": answer.trace if trace or questions is None else cost_of(answer.trace)}
                for name in outcome.methods
                for asked, answer in zip(outcome.questions, outcome.answers[name], strict=True)
            ],
            "measures": [{key: value for key, value in vars(row).items() if key != "graded"} for row in outcome.lines],
            "written": outcome.written,
            "results": outcome.results,
        }
        term.emit(document, lambda console: _show(console, outcome, trace=trace))


def step_line(step: Mapping[str, Any]) -> str:
    """One step of a trace on one line.

    >>> step_line({"step": "search", "said": "", "query": "who", "found": ["a"]})
    'search: query who; found a'
    """
    said = " ".join(str(step.get("said", "")).split())
    rest = [
        f"{name} {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for name, value in step.items()
        if name not in ("step", "said", "complete") and value not in (None, [], "")
    ]
    shown = said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
    return f"{step['step']}: " + "; ".join(part for part in (shown, *rest) if part)


def cost_of(trace: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer cost and why the method stopped."""
    names = ("stop", "unsupported", "calls", "prompt_tokens", "completion_tokens", "seconds")
    return {name: trace[name] for name in names if name in trace}


def _show(console: Any, outcome: Any, *, trace: bool) -> None:
    from keeps.cli.show import show_table

    if outcome.table is not None:
        show_table(console, outcome.table)
    else:
        for name in outcome.methods:
            for asked, answer in zip(outcome.questions, outcome.answers[name], strict=True):
                heading = [name] * (len(outcome.methods) > 1) + [asked] * (len(outcome.questions) > 1)
                if heading:
                    line(console, f"\n{': '.join(heading)}", style="bold")
                _show_answer(console, answer, trace=trace)
    if outcome.written is not None:
        line(console, f"answers with their traces: {outcome.written}")


def _show_answer(console: Any, answer: Any, *, trace: bool) -> None:
    line(console, answer.text or "(no answer)")
    passages = {item["id"]: item for item in answer.trace.get("passages", ()) if isinstance(item, Mapping)}
    for identity in answer.citations:
        title = passages.get(identity, {}).get("title", "")
        number = passages.get(identity, {}).get("number", "")
        line(console, f"  [{number}] {identity}" + f", {title}" * bool(title), style="cyan")
    if not answer.citations:
        line(console, "  no passage is cited: this answer is not supported by the documents", style="yellow")
    if trace:
        for item in passages.values():
            line(console, f"  read [{item['number']}] {item['id']} (score {item['score']:.3g})", style="dim")
    cost = ", ".join(
        f"{name} {_figure(value)}" for name, value in cost_of(answer.trace).items() if name != "unsupported"
    )
    line(console, f"  {cost}", style="dim")


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command with the options of the method that ``argv`` names; of several, those of the first."""
    words = list(argv)
    named = [following for word, following in zip(words, [*words[1:], ""], strict=True) if word == "--method"]
    named += [word.partition("=")[2] for word in words if word.startswith("--method=")]
    name = first_method(named) or sources.default_method(words)
    return with_settings(command, find_method(name, "ground"), everything="--help-all" in words)


def first_method(named: Sequence[str] | str | None) -> str:
    """The name of the first method, without its settings; empty where none is named.

    >>> first_method(["rag:k=3", "faithful_rag"]), first_method("adaptive_note"), first_method(None)
    ('rag', 'adaptive_note', '')
    """
    texts = [named] if isinstance(named, str) else list(named or [""])
    return texts[0].partition(":")[0]

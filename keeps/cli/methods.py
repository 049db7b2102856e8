"""``keeps methods``: the list, one method's card, or the methods that fit a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from keeps.cli import options
from keeps.cli.evidence import figure, on_published_data, read_evidence, verdict
from keeps.cli.generated import default_text, metavar
from keeps.cli.terminal import terminal
from keeps.registry import MethodInfo, find_method, methods

EXAMPLES = ("keeps methods", "keeps methods corda", 'keeps methods "my model forgets facts after tuning"')


def command(
    what: Annotated[str | None, typer.Argument(help="A method's name, or a sentence about your problem.")] = None,
    *,
    verb: Annotated[str | None, typer.Option("--verb", help="Only the methods of one verb, such as adapt.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List the methods, show one with its settings and measured claim, or find those that fit a problem."""
    del debug
    with terminal(json=json, quiet=quiet) as out:
        if what is None:
            rows = [summary(info) for info in methods(verb).values()]
            out.emit(rows, lambda console: _show_list(console, rows))
        elif " " in what.strip():
            from keeps.cli.ranking import rank_methods

            ranked, note = rank_methods(what, methods(verb))
            found = [{**summary(info), "similarity": score} for info, score in ranked]
            out.emit({"note": note, "methods": found}, lambda console: _show_list(console, found, note))
        else:
            info = find_method(what.strip(), verb)
            out.emit(card(info), lambda console: _show_card(console, info))


def summary(info: MethodInfo) -> dict[str, Any]:
    """One line of the list: JSON types."""
    values = {
        name: getattr(info, name) for name in ("name", "verb", "card", "paper", "summary", "needs", "uses", "fits")
    }
    return {**values, "verdict": verdict(info.card)}


def card(info: MethodInfo) -> dict[str, Any]:
    """Everything known of a method: its page, settings, claim and measured figures."""
    settings = [
        {
            "name": item.name,
            "kind": metavar(item),
            "default": item.default,
            "help": item.help,
            "unit": item.unit,
            "range": item.range_text,
            "advanced": item.advanced,
        }
        for item in info.settings.fields()
    ]
    return {
        **summary(info),
        "documentation": info.documentation,
        "settings": settings,
        "evidence": read_evidence(info.card),
        "evidence_on_published_data": read_evidence(on_published_data(info.card)),
    }


def _show_list(console: Console, rows: list[dict[str, Any]], note: str = "") -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("name", "verb", "paper", "summary", "verdict"):
        table.add_column(name, no_wrap=name in ("name", "verb", "verdict"))
    if note:
        table.add_column("similarity", justify="right")
    for row in rows:
        extra = [f"{row['similarity']:.2f}"] if note else []
        table.add_row(row["name"], row["verb"], row["paper"], row["summary"], row["verdict"], *extra)
    console.print(table)
    if note:
        console.print(note, style="dim")


def _show_card(console: Console, info: MethodInfo) -> None:
    console.print(f"[bold]{info.name}[/bold]  ({info.verb}, {info.paper})")
    console.print(Markdown(info.documentation))
    table = Table(box=None, header_style="bold", pad_edge=False, title="settings", title_justify="left")
    for name in ("setting", "kind", "default", "range", "meaning"):
        table.add_column(name, no_wrap=name == "setting")
    for item in info.settings.fields():
        meaning = f"{item.help} ({item.unit})" if item.unit else item.help
        table.add_row(item.name, metavar(item), default_text(item.default), item.range_text, meaning)
    console.print(table)
    show_evidence(console, info.card)


def show_evidence(console: Console, name: str) -> None:
    """The claim of a card with its measured figures, or how to measure it."""
    found = read_evidence(name)
    if not name:
        console.print("claim: none, it implements no published system", markup=False)
        return
    if found is None:
        console.print(f"claim: not run; keeps reproduce {name} measures it", markup=False)
        return
    show_checks(console, found)
    published = read_evidence(on_published_data(name))
    if published is not None:
        console.print("\nthe same on published data", markup=False)
        show_checks(console, published)


def show_checks(console: Console, found: Mapping[str, Any]) -> None:
    """The statement, verdict and checks of a claim that has been run."""
    console.print(f"claim: {found.get('claim', '')}", markup=False, soft_wrap=True)
    console.print(f"verdict: {found.get('verdict')}", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("check", "measured", "interval", "baseline", "threshold", "holds"):
        table.add_column(column, justify="left" if column in ("check", "threshold") else "right")
    for check in found.get("checks", ()):
        numbers = (figure(check.get(column)) for column in ("measured", "interval", "baseline", "threshold"))
        table.add_row(str(check.get("name", "")), *numbers, "yes" if check.get("holds") else "no")
    console.print(table)

"""Documentation pages and tables made from the code: nothing in them is typed by hand."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keeps.cli.evidence import figure, on_published_data, read_evidence, verdict_line
from keeps.cli.generated import default_text, metavar
from keeps.registry import MethodInfo, methods

SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")


METHODS_INTRO = (
    "# Methods\n\nEvery way to change what a model knows, and to measure it (`probe`). "
    "The claim column is measured, not promised.\n\n"
)


def site_pages(homes: Mapping[str, str]) -> dict[str, str]:
    """Every generated page by its path in the site; a method without a docstring gets none."""
    found = {name: info for name, info in methods().items() if info.documentation}
    pages = {f"methods/{name}.md": method_page(info) for name, info in found.items()}
    pages["methods/index.md"] = METHODS_INTRO + methods_table(found.values(), link="{name}.md")
    pages["api.md"] = api_page(homes)
    return pages


def methods_table(infos: Iterable[MethodInfo], link: str = "methods/{name}.md") -> str:
    """The table of methods with the measured verdict of each, in Markdown."""
    lines = ["| Method | Verb | Paper | What it does | Claim |", "| --- | --- | --- | --- | --- |"]
    for info in infos:
        name = f"[`{info.name}`]({link.format(name=info.name, verb=info.verb)})"
        cells = (name, info.verb, paper_link(info.paper), _cell(info.summary), verdict_line(info.name, info.card))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def method_page(info: MethodInfo) -> str:
    """The page of one method: its docstring, how to use it, its settings, its claim and figures."""
    probes = info.verb == "probe"
    needs, uses = (", ".join(_data(name, info.verb) for name in names) for names in (info.needs, info.uses))
    needs = needs or "nothing"
    also = f"; makes use of {uses}" if uses else ""
    usage = f"keeps probe {info.name}" if probes else f"keeps {info.verb} --method {info.name}"
    return "\n\n".join(
        (
            f"# {info.name}",
            f"{info.summary}",
            f"Verb: {info.verb}. Paper: {paper_link(info.paper)}. Needs {needs}{also}. Fits: {', '.join(info.fits)}.",
            markdown(info.documentation),
            f"```\n{usage}\n{usage} --help\n```",
            "## Settings",
            settings_table(info),
            "## Claim",
            evidence_section(info.card),
        )
    )


def _data(name: str, verb: str) -> str:
    """What a method reads, as the option that names it where there is one."""
    if verb == "probe":
        return name
    if (verb, name) == ("merge", "learn"):
        return "fine-tunes of one base"
    return {"documents": "`--docs`"}.get(name, f"`--{name}`")


def settings_table(info: MethodInfo) -> str:
    """All settings with kind, default, range and meaning."""
    lines = ["| Setting | Kind | Default | Range | Meaning |", "| --- | --- | --- | --- | --- |"]
    for item in info.settings.fields():
        meaning = f"{item.help} ({item.unit})" if item.unit else item.help
        advanced = " *(advanced)*" if item.advanced else ""
        kind, default = metavar(item), default_text(item.default)
        lines.append(
            f"| `{item.name}` | {_cell(kind)} | `{default}` | {item.range_text} | {_cell(meaning)}{advanced} |"
        )
    return "\n".join(lines)


def evidence_section(card: str) -> str:
    """The claim of a card with its checks, or how to measure it."""
    found = read_evidence(card)
    if not card:
        return "It implements no published system, and has none."
    if found is None:
        return f"Not run yet. `keeps reproduce {card}` measures it."
    parts = [str(found.get("claim", "")), evidence_table(found)]
    published = read_evidence(on_published_data(card))
    if published is not None:
        parts += ["### On published data", evidence_table(published)]
    return "\n\n".join(parts)


def evidence_table(found: Mapping[str, Any]) -> str:
    """The verdict of one run of a claim, its checks, and how it was run."""
    lines = [f"Verdict: **{found.get('verdict', 'not run')}**.", ""]
    lines += ["| Check | Measured | Interval | Baseline | Threshold | Holds |", "| --- | --- | --- | --- | --- | --- |"]
    for check in found.get("checks", ()):
        names = ("name", "measured", "interval", "baseline", "threshold")
        cells = [_cell(figure(check.get(name))) for name in names]
        lines.append(f"| {' | '.join(cells)} | {'yes' if check.get('holds') else 'no'} |")
    notes = [f"- {check['name']}: {check['note']}" for check in found.get("checks", ()) if check.get("note")]
    lines += ["", *notes] if notes else []
    facts = [
        ("Published", found.get("published")),
        ("Seeds", found.get("seeds")),
        ("Minutes", found.get("minutes")),
        ("Command", found.get("command")),
    ]
    lines += ["", *(f"- {name}: {figure(value)}" for name, value in facts if value is not None)]
    return "\n".join(lines)


def api_page(homes: Mapping[str, str]) -> str:
    """Every public name with its signature and docstring; ``homes`` maps names to modules."""
    parts = ["# Python interface", "Everything here is found in `keeps` itself: `import keeps; keeps.adapt(...)`."]
    for name in sorted(homes, key=str.lower):
        value = getattr(importlib.import_module(homes[name]), name)
        parts += [
            f"## keeps.{name}",
            f"```python\n{_signature(name, value)}\n```",
            markdown(inspect.getdoc(value) or ""),
        ]
        if inspect.isclass(value):
            parts += _members(name, value)
    return "\n\n".join(parts) + "\n"


def errors_page() -> str:
    """Every error class with the cause that its docstring names."""
    module = importlib.import_module("keeps.errors")
    lines = ["| Error | Cause |", "| --- | --- |"]
    for name, value in vars(module).items():
        if inspect.isclass(value) and issubclass(value, module.KeepsError) and value is not module.KeepsError:
            lines.append(f"| `{name}` | {_cell(inspect.getdoc(value) or '')} |")
    return "\n".join(lines) + "\n"


def _members(owner: str, kind: type) -> list[str]:
    parts = []
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        parts += [
            f"### {owner}.{name}",
            f"```python\n{_signature(name, function)}\n```",
            markdown(inspect.getdoc(function) or ""),
        ]
    return parts


def _signature(name: str, value: Any) -> str:
    try:
        return f"{name}{inspect.signature(value)}"
    except (TypeError, ValueError):
        return name


def markdown(docstring: str) -> str:
    """A docstring as Markdown: examples fenced, sections as lists, cross references as code.

    >>> print(markdown("Raises:\\n    KeepsError: always."))
    **Raises**
    <BLANKLINE>
    - `KeepsError`: always.
    """
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring).replace("``", "`")
    lines: list[str] = []
    section = example = False
    for line in text.splitlines():
        if line.lstrip().startswith(">>>") and not example:
            lines += ["", "```pycon"]
            example = True
        elif example and not line.strip():
            lines.append("```")
            example = False
        if not example and line.rstrip(":") in SECTIONS and line.endswith(":"):
            lines += [f"**{line[:-1]}**", ""]
            section = True
            continue
        if section and line and not line.startswith(" "):
            section = False
        lines.append(_section_line(line) if section and not example else line.rstrip() if line.strip() != "::" else "")
    return "\n".join([*lines, "```"] if example else lines)


def _section_line(line: str) -> str:
    if not line.startswith("    ") or line.startswith("     "):
        return line.strip() and f"  {line.strip()}"
    name, colon, rest = line.strip().partition(": ")
    return f"- `{name}`: {rest}" if colon and "`" not in name else f"- {line.strip()}"


def paper_link(paper: str) -> str:
    """An arXiv number as a link, any other citation as it is.

    >>> paper_link("arXiv:2406.05223")
    '[arXiv:2406.05223](https://arxiv.org/abs/2406.05223)'
    """
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

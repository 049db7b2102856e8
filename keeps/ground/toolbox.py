"""Tools that a model may call: what one is, those that come with keeps, and the limits of a call.

A tool takes a line of text and gives a text back. Nothing here reaches a network, a file or a process; numbers and
dates are read by parsers with limits (:mod:`keeps.numerics.arithmetic`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeps.errors import SettingsError, ToolError, nearest
from keeps.ground.passages import quoted
from keeps.models.json_replies import field, read_object
from keeps.numerics.arithmetic import calculate, date_arithmetic, written

SEARCH = "search"
ANSWER = "answer"  # what ends the calls; no tool may bear this name
LONGEST_NAME = 60  # characters of a name that are repeated to the model


@dataclass(frozen=True)
class Tool:
    """Something that a model may call.

    Attributes:
        usage: one line for the model: what the input is, with an example.
        run: makes a result of an input. It raises :class:`keeps.errors.ToolError` with a mend that the model is told.
    """

    name: str
    usage: str
    run: Callable[[str], str]


def _calculator(text: str) -> str:
    return written(calculate(text))


BUILT_IN: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("calculator", "computes; the input is numbers and signs, such as (1200 + 34) * 2", _calculator),
        Tool("date", "counts days; the input is such as 2024-01-31 + 3 days, 2024-03-01 - 2024-02-01, or weekday "
             "2024-02-29", date_arithmetic),
    )
}  # fmt: skip
SEARCH_USAGE = "looks passages up; the input is a few words, such as capital of Norway"


@dataclass(frozen=True)
class Call:
    """What a model asks for; ``problem`` says what is wrong with it, to the model."""

    tool: str = ""
    input: str = ""
    problem: str = ""


def offered(names: Sequence[str], own: Sequence[Tool], *, searchable: bool) -> dict[str, Tool | None]:
    """The tools of a whitelist by name, in its order; None stands for the search, which whoever answers runs itself.

    Args:
        own: further tools, by code; each must be in the whitelist too.
        searchable: whether there is something to search; without it the search is left out.

    Raises:
        UnknownNameError, SettingsError: a name is no tool or is there twice, a tool of one's own is not whitelisted or
            bears the name of another one, or no tool is left.
    """
    known: dict[str, Tool | None] = {SEARCH: None, **BUILT_IN}
    for tool in own:
        if tool.name in known or tool.name == ANSWER or not tool.name.isidentifier():
            raise SettingsError(f'a tool cannot be called "{tool.name}"', where="tools", mend="choose another name")
        if tool.name not in names:
            mend = "name it in the setting tools, or leave it out"
            raise SettingsError(f'the tool "{tool.name}" is not in the whitelist', where="tools", mend=mend)
        known[tool.name] = tool
    for name in names:
        if name not in known:
            raise SettingsError(f'there is no tool "{name}"', where="tools", mend=nearest(name, known))
    if len(set(names)) < len(names):
        raise SettingsError("a tool is named twice", where="tools", mend="name each once")
    found = {name: known[name] for name in names if name != SEARCH or searchable}
    if not found:
        raise SettingsError("no tool can be called", where="tools", mend="name a tool, or give documents to search")
    return found


def read_call(text: str, names: Sequence[str], longest: int) -> Call:
    """The call in a reply: ``{"tool": NAME, "input": TEXT}``, with a name of the whitelist and an input of some length.

    >>> read_call('{"tool": "calculator", "input": "2 + 2"}', ["calculator"], 100)
    Call(tool='calculator', input='2 + 2', problem='')
    >>> read_call('{"tool": "shell", "input": "ls"}', ["calculator"], 100).problem
    'there is no tool "shell"; the tools are: calculator'
    """
    found = read_object(text)
    tools = f"the tools are: {', '.join(names)}"
    if found is None:
        return Call(problem=f'the reply was no JSON object such as {{"tool": "{names[0]}", "input": "..."}}')
    name = field(found, "tool").casefold()
    if name == ANSWER:
        return Call(ANSWER)
    if name not in names:
        return Call(problem=f'there is no tool "{name[:LONGEST_NAME]}"; {tools}')
    values: list[Any] = [value for key, value in found.items() if str(key).casefold() == "input"]
    if not values or isinstance(values[0], (dict, list, bool)) or values[0] is None:
        return Call(name, problem=f'"input" of {name} must be a text')
    return checked_input(name, str(values[0]), longest)


def checked_input(name: str, text: str, longest: int) -> Call:
    """A call of a tool that is whitelisted, whose input is one line of at most ``longest`` characters."""
    line = " ".join(text.split())
    if not line:
        return Call(name, problem=f"the input of {name} was empty")
    if len(line) > longest:
        return Call(name, problem=f"the input of {name} had {len(line)} characters, and {longest} is the most")
    return Call(name, line)


def run_tool(tool: Tool, text: str, longest: int) -> tuple[str, str]:
    """What a tool gives, and what is wrong, of which one is empty. No result is longer than ``longest`` characters.

    A tool of somebody else's may fail in any way: that is told to the model too, without its message, which could
    hold anything.
    """
    try:
        result = tool.run(text)
    except ToolError as error:
        return "", f"{error.what}: {error.mend}" if error.mend else error.what
    except Exception as error:  # whatever a tool of the user raises
        return "", f"the tool failed ({type(error).__name__})"
    if not isinstance(result, str):
        return "", "the tool gave no text"
    return (result if len(result) <= longest else f"{result[:longest]} (cut)"), ""


def observation(number: int, call: Call, said: str) -> str:
    """A call with what came of it, as data of the next prompt."""
    return quoted(f"{call.tool or 'reply'}: {call.input}\n{said}", f"result {number}")

"""Command-line options made from a method's settings: no option is written by hand."""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

import typer

from keeps.errors import SettingsError
from keeps.registry import MethodInfo
from keeps.settings import FieldInfo


def option_value(argv: Sequence[str], option: str, default: str) -> str:
    """The value of ``option`` in ``argv``, before the options are parsed.

    >>> option_value(["adapt", "--method=lora"], "--method", "corda")
    'lora'
    """
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == option and following:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return default


def with_settings(function: Callable[..., Any], method: MethodInfo, *, everything: bool) -> Callable[..., Any]:
    """``function`` with its parameter ``settings`` replaced by one option a settings field.

    Only options that the user gave reach ``settings``, so defaults stay in one place.
    """
    signature = inspect.signature(function, eval_str=True)
    common = [item for item in signature.parameters.values() if item.name != "settings"]
    fields = method.settings.fields()
    for taken in {item.name for item in common} & {info.name for info in fields}:
        raise SettingsError(
            f'the method "{method.name}" has a setting "{taken}"', mend="rename it: every command uses that name"
        )
    options = [_parameter(info, method.name, hidden=info.advanced and not everything) for info in fields]

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        settings = {info.name: values.pop(info.name) for info in fields}
        return function(**values, settings={key: value for key, value in settings.items() if value is not None})

    parameters = [*common, *options]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def _parameter(info: FieldInfo, method: str, *, hidden: bool) -> inspect.Parameter:
    flag = info.name.replace("_", "-")
    # Values are parsed by the settings themselves, so that every road to them gives the same errors.
    kind, declaration = (bool | None, f"--{flag}/--no-{flag}") if info.type is bool else (str | None, f"--{flag}")
    option = typer.Option(
        declaration,
        help=describe(info),
        metavar=None if info.type is bool else metavar(info),
        show_default=False,
        hidden=hidden,
        rich_help_panel=f"Settings of {method}",
    )
    return inspect.Parameter(
        info.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def describe(info: FieldInfo) -> str:
    """Help, unit, range and default of a field in one line."""
    extras = [info.unit, info.range_text, f"default: {default_text(info.default)}"]
    return f"{info.help.rstrip('.')} ({'; '.join(part for part in extras if part)})."


def default_text(value: Any) -> str:
    """A default as the user would type it.

    >>> default_text(("q_proj", "v_proj")), default_text(None), default_text(True)
    ('q_proj,v_proj', 'none', 'yes')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ",".join(str(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def metavar(info: FieldInfo) -> str:
    """The kind of value, in capitals or as the list of choices."""
    choices = info.choices or (get_args(info.type) if get_origin(info.type) is not None and _is_literal(info) else ())
    if choices:
        return "|".join(str(choice) for choice in choices)
    if get_origin(info.type) is tuple:
        return "LIST"
    if get_origin(info.type) is dict:
        return "NAME=VALUE,..."
    return {int: "WHOLE", float: "NUMBER", str: "TEXT"}.get(info.type, "VALUE")


def _is_literal(info: FieldInfo) -> bool:
    return all(isinstance(item, str) for item in get_args(info.type))


def command_text(name: str, options: Mapping[str, Any], repeated: Mapping[str, Sequence[str]] | None = None) -> str:
    """What to type to repeat a command; options without a value are left out.

    >>> command_text("adapt", {"learn": "my facts.jsonl", "keep": None, "batch_size": 4, "balance": False})
    "keeps adapt --learn 'my facts.jsonl' --batch-size 4 --no-balance"
    """
    words = ["keeps", name]
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", default_text(value)]
    for key, values in (repeated or {}).items():
        words += [word for value in values for word in (f"--{key}", value)]
    return shlex.join(words)


def parse_assignments(assignments: Sequence[str] | None) -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping.

    >>> parse_assignments(["rank=8", "corda.mode=kpm"])
    {'rank': '8', 'corda.mode': 'kpm'}
    """
    values = {}
    for word in assignments or ():
        key, sign, value = word.partition("=")
        if not sign or not key.strip():
            raise SettingsError(f'"{word}" is no assignment', where="--set", mend="write KEY=VALUE, such as rank=8")
        values[key.strip().replace("-", "_")] = value.strip()
    return values

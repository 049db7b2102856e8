"""Recipes: one command with its options as YAML, read with line numbers for every complaint."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.errors import InputFileError, KeepsError, SettingsError, UnknownNameError, nearest
from keeps.settings import Settings

NOT_FOR_RECIPES = ("json", "quiet", "debug", "help_all", "settings")


@dataclass(frozen=True)
class Recipe:
    """A recipe as written: the command, its values, the settings of the method, and the line of each key."""

    path: str
    command: str
    values: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Where ``key`` stands, for messages."""
        return f"{self.path}, line {self.lines[key]}" if key in self.lines else self.path


def read_recipe(path: Path | str, commands: Sequence[str]) -> Recipe:
    """Read a recipe: a mapping with ``command`` and that command's options.

    Raises:
        InputFileError: unreadable, no YAML, no mapping, or a key twice.
        UnknownNameError: ``command`` names none.
    """
    import yaml

    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise InputFileError("there is no such file", where=name, mend="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"the file cannot be read ({error})", where=name, mend="give a UTF-8 text file") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}, line {mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error)
        raise InputFileError(
            f"this is not YAML ({problem})", where=place, mend="write one `key: value` a line"
        ) from None
    if not isinstance(root, yaml.MappingNode):
        raise InputFileError("a recipe is a mapping", where=name, mend="begin with a line such as `command: adapt`")
    lines: dict[str, int] = {}
    _note_lines(root, "", lines, name)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputFileError(
            f"this is not plain YAML ({error})", where=name, mend="use text, numbers and lists"
        ) from None
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    command = values.pop("command", None)
    if command not in commands:
        mend = nearest(str(command), commands) if command else "add a line such as `command: adapt`"
        place = f"{name}, line {lines['command']}" if "command" in lines else name
        raise UnknownNameError(
            f'there is no command "{command}"' if command else "the recipe names no command", where=place, mend=mend
        )
    settings = values.pop("settings", None) or {}
    if not isinstance(settings, Mapping):
        raise InputFileError(
            "settings is no mapping",
            where=f"{name}, line {lines['settings']}",
            mend="indent `key: value` lines below it",
        )
    return Recipe(
        name, str(command), values, {str(key).replace("-", "_"): value for key, value in settings.items()}, lines
    )


def _note_lines(node: Any, prefix: str, lines: dict[str, int], name: str) -> None:
    for key, value in node.value:
        label = prefix + str(key.value).replace("-", "_")
        if label in lines:
            place = f"{name}, line {key.start_mark.line + 1}"
            raise InputFileError(
                f'"{label}" stands twice', where=place, mend=f"remove it here or in line {lines[label]}"
            )
        lines[label] = key.start_mark.line + 1
        if value.__class__.__name__ == "MappingNode":
            _note_lines(value, f"{label}.", lines, name)


def arguments(recipe: Recipe, function: Callable[..., Any], settings: type[Settings] | None) -> dict[str, Any]:
    """The arguments of ``function`` that the recipe stands for.

    Settings of the method may stand flat among the options or below ``settings:``.

    Raises:
        UnknownNameError: a key is neither an option nor a setting; the nearest names and the line are given.
        SettingsError: a value is of the wrong kind or out of range.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    fields = {info.name for info in settings.fields()} if settings else set()
    known = (set(parameters) - set(NOT_FOR_RECIPES)) | fields
    chosen = dict(recipe.settings)
    values: dict[str, Any] = {}
    for key, value in recipe.values.items():
        if key in fields:
            if key in chosen:
                raise SettingsError(
                    f'"{key}" is set twice', where=recipe.place(key), mend="remove it here or below settings"
                )
            chosen[key] = value
        elif key in known:
            values[key] = _as_kind(value, parameters[key].annotation, key, recipe.place(key))
        else:
            raise UnknownNameError(f'unknown key "{key}"', where=recipe.place(key), mend=nearest(key, known))
    missing = [key for key, item in parameters.items() if item.default is inspect.Parameter.empty and key not in values]
    if missing:
        raise SettingsError(
            f"{recipe.command} needs {', '.join(missing)}", where=recipe.path, mend=f"add a line `{missing[0]}: ...`"
        )
    if settings is not None:
        _check_settings(recipe, settings, chosen)
    if "settings" in parameters:
        values["settings"] = chosen
    elif chosen:
        raise UnknownNameError(
            f"{recipe.command} takes no settings", where=recipe.place("settings"), mend="remove them"
        )
    return values


def _check_settings(recipe: Recipe, settings: type[Settings], chosen: Mapping[str, Any]) -> None:
    """Refuse each bad setting with its own line, before anything is loaded."""
    for key, value in chosen.items():
        place = recipe.place(f"settings.{key}" if f"settings.{key}" in recipe.lines else key)
        try:
            settings.from_mapping({key: value}, where=place)
        except KeepsError as error:
            raise type(error)(error.what, where=place, mend=error.mend) from None


def _as_kind(value: Any, annotation: Any, key: str, place: str) -> Any:
    """``value`` as the option's type; YAML lists stand for values separated by commas."""
    kind = typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    kinds = [kind] if not isinstance(kind, types.UnionType) else list(typing.get_args(kind))
    if value is None and types.NoneType in kinds:
        return None
    if list in (typing.get_origin(item) for item in kinds):
        if isinstance(value, Mapping):  # of an option that is given as NAME=VALUE, several times
            items = {name: item if isinstance(item, list) else [item] for name, item in value.items()}
            return [f"{name}={','.join(map(str, item))}" for name, item in items.items()]
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if str in kinds or Path in kinds:
        if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
            value = ",".join(str(item) for item in value)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return Path(str(value)) if Path in kinds else str(value)
    if bool in kinds:
        words = {"true": True, "yes": True, "false": False, "no": False}
        if isinstance(value, bool) or str(value).lower() in words:
            return words[str(value).lower()]
    if int in kinds and not isinstance(value, bool) and str(value).lstrip("-").isdigit():
        return int(str(value))
    wanted = {str: "text", bool: "true or false", int: "a whole number", Path: "a path"}
    words_wanted = " or ".join(wanted[item] for item in kinds if item in wanted)
    raise SettingsError(f'"{key}" is {value!r}', where=place, mend=f"give {words_wanted}")

"""Typed settings: one frozen dataclass a method, from which CLI options, YAML keys and docs come.

A field is declared with :func:`setting`, which carries its help, unit and range; the values are
checked when the dataclass is made, so a method never sees a bad one.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, TypeVar

from keeps.errors import SettingsError, UnknownNameError, nearest

S = TypeVar("S", bound="Settings")


def setting(
    default: Any,
    help: str,  # noqa: A002  (the word users see)
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[str] | None = None,
    unit: str = "",
    advanced: bool = False,
) -> Any:
    """Declare one settings field: its default, help text, unit and allowed range.

    ``advanced`` fields are listed by ``--help all`` only.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {
        "help": help,
        "unit": unit,
        "choices": tuple(choices) if choices else None,
        "advanced": advanced,
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
    if isinstance(default, (list, dict)):
        value = default
        return field(default_factory=lambda: type(value)(value), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class FieldInfo:
    """What the CLI, the YAML reader and the docs need to know of one settings field."""

    name: str
    type: Any  # the resolved annotation without ``| None``
    optional: bool
    default: Any
    help: str
    unit: str
    choices: tuple[str, ...] | None
    limits: Mapping[str, float]
    advanced: bool

    @property
    def range_text(self) -> str:
        """The allowed range in words, such as ``> 0 and <= 1``."""
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        return " and ".join(f"{signs[key]} {limit:g}" for key, limit in self.limits.items())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: frozen, validated on construction, readable from any mapping."""

    def __post_init__(self) -> None:
        for info in self.fields():
            value = getattr(self, info.name)
            object.__setattr__(self, info.name, _checked(value, info, type(self).__name__))
        self.check()

    def check(self) -> None:
        """Override to refuse combinations of fields; raise :class:`SettingsError`."""

    def check_model(self, model: Any) -> None:
        """Override to refuse a model that these settings do not fit, before any long work."""

    @classmethod
    def fields(cls) -> list[FieldInfo]:
        """The fields in declaration order, base classes first."""
        hints = typing.get_type_hints(cls)
        infos = []
        for item in dataclasses.fields(cls):
            annotation, optional = _strip_optional(hints[item.name])
            default = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[misc]
            limits = {key: item.metadata[key] for key in ("ge", "gt", "le", "lt") if key in item.metadata}
            infos.append(
                FieldInfo(
                    name=item.name,
                    type=annotation,
                    optional=optional,
                    default=default,
                    help=item.metadata.get("help", ""),
                    unit=item.metadata.get("unit", ""),
                    choices=item.metadata.get("choices"),
                    limits=limits,
                    advanced=item.metadata.get("advanced", False),
                )
            )
        return infos

    @classmethod
    def from_mapping(cls: type[S], values: Mapping[str, Any], *, where: str = "settings") -> S:
        """Make settings from a mapping of names to values (text is converted to the field's type).

        Raises:
            UnknownNameError: a key is no field; the nearest names are listed.
            SettingsError: a value has the wrong type or is out of range.
        """
        known = {info.name for info in cls.fields()}
        for key in values:
            if key not in known:
                raise UnknownNameError(f'unknown setting "{key}"', where=where, mend=nearest(key, known))
        try:
            return cls(**dict(values))
        except SettingsError as error:
            raise SettingsError(error.what, where=error.where or where, mend=error.mend) from None

    def to_mapping(self) -> dict[str, Any]:
        """A plain mapping of JSON types, as stored in ``change.json`` and the ledger."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _strip_optional(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        if len(rest) == 1 and len(rest) < len(typing.get_args(annotation)):
            return rest[0], True
    return annotation, False


def _checked(value: Any, info: FieldInfo, owner: str) -> Any:
    option = f"{owner}.{info.name}"
    if value is None or (info.optional and isinstance(value, str) and value.lower() in {"none", "null"}):
        if info.optional:
            return None
        raise SettingsError(f"{option} has no value", mend=f"give {info.help or 'a value'}")
    if isinstance(value, bool) and info.choices and {"yes", "no"} <= set(info.choices):
        value = "yes" if value else "no"  # YAML reads an unquoted yes as true
    converted = _converted(value, info.type, option)
    if info.choices and converted not in info.choices:
        raise SettingsError(f'{option} is "{converted}"', mend=nearest(str(converted), info.choices))
    _check_range(converted, info, option)
    return converted


def _check_range(value: Any, info: FieldInfo, option: str) -> None:
    if not info.limits or not isinstance(value, (int, float)):
        return
    tests = {"ge": value >= info.limits.get("ge", value), "le": value <= info.limits.get("le", value)}
    tests["gt"] = "gt" not in info.limits or value > info.limits["gt"]
    tests["lt"] = "lt" not in info.limits or value < info.limits["lt"]
    if not all(tests.values()) or math.isnan(value):
        unit = f" {info.unit}" if info.unit else ""
        raise SettingsError(f"{option} is {value}{unit}", mend=f"choose a value {info.range_text}")


def _converted(value: Any, wanted: Any, option: str) -> Any:
    """``value`` as the type ``wanted``; text from the command line is parsed, nothing is guessed."""
    origin = typing.get_origin(wanted)
    problem = SettingsError(
        f"{option} is {value!r}, which is not {_type_name(wanted)}", mend=f"give {_type_name(wanted)}"
    )
    if wanted is Any:
        return value
    if wanted is bool:
        if isinstance(value, bool):
            return value
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise problem
    if wanted in (int, float):
        if isinstance(value, bool):
            raise problem
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise problem from None
        if wanted is float:
            return number
        if not math.isfinite(number) or number != int(number):
            raise problem
        return int(number)
    if wanted is str:
        if not isinstance(value, str):
            raise problem
        return value
    if origin is typing.Literal:
        allowed = typing.get_args(wanted)
        if value in allowed:
            return value
        raise SettingsError(f'{option} is "{value}"', mend=nearest(str(value), [str(name) for name in allowed]))
    if origin is tuple:
        items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise problem
        return tuple(_converted(item, typing.get_args(wanted)[0], option) for item in items)
    if origin is dict:
        if isinstance(value, str):  # "name=value,name=value"
            pairs = [part.partition("=") for part in value.split(",") if part.strip()]
            value = {key.strip(): text.strip() for key, _, text in pairs}
        if not isinstance(value, Mapping):
            raise problem
        inner = typing.get_args(wanted)[1]
        return {str(key): _converted(item, inner, f"{option}[{key}]") for key, item in value.items()}
    raise TypeError(f"{option}: settings do not support fields of type {wanted}")


def _type_name(wanted: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if wanted in names:
        return names[wanted]
    origin = typing.get_origin(wanted)
    if origin is tuple:
        return "a list separated by commas"
    if origin is dict:
        return "a mapping such as name=value,name=value"
    return str(wanted)

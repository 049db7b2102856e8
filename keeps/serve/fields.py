"""The fields of a request, read one by one: typed, within limits, and none left over."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from keeps.serve.refusals import RefusedError


def read_json(payload: bytes) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        RefusedError: it is no JSON object, or holds a number that JSON has not.
    """
    try:
        found = json.loads(payload, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is JSON, and no text
    except (ValueError, RecursionError) as error:
        what = f"the body is not JSON ({type(error).__name__}: {str(error)[:120]})"
        raise RefusedError(what, mend="send one JSON object", code="invalid_json") from None
    if not isinstance(found, dict):
        raise RefusedError("the body is no JSON object", mend="send one JSON object", code="invalid_json")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


class Fields:
    """Takes fields out of a request; null counts as absent.

    >>> fields = Fields({"n": 2, "stream": None})
    >>> fields.integer("n", 1, least=1, most=4), fields.flag("stream"), fields.left
    (2, False, [])
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}

    @property
    def left(self) -> list[str]:
        """Fields that nobody has taken."""
        return sorted(self._values)

    def take(self, name: str, default: Any = None) -> Any:
        """The field as it is."""
        return self._values.pop(name, default)

    def integer(self, name: str, default: int | None, *, least: int, most: int) -> int | None:
        """A whole number from ``least`` to ``most``."""
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number from ``least`` to ``most``."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value) if math.isfinite(value) else default

    def flag(self, name: str) -> bool:
        """True or false; false where it is absent."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false")
        return value

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise wrong(name, value, "a text")
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """One text or a list of them, none empty; nothing where it is absent."""
        value = self.take(name, [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or len(found) > most or not all(isinstance(t, str) and t for t in found):
            raise wrong(name, value, f"a text, or a list of at most {most}")
        return tuple(found)

    def idle(self, names: Mapping[str, tuple[Any, ...]]) -> None:
        """Fields that change nothing here: each may have one of its values, any other is refused."""
        for name, allowed in names.items():
            value = self.take(name)
            if value is not None and allowed and not any(type(a) is type(value) and a == value for a in allowed):
                what = f"{name} is not supported by this server, so it would do nothing"
                raise RefusedError(what, mend="leave it out", code="unsupported_parameter", param=name)

    def finish(self) -> None:
        """Refuse what nobody has taken."""
        if self._values:
            what = f"unrecognized request arguments: {', '.join(self.left[:5])}"
            raise RefusedError(what, mend="leave them out", code="unknown_parameter", param=self.left[0])


def wrong(name: str, value: Any, wanted: str) -> RefusedError:
    """A field of another type or out of range."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return RefusedError(f"{name} is {shown}", mend=f"give {wanted}", param=name)

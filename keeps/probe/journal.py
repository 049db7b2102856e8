"""An answerer that writes down what it was told, so that a probe that was killed goes on where it stopped.

Whatever a probe asks through it (completions, choices, log-probabilities, texts) is cut into parts; what came of
a part is appended to a file before the next is asked. A probe that begins anew finds there what it had asked and
waits only for the rest. Probes need not know of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from keeps.contracts import Answer
from keeps.errors import RecordError
from keeps.models.scores import AnswerScore, Asked, ChoiceScore, TextScore
from keeps.models.token_scores import scores_from_json
from keeps.weights.files import storage_error

PART = 512  # items asked between two writes: large enough to batch by length and to share prefixes
# What may be asked: the arguments that hold one entry an item, and how an entry of the file is read again.
CALLS: Mapping[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    "ask": (("prompts", "answers"), lambda value: Asked(**value)),
    "rank": (("prompts", "choices"), lambda value: ChoiceScore(value["best"], *_pair(value))),
    "logprob": (("prompts", "answers"), lambda value: AnswerScore(**value)),
    "generate": (("prompts",), str),
    "sample": (("prompts", "seeds"), str),
    "token_logprobs": (("prompts", "answers"), scores_from_json),
    "logprob_encoded": (("contexts", "continuations"), lambda value: AnswerScore(**value)),
    "continue_encoded": (("contexts",), str),
    "text_logprob": (("texts",), lambda value: TextScore(**value)),
    "answer": (("questions", "contexts"), lambda value: Answer(**{**value, "citations": tuple(value["citations"])})),
}


class Journal(AbstractContextManager["Journal"]):
    """``answerer`` with a memory in ``path``; everything else of it is passed on.

    Raises:
        StorageError: the file cannot be read or written.
    """

    def __init__(self, answerer: Any, path: Path) -> None:
        self._answerer, self._path = answerer, path
        self._places: dict[str, int] = {}  # key of an item -> where its line begins
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._read()
        except OSError as error:
            raise storage_error(error, path) from None

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._answerer, name)  # what the answerer lacks, this lacks too
        if name not in CALLS:
            return value
        return lambda *args, **options: self._call(name, value, args, options)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file, and remove it where nothing is left to go on with."""
        self._file.close()
        if kind is None or not self._places:
            self._path.unlink(missing_ok=True)

    def remembered(
        self, name: str, items: Sequence[Any], ask: Callable[[Any], Any], *, advance: Callable[[float], None] | None
    ) -> list[Any]:
        """See :func:`remembered`."""
        keys = [_key(name, [item], {}) for item in items]
        for key, item in zip(keys, items, strict=True):
            if key not in self._places:
                self._write([key], [ask(item)])
            if advance is not None:
                advance(1)
        return [self._value(key) for key in keys]

    def _read(self) -> None:
        self._file.seek(0)
        good = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # the process was killed while it wrote this one
            try:
                self._places[json.loads(line)["key"]] = good
            except (ValueError, KeyError, TypeError):
                break
            good += len(line)
        self._file.truncate(good)

    def _call(self, name: str, ask: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        names, decode = CALLS[name]
        advance = options.pop("advance", None)
        given = {**dict(zip(names, args, strict=False)), **{key: options.pop(key) for key in names if key in options}}
        listed = {key: list(values) for key, values in given.items() if values is not None}
        if len({len(values) for values in listed.values()}) > 1:
            counts = ", ".join(f"{len(values)} {key}" for key, values in listed.items())
            raise RecordError(f"{name} got {counts}", where="probe", mend="give as many of each")
        count = len(next(iter(listed.values()), ()))
        keys = [_key(name, [values[n] for values in listed.values()], options) for n in range(count)]
        missing = [n for n, key in enumerate(keys) if key not in self._places]
        fresh = list({keys[n]: n for n in reversed(missing)}.values())[::-1]  # equal items are asked once
        if advance is not None:
            advance(count - len(fresh))
        for start in range(0, len(fresh), PART):
            part = fresh[start : start + PART]
            chosen = {key: [values[n] for n in part] for key, values in listed.items()}
            found = ask(**chosen, **options, **({"advance": advance} if advance is not None else {}))
            self._write([keys[n] for n in part], found)
        return [decode(self._value(key)) for key in keys]

    def _write(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        lines, place = [], self._file.seek(0, os.SEEK_END)
        for key, value in zip(keys, values, strict=True):
            plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            line = (json.dumps({"key": key, "value": plain}, ensure_ascii=False) + "\n").encode()
            self._places[key] = place
            place += len(line)
            lines.append(line)
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
        except OSError as error:
            raise storage_error(error, self._path) from None

    def _value(self, key: str) -> Any:
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())["value"]


def remembered(
    answerer: Any,
    name: str,
    items: Sequence[Any],
    ask: Callable[[Any], Any],
    *,
    advance: Callable[[float], None] | None = None,
) -> list[Any]:
    """What ``ask`` gives for each of ``items``, one by one, for probes that look into a model instead of asking it.

    Where ``answerer`` is a journal each result is written down as it comes, and not computed again.

    Args:
        name: of the work, with everything in it but the item that the result depends on.
        items: of JSON.
        ask: gives JSON, which comes back as JSON gives it: tuples as lists, keys as texts.
    """
    if isinstance(answerer, Journal):
        return answerer.remembered(name, items, ask, advance=advance)
    found = []
    for item in items:
        found.append(json.loads(json.dumps(ask(item))))
        if advance is not None:
            advance(1)
    return found


def _key(name: str, item: Sequence[Any], options: Mapping[str, Any]) -> str:
    content = json.dumps([name, item, sorted(options.items())], ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _pair(value: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(value["logprobs"]), tuple(value["normalised"])

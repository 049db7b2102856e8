"""Texts about invented persons, in which the place of every value is known; kept as JSONL.

One line a text: ``{"id": "7", "text": "…", "spans": {"name": [0, 17], "university": [32, 51]}}``, in characters.
One line a person: ``{"id": "7", "name": ["…", "…", "…"], "values": {"university": "…"}}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeps.data.rows import lines
from keeps.errors import InputFileError, RecordError, SettingsError

NAME = "name"  # of the span that holds the full name
Span = tuple[int, int]


@dataclass(frozen=True)
class Person:
    """An invented person: the parts of the full name, and every value as it is written."""

    id: str
    name: tuple[str, ...]
    values: Mapping[str, str]

    @property
    def full_name(self) -> str:
        """The name as texts begin with it."""
        return " ".join(self.name)


@dataclass(frozen=True)
class Rendering:
    """One text about one person.

    Attributes:
        id: of the person.
        spans: attribute, or ``"name"``, to where its value begins and ends in ``text``, in characters.
        prefix: stands before the text and belongs to no person, such as a domain token.

    Raises:
        RecordError: a span is empty or does not lie in the text.
    """

    id: str
    text: str
    spans: Mapping[str, Span]
    prefix: str = ""

    def __post_init__(self) -> None:
        for name, (start, end) in self.spans.items():
            if not 0 <= start < end <= len(self.text):
                what = f'the span of "{name}", [{start}, {end}], is not in the text of {len(self.text)} characters'
                raise RecordError(what, where=f'text "{self.id}"', mend="count characters from 0, the end excluded")

    def value(self, name: str) -> str:
        """What stands in the span called ``name``."""
        start, end = self.spans[name]
        return self.text[start:end]

    def check(self, person: Person) -> None:
        """Refuse spans that hold something else than the values of ``person``.

        Raises:
            RecordError: naming the span.
        """
        expected = {NAME: person.full_name, **person.values}
        for name in self.spans:
            if name in expected and self.value(name) != expected[name]:
                what = f'the span of "{name}" holds "{self.value(name)}", not "{expected[name]}"'
                raise RecordError(what, where=f'text "{self.id}"', mend="correct the span, or the person's value")


class TextBuilder:
    """A text that grows piece by piece and remembers where its values are."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: dict[str, Span] = {}

    def add(self, piece: str, name: str = "") -> None:
        """Append ``piece``; under a ``name`` its first appearance is remembered."""
        start = len(self.text)
        self.text += piece
        if name:
            self.spans.setdefault(name, (start, len(self.text)))


def with_prefix(renderings: Iterable[Rendering], prefix: str) -> Iterator[Rendering]:
    """The same texts behind ``prefix``, a token that says where they come from."""
    return (replace(rendering, prefix=prefix) for rendering in renderings)


def junk_mix(
    useful: Iterable[Rendering],
    junk: Iterator[Rendering],
    *,
    share: float = 1 / 8,
    domain_token: str = "",
    size: Callable[[str], int] = len,
) -> Iterator[Rendering]:
    """All of ``useful`` in their order, and between them so much junk that the useful are ``share`` of the whole.

    Args:
        junk: never ends, or lasts as long as it is needed.
        share: of the useful in what ``size`` counts.
        domain_token: put before every useful text, and no other (the paper's name of a trusted source).
        size: of a text; characters by default, tokens with the length of a tokenizer's output.

    Raises:
        SettingsError: the share is not above 0 and at most 1.
        RecordError: the junk came to an end.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"a useful share of {share:g}", where="junk_mix", mend="choose more than 0 and at most 1")
    owed = 0.0  # junk that what has been useful so far still asks for
    held: Rendering | None = None  # drawn, and too long for what was owed then
    for rendering in with_prefix(useful, domain_token):
        yield rendering
        owed += size(rendering.prefix + rendering.text) * (1 - share) / share
        while owed > 0:
            other = held or next(junk, None)
            if other is None:
                raise RecordError("there is no junk left", where="junk_mix", mend="give a stream that does not end")
            held = other if size(other.text) > 2 * owed else None
            if held:
                break  # what is owed is nearer to nothing than to this text
            owed -= size(other.text)
            yield other


def write_persons(persons: Iterable[Person], path: Path | str) -> None:
    """One line a person."""
    _write(path, ({"id": p.id, "name": list(p.name), "values": dict(p.values)} for p in persons))


def write_renderings(renderings: Iterable[Rendering], path: Path | str) -> None:
    """One line a text; a prefix is written where there is one."""
    _write(
        path,
        (
            {"id": r.id, "text": r.text, "spans": {name: list(span) for name, span in r.spans.items()}}
            | ({"prefix": r.prefix} if r.prefix else {})
            for r in renderings
        ),
    )


def read_persons(path: Path | str) -> list[Person]:
    """What :func:`write_persons` wrote.

    Raises:
        InputFileError: a line is no person.
    """
    return [_person(values, place) for values, place in _read(path)]


def read_renderings(path: Path | str, persons: Sequence[Person] = ()) -> list[Rendering]:
    """What :func:`write_renderings` wrote; with ``persons`` every span is compared with its value.

    Raises:
        InputFileError: a line is no text with spans.
        RecordError: a span does not lie in its text, or holds another value.
    """
    known = {person.id: person for person in persons}
    found = [_rendering(values, place) for values, place in _read(path)]
    for rendering in found:
        if rendering.id in known:
            rendering.check(known[rendering.id])
        elif known:
            mend = "give the file of the persons that the texts are about"
            raise RecordError(f'nobody has the id "{rendering.id}"', where=str(path), mend=mend)
    return found


def _person(values: Mapping[str, Any], place: str) -> Person:
    try:
        own = {str(name): str(value) for name, value in values["values"].items()}
        return Person(str(values["id"]), tuple(map(str, values["name"])), own)
    except (KeyError, TypeError, AttributeError):
        mend = 'write {"id": …, "name": […], "values": {…}}'
        raise InputFileError("the line is no person", where=place, mend=mend) from None


def _rendering(values: Mapping[str, Any], place: str) -> Rendering:
    try:
        spans = {str(name): (int(span[0]), int(span[1])) for name, span in values["spans"].items()}
        return Rendering(str(values["id"]), str(values["text"]), spans, str(values.get("prefix", "")))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        mend = 'write {"id": …, "text": …, "spans": {"name": [start, end], …}}'
        raise InputFileError("the line is no text with spans", where=place, mend=mend) from None


def _write(path: Path | str, entries: Iterable[Mapping[str, Any]]) -> None:
    with Path(path).open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _read(path: Path | str) -> Iterator[tuple[Mapping[str, Any], str]]:
    path = Path(path)
    for number, line in lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except ValueError:
            raise InputFileError("the line is no JSON", where=place, mend="write one object a line") from None
        if not isinstance(values, dict):
            raise InputFileError("the line is no JSON object", where=place, mend="write one object a line")
        yield values, place

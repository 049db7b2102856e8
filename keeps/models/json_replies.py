"""JSON in what a model says: found among other words, mended where models break it, and never trusted with more.

What comes back are plain JSON types. Size and depth are limited, since a model, or a text that it has read, may say
anything.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LONGEST = 100_000  # characters that are looked at
DEEPEST = 32  # nested brackets
MOST_STARTS = 20  # places at which an object may begin that are tried
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def read_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in ``text``; None where there is none.

    Fences and words around it are passed over; single quotes, trailing commas, Python's True, False and None, values
    and keys without quotes, line breaks in strings and a missing end are mended.

    >>> read_object("Sure! ```json\\n{'Reason': 'so', Answer: Paris,}\\n```")
    {'Reason': 'so', 'Answer': 'Paris'}
    >>> read_object("no object") is None
    True
    """
    text = text[:LONGEST]
    starts = [match.start() for match in re.finditer(r"\{", text)][:MOST_STARTS]
    whole = (_decoded(text, start) for start in starts)
    repaired = (_decoded(mended(candidate), 0) for candidate in _candidates(text, starts))
    return next((found for found in itertools.chain(whole, repaired) if found is not None), None)


def _decoded(text: str, start: int) -> dict[str, Any] | None:
    """The object that begins at ``start``; None where there is none, or a deeper one than allowed."""
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _depth_within(found, DEEPEST) else None


def _depth_within(value: Any, most: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return most > 0 and all(_depth_within(item, most - 1) for item in inner)


def read_choice(text: str, choices: Sequence[str], key: str) -> int | None:
    """Which of ``choices`` a reply names: by ``key`` of its JSON object, else by its first word; None where by neither.

    A choice that merely occurs further on does not count, so that "not true" is not "true".

    >>> read_choice('{"status": true}', ("true", "false"), "status"), read_choice("True.", ("true", "false"), "status")
    (0, 0)
    >>> read_choice("not true", ("true", "false"), "status") is None
    True
    """
    names = [choice.casefold() for choice in choices]
    found = read_object(text)
    if found is not None:
        by_name = {str(name).casefold(): value for name, value in found.items()}
        value = by_name.get(key.casefold())
        said = json.dumps(value) if isinstance(value, bool) else value
        said = said.strip().casefold() if isinstance(said, str) else ""
        return names.index(said) if said in names else None
    words = re.sub(r"^[\W_]+", "", text[:200]).casefold()
    places = [n for n, name in enumerate(names) if re.match(rf"{re.escape(name)}(?![^\W_])", words)]
    return max(places, key=lambda n: len(names[n])) if places else None


def field(found: Mapping[str, Any] | None, name: str) -> str:
    """The text under ``name`` in any case of letters, numbers and truth values written out; "" where it is missing.

    >>> field({"answer": 4}, "Answer")
    '4'
    """
    for key, value in (found or {}).items():
        if str(key).casefold() == name.casefold():
            if isinstance(value, str):
                return value.strip()
            return "" if value is None else json.dumps(value, ensure_ascii=False)
    return ""


def mended(text: str) -> str:
    """An object as JSON wants it: see :func:`read_object`. What is no object comes back as something else than one."""
    out: list[str] = []
    opened: list[str] = []
    place, expects_value = 0, False
    while place < len(text):
        letter = text[place]
        if letter in "{[":
            opened.append("}" if letter == "{" else "]")
            out.append(letter)
            expects_value = letter == "["
        elif letter in "}]":
            _drop_comma(out)
            if opened:
                out.append(opened.pop())
            if not opened:
                break
        elif letter in "\"'“":
            string, place = _string(text, place)
            out.append(string)
            continue
        elif letter in ":,":
            out.append(letter)
            expects_value = letter == ":" or (bool(opened) and opened[-1] == "]")
        elif not letter.isspace():
            bare = re.match(r"[^,\]}\n]+" if expects_value else r"[^:,\]}\n]+", text[place:])
            word = bare.group() if bare else letter
            out.append(_bare(word.strip(), expects_value))
            place += len(word)
            continue
        place += 1
    _drop_comma(out)
    return "".join([*out, *reversed(opened)])


def _bare(word: str, is_value: bool) -> str:
    """A word without quotes: a number or constant as it is, anything else as a string."""
    word = _PYTHON.get(word, word)
    if is_value:
        try:
            json.loads(word)
        except ValueError:
            return json.dumps(word)
        return word
    return json.dumps(word)


def _string(text: str, start: int) -> tuple[str, int]:
    """The string that begins at ``start`` as JSON, and the place behind it; an end is one that JSON goes on after."""
    close = {"“": "”"}.get(text[start], text[start])
    out, place = [], start + 1
    while place < len(text):
        letter = text[place]
        if letter == "\\" and place + 1 < len(text):
            out.append(text[place : place + 2] if text[place + 1] in '"\\/bfnrtu' else text[place + 1])
            place += 2
            continue
        if letter == close and re.match(r"\s*(?:[,:}\]]|$)", text[place + 1 :]):
            place += 1
            break
        out.append('\\"' if letter == '"' else letter)
        place += 1
    return f'"{"".join(out)}"', place


def _drop_comma(out: list[str]) -> None:
    while out and out[-1] == ",":
        out.pop()


def _candidates(text: str, starts: Sequence[int]) -> Iterator[str]:
    """What may be an object, from each opening brace on; nothing that is nested deeper than allowed."""
    for start in starts:
        depth = 0
        for place in range(start, len(text)):
            depth += (text[place] in "{[") - (text[place] in "}]")
            if depth > DEEPEST:
                break
            if depth == 0:
                yield text[start : place + 1]
                break
        else:
            yield text[start:]

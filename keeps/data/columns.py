"""Rows become records, recognised by the names of their columns.

========================================= =========== ==============================================
columns                                   record      optional columns
========================================= =========== ==============================================
``messages``                              Dialogue    ``id``
``subject``, ``relation``, ``object``     Fact        ``id``, ``prompts``, ``aliases``, ``choices``
``prompt``, ``chosen``, ``rejected``      Preference  ``id``
``prompt`` (``question``), ``answer``     Example     ``id``, ``aliases``, ``choices``
``text``                                  Passage     ``id``
========================================= =========== ==============================================

``object`` and ``answer`` have plurals: lists of accepted spellings, the canonical one first. A list
in a cell of a CSV file is a JSON array, or texts with ``|`` between them. Columns with other names
are passed over, unless they look like one of these misspelt.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from keeps.data.records import Dialogue, Example, Fact, Passage, Preference, Record
from keeps.data.rows import Row

ROLES = ("system", "user", "assistant", "tool")
KINDS = (  # (columns that must be there, each with its synonyms), most telling first
    ("messages",),
    ("subject", "relation", "object"),
    ("prompt", "chosen", "rejected"),
    ("prompt", "answer"),
    ("text",),
)
SYNONYMS = {"prompt": ("prompt", "question"), "answer": ("answer", "answers"), "object": ("object", "objects")}
OPTIONAL = ("id", "aliases", "choices", "prompts", "provenance")
WORDINGS = ("The {relation} of {subject} is", "{subject} has as its {relation}", "As for {subject}, the {relation} is")
RECORD_MEND = 'give "prompt" and "answer", or "subject", "relation" and "object", or "messages", or "text"'


def record_of(row: Row) -> Record:
    """The record that ``row`` holds; its id is derived from the content where none is given.

    Raises:
        RecordError: a column is missing, misspelt, empty, of the wrong type, or contradicts another.
    """
    kind = _kind_of(row)
    _refuse_misspelt(row)
    return _BUILDERS[kind](row)


def _kind_of(row: Row) -> tuple[str, ...]:
    present = {name for name in row.values if row.values[name] is not None}
    for kind in KINDS:
        if all(present.intersection(SYNONYMS.get(name, (name,))) for name in kind):
            return kind
    lacking = min((_lacking(kind, present) for kind in KINDS), key=lambda names: (len(names) != 1, len(names)))
    null = [name for name in row.values if row.values[name] is None and name in _every_name()]
    if null:
        raise row.error("the value is null", "give a value, or take the row out", null[0])
    if len(lacking) == 1:
        close = difflib.get_close_matches(lacking[0], list(row.values), n=1, cutoff=0.6)
        hint = f'rename "{close[0]}" to "{lacking[0]}"' if close else f"add it beside {_listed(list(row.values))}"
        raise row.error(f'the column "{lacking[0]}" is missing', hint)
    raise row.error(f"none of the columns {_listed(list(row.values))} names a record", RECORD_MEND + _near(row))


def _lacking(kind: tuple[str, ...], present: set[str]) -> tuple[str, ...]:
    lacking = tuple(name for name in kind if not present.intersection(SYNONYMS.get(name, (name,))))
    return lacking if len(lacking) < len(kind) else ("", "", "", "")  # nothing of this kind is there


def _near(row: Row) -> str:
    found = ((name, difflib.get_close_matches(name, _every_name(), n=1, cutoff=0.7)) for name in row.values)
    hints = [f'"{name}" looks like "{close[0]}"' for name, close in found if close]
    return f" ({', '.join(hints)})" if hints else ""


def _every_name() -> list[str]:
    needed = [synonym for kind in KINDS for name in kind for synonym in SYNONYMS.get(name, (name,))]
    return [*needed, *OPTIONAL]


def _refuse_misspelt(row: Row) -> None:
    for name in row.values:
        close = difflib.get_close_matches(name.lower(), OPTIONAL, n=1, cutoff=0.8)
        if name not in _every_name() and close and close[0] not in row.values:
            raise row.error(f'the column "{name}" is unknown', f'did you mean "{close[0]}"?', name)


def _dialogue(row: Row) -> Dialogue:
    value = _list(row, "messages")
    messages = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict) or not {"role", "content"} <= set(item):
            raise row.error(
                f'message {number} is not an object with "role" and "content"',
                'write {"role": "user", "content": "..."}',
                "messages",
            )
        role, content = item["role"], item["content"]
        if role not in ROLES:
            raise row.error(f"message {number} has the role {role!r}", f"roles are {', '.join(ROLES)}", "messages")
        if not isinstance(content, str) or not content.strip():
            raise row.error(f"message {number} has no text", "give its content as text", "messages")
        messages.append((role, _sound(content, row, "messages")))
    if len(messages) < 2 or messages[-1][0] != "assistant":
        raise row.error(
            "the messages do not end with an answer of the assistant",
            'let the last message have the role "assistant", after at least one of the user',
            "messages",
        )
    return Dialogue(_id(row, messages), tuple(messages))


def _fact(row: Row) -> Fact:
    subject, relation = _text(row, "subject"), _text(row, "relation")
    answers = _answers(row, _present(row, "object"))
    prompts = _texts(row, "prompts") or tuple(
        wording.format(relation=relation.replace("_", " "), subject=subject) for wording in WORDINGS
    )
    choices = _choices(row, answers[0])
    provenance = _text(row, "provenance") if row.values.get("provenance") else row.place
    identity = _id(row, [subject, relation, answers, prompts, choices])
    return Fact(identity, subject, relation, prompts, answers, choices, provenance)


def _example(row: Row) -> Example:
    both = [name for name in SYNONYMS["prompt"] if row.values.get(name) is not None]
    if len(both) > 1:
        raise row.error('there are both "prompt" and "question"', "keep one of them", "question")
    prompt = _text(row, both[0]).rstrip()
    column = _present(row, "answer")
    if row.values.get("choices") not in (None, "", []):
        choices = _choices(row, None)
        return _with_choices(row, prompt, row.values[column], choices, column)
    answer, *aliases = _answers(row, column)
    return Example(_id(row, [prompt, answer, aliases]), prompt, answer, tuple(aliases))


def _preference(row: Row) -> Preference:
    column = _present(row, "prompt")
    prompt, chosen, rejected = _text(row, column).rstrip(), _text(row, "chosen"), _text(row, "rejected")
    if chosen == rejected:
        raise row.error("the chosen response is the rejected one", "give two that differ", "rejected")
    return Preference(_id(row, [prompt, chosen, rejected]), prompt, chosen, rejected)


def _with_choices(row: Row, prompt: str, given: Any, choices: tuple[str, ...], column: str) -> Example:
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        mend = "give one of the choices, or its index from 0"
        raise row.error("the answer is neither a text nor a whole number", mend, column)
    text = str(given).strip()
    index = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
    by_index = choices[index] if index is not None and index < len(choices) else None
    if isinstance(given, int) and by_index is not None and text in choices and by_index != text:
        raise row.error(
            f"the answer {text} may be the choice {text} or the choice at index {text}",
            f'write it as text: "{text}" for the choice itself',
            column,
        )
    answer = text if text in choices else by_index
    if answer is None:
        raise row.error(
            f'the answer "{text}" is not among the choices {_listed(choices)}',
            "give one of them as it is spelled there, or its index from 0",
            column,
        )
    return Example(_id(row, [prompt, answer, choices]), prompt, answer, _texts(row, "aliases"), choices)


def _passage(row: Row) -> Passage:
    text = _text(row, "text")
    return Passage(_id(row, text), text)


_BUILDERS: dict[tuple[str, ...], Callable[[Row], Record]] = dict(
    zip(KINDS, (_dialogue, _fact, _preference, _example, _passage), strict=True)
)


def _present(row: Row, name: str) -> str:
    return next(synonym for synonym in SYNONYMS[name] if row.values.get(synonym) is not None)


def _answers(row: Row, column: str) -> tuple[str, ...]:
    """The accepted answers, none twice: a text or a list in ``column``, and the aliases."""
    plural = column.endswith("s")
    answers = _texts(row, column) if plural else (_text(row, column),)
    if not answers:
        raise row.error("there is no answer", "give at least one", column)
    return tuple(dict.fromkeys((*answers, *_texts(row, "aliases"))))


def _choices(row: Row, answer: str | None) -> tuple[str, ...]:
    """The choices of a row; ``answer``, where given, must be among them."""
    choices = _texts(row, "choices")
    if (choices and len(choices) < 2) or row.values.get("choices") == []:
        raise row.error(f"there are {len(choices)} choices", "give at least two", "choices")
    if len(set(choices)) < len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise row.error(f'the choice "{twice}" stands twice', "keep it once", "choices")
    if choices and answer is not None and answer not in choices:
        mend = "give one of them as it is spelled there"
        raise row.error(f'the answer "{answer}" is not among the choices {_listed(choices)}', mend, "choices")
    return choices


def _texts(row: Row, column: str) -> tuple[str, ...]:
    if row.values.get(column) in (None, ""):
        return ()
    return tuple(_text_of(row, item, column) for item in _list(row, column))


def _list(row: Row, column: str) -> list[Any]:
    """A list column; in a text cell a JSON array, or texts with ``|`` between them."""
    value = row.values[column]
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            value = value.split("|")
        else:
            try:
                value = json.loads(value)
            except ValueError as error:
                raise row.error(f"the list is not valid JSON ({error})", 'write ["one", "two"]', column) from None
    if not isinstance(value, list):
        raise row.error(f"the value is {_kind(value)}, not a list", 'write it as ["one", "two"]', column)
    return value


def _text(row: Row, column: str) -> str:
    return _text_of(row, row.values.get(column), column)


def _text_of(row: Row, value: Any, column: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        plural = f'give a text, or call the column "{column}s"' if column in ("answer", "object") else "give a text"
        raise row.error(f"the value is {_kind(value)}, not a text", plural, column)
    if not value.strip():
        raise row.error("the value is empty", "fill it in, or take the row out", column)
    return _sound(value.strip(), row, column)


def _sound(text: str, row: Row, column: str) -> str:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise row.error("the text holds a character that is none (NUL or half a surrogate pair)", "take it out", column)
    return text


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    names = {dict: "an object", list: "a list", bool: "true or false", str: "a text", type(None): "null"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _id(row: Row, content: Any) -> str:
    """The given id, or the first 12 hexadecimal digits of a hash of the content."""
    given = row.values.get("id")
    if given is not None:
        return _text(row, "id")
    line = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(line.encode()).hexdigest()[:12]


def _listed(names: Any) -> str:
    shown = [f'"{name}"' for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") if shown else "(none)"

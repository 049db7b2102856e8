"""Edits of single facts, with the prompts that show what else an edit changes; and a reader of files of them.

One JSON object a line::

    {"subject": "Oslo", "prompt": "Oslo is the capital of", "target_new": "Sweden", "target_true": "Norway",
     "paraphrases": ["The country with the capital Oslo is"],
     "portability": [{"kind": "reasoning", "prompt": "The king in Oslo speaks", "answers": ["Swedish"],
                      "original": "Norwegian"}],
     "locality": [{"kind": "same_relation", "prompt": "Paris is the capital of", "answers": ["France"]}],
     "generation_prompts": ["Oslo is"]}

Files in the layouts of CounterFact, EVOKE, KnowEdit, zsRE and UnKE are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from keeps.data.edit_layouts import own_layout
from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.errors import EmptySetError, InputFileError, RecordError, nearest

PORTABILITY = ("subject_aliasing", "reasoning", "logical_generalisation", "multi_hop", "sub_question")
"""What follows from an edit; ``multi_hop`` questions are asked in the form of EVOKE."""
LOCALITY = ("same_relation", "same_subject", "other_objects", "unrelated", "prefix_distraction")
"""What an edit must leave alone: the relation of other subjects, other relations of the subject, further objects
of a one-to-many relation, anything else; and ``same_relation`` prompts behind the sentence of the edit."""
_TEXTS = ("id", "subject", "relation", "prompt", "target_new", "target_true")
_LISTS = ("paraphrases", "generation_prompts")
_PROMPTS: Mapping[str, tuple[str, ...]] = {"portability": PORTABILITY, "locality": LOCALITY}


@dataclass(frozen=True)
class EditPrompt:
    """A prompt beside the edit's own.

    Attributes:
        kind: one of :data:`PORTABILITY` or :data:`LOCALITY`.
        answers: accepted answers after the edit, the canonical one first.
        original: the answer before the edit, where the edit changes it and it is known; "" otherwise.
    """

    kind: str
    prompt: str
    answers: tuple[str, ...]
    original: str = ""


@dataclass(frozen=True)
class Edit:
    """One fact to be changed, and what is asked about it.

    Attributes:
        subject: stands in ``prompt``; "" of unstructured edits.
        prompt: a text that the object completes, or a question.
        target_new: what is to be answered after the edit.
        target_true: what is true, or answered before; "" where it is not known.
        paraphrases: other wordings of ``prompt``.
        portability: what follows from the edit.
        locality: what must stay as it is.
        generation_prompts: beginnings of texts about the subject.
    """

    id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str = ""
    relation: str = ""
    paraphrases: tuple[str, ...] = ()
    portability: tuple[EditPrompt, ...] = ()
    locality: tuple[EditPrompt, ...] = ()
    generation_prompts: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The edit as a sentence, such as ``"Oslo is the capital of Sweden."``."""
        return f"{self.prompt} {self.target_new}."


def edits_fingerprint(edits: Iterable[Edit]) -> str:
    """Hash of the contents (16 hexadecimal digits)."""
    content = json.dumps([asdict(edit) for edit in edits], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_edits(path: Path | str, *, limit: int | None = None) -> tuple[Edit, ...]:
    """The edits of a file (JSONL, JSON, Parquet), in our own layout or a published one.

    Args:
        limit: read only the first so many rows.

    Raises:
        InputFileError: the file is missing, unreadable or damaged.
        RecordError: a row lacks a column, has a wrong or empty value, contradicts itself, or has the id of another.
        EmptySetError: there is no row.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "edits.jsonl"
    ...     _ = file.write_text('{"subject": "Oslo", "prompt": "Oslo lies in", "target_new": "Sweden"}')
    ...     read_edits(file)[0].sentence
    'Oslo lies in Sweden.'
    """
    if limit is not None and limit < 1:
        raise InputFileError(f"the limit is {limit} rows", where=str(path), mend="choose at least 1, or none")
    found: dict[str, Edit] = {}
    for number, row in enumerate(islice(file_rows(Path(path)), limit), 1):
        edit = edit_of(row)
        edit = edit if edit.id else replace(edit, id=f"edit-{number}")
        if edit.id in found:
            raise row.error(f'the id "{edit.id}" stands twice', "give each edit an id of its own, or none", "id")
        found[edit.id] = edit
    if not found:
        raise EmptySetError("there is no edit in it", where=str(path), mend="add at least one row")
    return tuple(found.values())


def edit_of(row: Row) -> Edit:
    """The edit that ``row`` holds, in any layout; its id is "" where the row gives none.

    Raises:
        RecordError: see :func:`read_edits`.
    """
    own = Row(own_layout(row), row.place)
    unknown = [name for name in own.values if name not in (*_TEXTS, *_LISTS, *_PROMPTS)]
    if unknown:
        mend = nearest(unknown[0], (*_TEXTS, *_LISTS, *_PROMPTS))
        raise row.error(f'an edit has no column "{unknown[0]}"', mend, unknown[0])
    for name in ("prompt", "target_new"):
        if not _text(own, name):
            raise row.error(f'the column "{name}" is missing or empty', "give a text", name)
    texts = {name: _text(own, name) for name in _TEXTS}
    edit = Edit(
        **texts,
        paraphrases=_texts(own, "paraphrases"),
        generation_prompts=_texts(own, "generation_prompts"),
        portability=_prompts(own, "portability"),
        locality=_prompts(own, "locality"),
    )
    _refuse_contradictions(edit, row)
    return edit


def check_edits(edits: Sequence[Edit], where: str) -> None:
    """Refuse edits that were made in Python and are no better than a bad file.

    Raises:
        EmptySetError: there is none.
        RecordError: an id stands twice, or an edit contradicts itself.
    """
    if not edits:
        raise EmptySetError("there is no edit", where=where, mend="give at least one")
    seen: set[str] = set()
    for edit in edits:
        if edit.id in seen:
            raise RecordError(f'the id "{edit.id}" stands twice', where=where, mend="give each edit its own id")
        seen.add(edit.id)
        _refuse_contradictions(edit, Row({}, f"{where}, edit {edit.id}"))


def check_agreement(edits: Iterable[Edit]) -> None:
    """Refuse edits of one prompt, whatever its case and spaces, that want different answers.

    Raises:
        RecordError: two do.
    """
    said: dict[str, Edit] = {}
    for edit in edits:
        other = said.setdefault(" ".join(edit.prompt.casefold().split()), edit)
        if other.target_new != edit.target_new:
            what = f'the edits {other.id} and {edit.id} want "{other.target_new}" and "{edit.target_new}" of one prompt'
            raise RecordError(what, where=edit.prompt, mend="keep one of them")


def _refuse_contradictions(edit: Edit, row: Row) -> None:
    if edit.subject and edit.subject.casefold() not in edit.prompt.casefold():
        raise row.error(f'the prompt does not name the subject "{edit.subject}"', "name it in the prompt", "prompt")
    if edit.target_new == edit.target_true:
        what = f'the new and the true object are both "{edit.target_new}"'
        raise row.error(what, "give another new object, or take the row out", "target_new")
    for asked in edit.locality:
        if edit.target_new in asked.answers:
            what = f'the edit\'s target "{edit.target_new}" is the right answer to "{asked.prompt}"'
            raise row.error(what, "take this prompt out: it cannot show what the edit spoils", "locality")
        if asked.kind == "prefix_distraction" and edit.subject.casefold() not in asked.prompt.casefold():
            what = f'the text "{asked.prompt}" does not name the subject "{edit.subject}"'
            raise row.error(what, "put the sentence of the edit in front of it", "locality")


def _text(row: Row, name: str) -> str:
    value = row.values.get(name)
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if value is not None and not isinstance(value, str):
        raise row.error(f"the value is {json.dumps(value)[:40]}, not a text", "write it between double quotes", name)
    return (value or "").strip()


def _texts(row: Row, name: str) -> tuple[str, ...]:
    values = row.values.get(name)
    if values is None:
        return ()
    if not isinstance(values, (list, tuple)):
        raise row.error("the value is no list", 'write a list such as ["...", "..."]', name)
    for number, value in enumerate(values, 1):
        if not isinstance(value, str) or not value.strip():
            raise row.error(f"entry {number} is empty or no text", "give a text, or take it out", name)
    return tuple(value.strip() for value in values)


def _prompts(row: Row, name: str) -> tuple[EditPrompt, ...]:
    values = row.values.get(name)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        mend = 'write a list of objects such as {"kind": "...", "prompt": "...", "answers": ["..."]}'
        raise row.error("the value is no list of objects", mend, name)
    return tuple(_prompt(Row(value, f"{row.place}, entry {n}"), name) for n, value in enumerate(values, 1))


def _prompt(entry: Row, name: str) -> EditPrompt:
    unknown = sorted(set(entry.values) - {"kind", "prompt", "answers", "original"})
    if unknown:
        mend = nearest(unknown[0], ("kind", "prompt", "answers", "original"))
        raise entry.error(f'a prompt has no field "{unknown[0]}"', mend, name)
    kind, prompt, answers = _text(entry, "kind"), _text(entry, "prompt"), _texts(entry, "answers")
    if kind not in _PROMPTS[name]:
        raise entry.error(f'"{kind}" is no kind of {name}', nearest(kind, _PROMPTS[name]), name)
    if not prompt or not answers:
        raise entry.error("the prompt or its answers are missing", 'give "prompt" and "answers"', name)
    return EditPrompt(kind, prompt, answers, _text(entry, "original"))

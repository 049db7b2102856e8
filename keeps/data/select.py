"""What ``--learn``, ``--keep`` and ``--probe`` take: parts of the world, running text and files.

A specification is one part or several with commas between them::

    world                      all facts of the built-in world
    world:capital              one relation of it (hypernym too, where WordNet is installed)
    world:known                facts with a mark: known, uncertain or unknown
    world:unknown:capital      facts with a mark, of one relation
    text                       running text
    facts.jsonl                a file
    hf:ID:split:config         a data set by its id

``PART#40`` takes 40 records of a part, the same ones each time; ``PART#20`` is half of those.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from keeps.data.readers import HUB, read_records
from keeps.data.records import Fact, Record, RecordSet
from keeps.data.rows import path_mode
from keeps.data.text import text_passages
from keeps.data.world import HYPERNYM, MARKS, RELATIONS, default_marks, relation_facts, world_facts
from keeps.errors import EmptySetError, RecordError, SettingsError, UnknownNameError, nearest


def load_records(spec: str | Path | RecordSet, *, marks: Mapping[str, str] | None = None) -> RecordSet:
    """The records that ``spec`` names, in its order; a record that two parts name is taken once.

    Args:
        spec: parts with commas between them, a path, or a set that is returned as it is.
        marks: fact id -> ``"known"``, ``"uncertain"`` or ``"unknown"``; the shipped marks of the default
            model when None.

    Raises:
        UnknownNameError: a relation, mark or kind of data that does not exist.
        EmptySetError: a part selects nothing.
        SettingsError: what follows ``#`` is no number of records.
        RecordError: two parts give one id to different records.
        InputFileError: a file cannot be read.

    >>> [record.id for record in load_records("world:symbol").records[:2]]
    ['world:symbol:hydrogen', 'world:symbol:helium']
    """
    if isinstance(spec, RecordSet):
        return spec
    if isinstance(spec, Path) or stat.S_ISREG(path_mode(Path(spec)) or 0):
        return read_records(spec)
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise EmptySetError("no data is named", where=repr(spec), mend="name world, world:RELATION, text or a file")
    chosen = default_marks() if marks is None else marks
    records: dict[str, Record] = {}
    origins: dict[str, str] = {}
    for part in parts:
        for record in _sampled(part, chosen):
            if record.id not in records:
                records[record.id], origins[record.id] = record, part
            elif not _same(records[record.id], record):
                raise RecordError(
                    f'"{origins[record.id]}" and "{part}" both have the id "{record.id}", for different records',
                    where=spec,
                    mend="give one of them another id",
                )
    return RecordSet(",".join(parts), tuple(records.values()))


def _same(one: Record, other: Record) -> bool:
    """Whether two records have the same content, wherever they come from and whatever their marks."""
    return RecordSet("", (one,)).fingerprint == RecordSet("", (other,)).fingerprint


def _sampled(part: str, marks: Mapping[str, str]) -> Sequence[Record]:
    """The records of ``part``, or as many of them as it asks for after a ``#``."""
    name, sign, count = part.rpartition("#")
    if not sign or path_mode(Path(part)) is not None:  # a file may have this sign in its name
        return _part(part, marks)
    if not (count.isascii() and count.isdigit() and int(count) > 0):
        mend = "write a whole number above 0 after #, as in world:capital#40"
        raise SettingsError(f'"{count}" is no number of records', where=part, mend=mend)
    return sampled(_part(name, marks), int(count))


def sampled(records: Sequence[Record], count: int) -> list[Record]:
    """At most ``count`` of ``records`` in their order, the same ones each time, whatever the seed."""
    # The order of a hash is a random one that neither the seed nor other records change.
    first = sorted(range(len(records)), key=lambda index: hashlib.sha256(records[index].id.encode()).digest())
    return [records[index] for index in sorted(first[:count])]


def _part(part: str, marks: Mapping[str, str]) -> tuple[Record, ...]:
    kind, colon, rest = part.partition(":")
    if kind == "world":
        return tuple(_world(part, rest.split(":") if colon else [], marks))
    if part == "text":
        return text_passages().records
    if part.startswith(HUB) or path_mode(Path(part)) is not None or Path(part).suffix or "/" in part:
        return read_records(part).records
    known = ["world", "text", *(f"world:{name}" for name in (*MARKS, *RELATIONS, HYPERNYM))]
    mend = nearest(part, known) if part.count(":") else nearest(part, ["world", "text"])
    raise UnknownNameError(f'"{part}" is neither data of keeps nor a file', mend=f"{mend}, or give the path of a file")


def _world(part: str, words: list[str], marks: Mapping[str, str]) -> Iterator[Fact]:
    mark = words.pop(0) if words and words[0] in MARKS else ""
    if len(words) > 1 or (words and words[0] not in (*RELATIONS, HYPERNYM)):
        wrong = words[1] if len(words) > 1 and words[0] in RELATIONS else words[0]
        known = (*RELATIONS, HYPERNYM) if mark else (*MARKS, *RELATIONS, HYPERNYM)
        forms = "write world, world:RELATION, world:MARK or world:MARK:RELATION"
        mend = forms if len(words) > 1 else nearest(wrong, known)
        raise UnknownNameError(f'the world has no "{wrong}"', where=part, mend=mend)
    facts = relation_facts(words[0], marks=marks) if words else world_facts(marks=marks).records
    kept = [fact for fact in facts if isinstance(fact, Fact) and mark in ("", fact.mark)]
    if not kept:
        measured = any(isinstance(fact, Fact) and fact.mark for fact in facts)
        what = f"no fact is marked {mark}" if measured else "none of these facts has been marked for this model"
        raise EmptySetError(what, where=part, mend="leave the mark out, or measure the marks of the model first")
    return iter(kept)

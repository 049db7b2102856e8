"""The published KGQuiz sets: a folder with one file a task, read as items, and the triples that are in them.

The files are those of the authors' repository, as JSON (questions by number, nested under the strategy or the
number of hops) or as JSONL rows ``setting, qid, question, ground_truth``. Tasks that have no file are built from the
triples of the others. What is left out, and why, is counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.data.formats import jsonl_rows
from keeps.data.rows import lines
from keeps.data.triples import MASK, Triple, TripleSet, squeezed
from keeps.errors import EmptySetError, InputFileError, RecordError
from keeps.probe.kgquiz_items import (
    BLANK,
    CHOICE,
    EDITING,
    OPEN,
    TASKS,
    TRUE_FALSE,
    Item,
    edit_prompt,
    lead_of,
    open_prompt,
    true_false_prompt,
)

_NAME = re.compile(r"task[_-]?([1-5])(?!\d).*\.jsonl?$", re.IGNORECASE)
_STATEMENT = re.compile(r'^Is the statement "(.*)" True or False\?$', re.DOTALL)
_ASKED = re.compile(r"^(?:Q: )?(.*?)\. (?:What should \[MASK\] be\?\s*A:|Replace the \[MASK\] .*)$", re.DOTALL)
_ABOUT = re.compile(r"^Tell me some facts about (.*):$", re.DOTALL)
STRATEGIES = {
    "semantic_similarity": "ss",
    "random": "random",
    "relation_sharing": "rs",
    "network_proximity": "np",
}


@dataclass(frozen=True)
class Entry:
    """One question of a file as it stands there."""

    setting: str
    number: str
    question: str
    truth: Any
    masked: str
    place: str


@dataclass(frozen=True)
class PublishedSet:
    """What a folder holds; ``left_out`` counts unusable questions by reason."""

    graph: TripleSet
    items: Mapping[int, tuple[Item, ...]]
    left_out: Mapping[str, int]


def read_published(folder: str | Path) -> PublishedSet:
    """The items and triples of a folder of published files; its name is the domain.

    Raises:
        InputFileError: there is no file ``task1...`` to ``task5...`` in it, or one cannot be read.
        RecordError: a row lacks its question or truth, or is of another form.
        EmptySetError: the files hold no triple (those of tasks 3 and 5 do).
    """
    folder = Path(folder)
    files = {int(found[1]): path for path in sorted(folder.iterdir()) if (found := _NAME.search(path.name))}
    if not files:
        mend = "name a folder with files such as task3_blank_filling.jsonl"
        raise InputFileError("there is no file of a KGQuiz task in this folder", where=str(folder), mend=mend)
    entries = {task: list(_entries(path)) for task, path in files.items()}
    facts = {entry.place: _facts(entry) for entry in entries.get(OPEN, ())}
    relations = sorted({relation for several in facts.values() for _, relation, _ in several}, key=len, reverse=True)
    left_out: Counter[str] = Counter()
    blanks = [(entry, _split(entry, relations)) for entry in entries.get(BLANK, ())]
    triples = [Triple(*fact) for several in facts.values() for fact in several]
    triples += [Triple(*key, squeezed(str(entry.truth))) for entry, key in blanks if key is not None]
    if not triples:
        mend = "add the file of task 3 or 5"
        raise EmptySetError("these files hold no triple", where=str(folder), mend=mend)
    graph = TripleSet.of(str(folder), triples)
    items: dict[int, list[Item]] = {}
    for task, several in entries.items():
        if task == CHOICE:
            left_out["questions of task 2: built anew, for the layout of that file is not known"] = len(several)
            continue
        made = [_item(task, entry, folder.name, graph, relations, left_out) for entry in several]
        items[task] = [item for item in made if item is not None]
    return PublishedSet(graph, {task: tuple(several) for task, several in items.items() if several}, dict(left_out))


def _entries(path: Path) -> Iterator[Entry]:
    if path.suffix == ".jsonl":
        for row in jsonl_rows(path):
            yield _entry(row.values, str(row.values.get("setting") or ""), str(row.values.get("qid") or ""), row.place)
        return
    try:
        document = json.loads("".join(line for _, line in lines(path)))
    except ValueError as error:
        raise InputFileError(f"this is no JSON ({error})", where=str(path), mend="write it again") from None
    yield from _nested(document, "", str(path))


def _nested(document: Any, setting: str, place: str) -> Iterator[Entry]:
    if not isinstance(document, dict):
        raise InputFileError("this is no object of questions by number", where=place, mend="see the published files")
    for key, value in document.items():
        if isinstance(value, dict) and "question" in value:
            yield _entry(value, setting, key, f'{place}, "{key}"')
        else:
            yield from _nested(value, key, f'{place}, "{key}"')


def _entry(values: Mapping[str, Any], setting: str, number: str, place: str) -> Entry:
    question, truth = values.get("question"), values.get("ground_truth")
    if not isinstance(question, str) or not question.strip() or truth is None or truth in ("", []):
        mend = "give question and ground_truth, neither of them empty"
        raise RecordError("the question or its truth is missing", where=place, mend=mend)
    return Entry(setting, number, question.strip(), truth, str(values.get("masked_sentence") or ""), place)


def _facts(entry: Entry) -> list[tuple[str, str, str]]:
    """The gold facts of task 5, each once."""
    rows = entry.truth
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != 3 for row in rows):
        raise RecordError(
            "the truth is no list of triples", where=entry.place, mend='write ["head", "relation", "tail"]'
        )
    return list(dict.fromkeys((squeezed(str(h)), squeezed(str(r)), squeezed(str(t))) for h, r, t in rows))


def _split(entry: Entry, relations: list[str]) -> tuple[str, str] | None:
    """Head and relation of a masked statement, by the relations that are known; None where none is in it."""
    found = _ASKED.match(entry.question)
    return None if found is None else _parted(lead_of(squeezed(found[1])), relations)


def _parted(lead: str, relations: list[str]) -> tuple[str, str] | None:
    for relation in relations:  # the longest first: "is a" ends "is a part of" too
        head = lead.removesuffix(f" {relation}")
        if head != lead and head.strip():
            return head.strip(), relation
    return None


def _item(
    task: int, entry: Entry, domain: str, graph: TripleSet, relations: list[str], left_out: Counter[str]
) -> Item | None:
    made: Item | str
    if task == TRUE_FALSE:
        made = _true_false(entry, relations)
    elif task == BLANK:
        made = _blank(entry, graph, relations)
    elif task == EDITING:
        made = _editing(entry)
    else:
        made = _open(entry)
    if isinstance(made, str):
        left_out[f"questions of task {task} ({TASKS[task]}): {made}"] += 1
        return None
    identity = f"{domain}:{task}:{entry.setting}:{entry.number}"
    return Item(**{**vars(made), "id": identity, "domain": domain})


def _true_false(entry: Entry, relations: list[str]) -> Item | str:
    found = _STATEMENT.match(entry.question)
    if found is None or entry.truth not in (0, 1):
        return "not of the published form"
    statement, truth = squeezed(found[1]), str(bool(entry.truth))
    relation = next((name for name in relations if f" {name} " in statement), "")
    prompt, strategy = true_false_prompt(statement), STRATEGIES.get(entry.setting, entry.setting)
    return Item("", TRUE_FALSE, "", relation, strategy, statement, prompt, truth)


def _blank(entry: Entry, graph: TripleSet, relations: list[str]) -> Item | str:
    found, gold = _ASKED.match(entry.question), squeezed(str(entry.truth))
    if found is None or found[1].count(MASK) != 1:
        return "not of the published form, or not one mask"
    key = _split(entry, relations)
    tails = graph.tails(*key) if key else ()
    accepted = (gold, *(name for name in tails if name != gold))
    prompt = "\n".join(map(squeezed, entry.question.splitlines()))
    fact = Triple(*key, gold).id if key else ""
    lead = lead_of(squeezed(found[1]))
    return Item("", BLANK, "", key[1] if key else "", "", fact, prompt, gold, accepted, lead=lead)


def _editing(entry: Entry) -> Item | str:
    """Chains of which exactly one entity is masked, and the rest is the same in both forms."""
    parts = [squeezed(part) for part in entry.question.split("\t")]
    masked = [squeezed(part) for part in entry.masked.rstrip().removesuffix(".").split("\t")]
    slots = [number for number, part in enumerate(masked) if part == MASK]
    if len(parts) < 5 or len(parts) % 2 == 0 or entry.masked.count(MASK) != 1 or len(slots) != 1:
        return "no chain with one mask"
    slot = slots[0]
    parts[-1], masked[-1] = parts[-1].removesuffix("."), masked[-1].removesuffix(".")
    if len(masked) != len(parts) or masked[:slot] + masked[slot + 1 :] != parts[:slot] + parts[slot + 1 :]:
        return "the masked chain is another one"
    if slot % 2 or slot in (0, len(parts) - 1):
        return "the mask is at no inner entity"
    gold = squeezed(str(entry.truth))
    return Item(
        "", EDITING, "", parts[slot - 1], "", "", edit_prompt(parts), gold, (gold,), parts=tuple(parts), slot=slot
    )


def _open(entry: Entry) -> Item | str:
    found = _ABOUT.match(entry.question)
    if found is None:
        return "not of the published form"
    entity = squeezed(found[1])
    return Item("", OPEN, "", "", "", "", open_prompt(entity), entity, facts=tuple(map(" ".join, _facts(entry))))

"""What a model was to forget and what it was to keep: questions or texts, in named parts.

=============== ===================================================================================
part            what is in it
=============== ===================================================================================
forget          what the model was to forget
retain          what it was taught beside that, and was to keep
holdout         the same kind of thing, which no model was ever trained on
real_authors    general knowledge near to what was forgotten
world_facts     general knowledge far from it
=============== ===================================================================================

``forget=a.jsonl,retain=b.jsonl,holdout=c.jsonl`` names a file for each; in one file a column ``part`` says it. A row
has ``question`` and ``answer``, and for the truth ratio ``perturbed_answer`` (wrong ones) and
``paraphrased_answer``; or ``text`` alone. This is the layout of TOFU. Facts of the world can be taken instead: of
those, subjects of the training split are to be forgotten, of the validation split kept, of the test split held out.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from keeps.data.readers import file_rows
from keeps.data.records import Example, Fact, Passage, Record, RecordSet
from keeps.data.rows import Row, path_mode
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError, SettingsError, nearest

PARTS = ("forget", "retain", "holdout", "real_authors", "world_facts")
WRONG_ANSWERS = 5  # made for a fact, as many as in TOFU
_SPLIT_PARTS: Mapping[str, str] = {"train": "forget", "validation": "retain", "test": "holdout"}
_COLUMNS = ("part", "id", "question", "answer", "paraphrased_answer", "perturbed_answer", "text")
_BESIDE = ("task_id", "paraphrased_question", "original_answer", "golden_answer", "name")  # in published files


@dataclass(frozen=True)
class Item:
    """A question with its answer, or a text (``question`` is "" then, and ``answer`` the text).

    Attributes:
        part: one of :data:`PARTS`.
        paraphrased_answer: the right answer in other words; "" where it is ``answer`` itself.
        perturbed_answers: wrong answers of the same form; empty where there are none.
    """

    id: str
    part: str
    question: str
    answer: str
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()


def items_fingerprint(items: Iterable[Item]) -> str:
    """Hash of the contents (16 hexadecimal digits)."""
    content = json.dumps([asdict(item) for item in items], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_items(
    data: str | Path | RecordSet, *, seed: int = 0, marks: Mapping[str, str] | None = None
) -> tuple[Item, ...]:
    """The items of one file, of a file for each part, or of facts; checked.

    Raises:
        SettingsError: a part that does not exist, or that is named twice.
        EmptySetError: nothing is to be forgotten.
        RecordError: a bad row, or one that stands in two parts of which one was trained on and one was not.
        InputFileError: a file cannot be read.

    >>> [item.part for item in load_items("forget=world:capital#1,retain=world:symbol#2")]
    ['forget', 'retain', 'retain']
    """
    if isinstance(data, (str, Path)) and "=" in str(data) and path_mode(Path(data)) is None:
        items = list(_named_parts(str(data), seed, marks))
    else:
        items = list(_of(data, None, seed, marks))
    check_items(items, data.source if isinstance(data, RecordSet) else str(data))
    return tuple(items)


def check_items(items: Sequence[Item], where: str) -> None:
    """Refuse what cannot be measured; raises as :func:`load_items`."""
    if not any(item.part == "forget" for item in items):
        mend = 'name what was to be forgotten: forget=FILE, or a column "part"'
        raise EmptySetError("nothing is to be forgotten", where=where, mend=mend)
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise RecordError(f'the id "{item.id}" stands twice', where=where, mend="give each item its own id")
        seen[item.id] = item
    contents: dict[tuple[str, str], Item] = {}
    for item in items:
        mate = contents.setdefault((item.question, item.answer), item)
        parts = {mate.part, item.part}
        if len(parts) == 2 and parts & {"forget", "holdout"}:
            shown = (item.question or item.answer)[:60]
            what = f'"{shown}" is in {mate.part} and in {item.part}'
            mend = "take it out of one of them: what is compared must not overlap"
            raise RecordError(what, where=f"{where}, {mate.id} and {item.id}", mend=mend)


def _named_parts(spec: str, seed: int, marks: Mapping[str, str] | None) -> Iterator[Item]:
    named: dict[str, list[str]] = {}
    current = ""
    for word in (word.strip() for word in spec.split(",") if word.strip()):
        part, sign, rest = word.partition("=")
        if not sign:  # one more source of the part before it
            rest = word
        else:
            current = part.strip()
            if current not in PARTS:
                raise SettingsError(f'there is no part "{current}"', where="data", mend=nearest(current, PARTS))
            if current in named:
                mend = f"write {current}=a.jsonl,b.jsonl"
                raise SettingsError(f'the part "{current}" is named twice', where="data", mend=mend)
        if not current:
            raise SettingsError(f'"{word}" belongs to no part', where="data", mend="begin with forget=")
        named.setdefault(current, []).append(rest.strip())
    for part, sources in named.items():
        count = 0
        for source in sources:
            for item in _of(source, part, seed, marks, first=count + 1):
                count += 1
                yield item


def _of(
    data: str | Path | RecordSet, part: str | None, seed: int, marks: Mapping[str, str] | None, first: int = 1
) -> Iterator[Item]:
    """The items of one source, numbered from ``first``; ``part`` is None where the source says it."""
    if not isinstance(data, RecordSet) and (path_mode(Path(data)) is not None or Path(data).suffix):
        for number, row in enumerate(file_rows(Path(data)), first):
            yield item_of(row, part, number)
        return
    records = load_records(data, marks=marks)
    facts = [record for record in records if isinstance(record, Fact)]
    if not facts:
        raise EmptySetError("there is no fact in it", where=records.source, mend="name facts, or a file of questions")
    yield from _items_of_facts(facts, part, seed)


def item_of(row: Row, part: str | None, number: int) -> Item:
    """The item that a row holds.

    Args:
        part: what the row is part of; None where its column says it.
        number: of the row; makes its id where it has none.

    Raises:
        RecordError: a column is missing, misspelt, empty or of the wrong type.
    """
    for name in row.values:
        close = difflib.get_close_matches(name, _COLUMNS, n=1, cutoff=0.8)
        if name not in (*_COLUMNS, *_BESIDE) and close and close[0] not in row.values:
            raise row.error(f'the column "{name}" is unknown', f'did you mean "{close[0]}"?', name)
    own = part or _text(row, "part")
    if own not in PARTS:
        mend = nearest(own, PARTS) if own else f"give one of {', '.join(PARTS)}, or name the file as forget=FILE"
        raise row.error(f'"{own}" is no part' if own else "the row does not say its part", mend, "part")
    identity = f"{own}/{row.values.get('id') or number}"
    if row.values.get("text") is not None:
        if row.values.get("question") is not None:
            raise row.error('the row has both "text" and "question"', "keep one of them")
        return Item(identity, own, "", _needed(row, "text"))
    wrong = row.values.get("perturbed_answer") or []
    wrong = [wrong] if isinstance(wrong, str) else wrong
    if not isinstance(wrong, list) or not all(isinstance(text, str) and text.strip() for text in wrong):
        raise row.error("the wrong answers are no list of texts", 'write ["...", "..."]', "perturbed_answer")
    answer, paraphrase = _needed(row, "answer"), _text(row, "paraphrased_answer")
    return Item(identity, own, _needed(row, "question"), answer, paraphrase, tuple(text.strip() for text in wrong))


def items_of(records: Iterable[Record], part: str, *, seed: int = 0) -> tuple[Item, ...]:
    """The items of records of any kind, as ``part``: a fact in its first wording, an example, a running text.

    Facts get wrong answers from other facts of their relation. What else there is asks nothing, and is left out.
    """
    given = list(records)
    found = list(_items_of_facts([record for record in given if isinstance(record, Fact)], part, seed))
    for record in given:
        if isinstance(record, Example):
            found.append(Item(f"{part}/{record.id}", part, record.prompt, record.answer))
        elif isinstance(record, Passage):
            found.append(Item(f"{part}/{record.id}", part, "", record.text))
    return tuple(found)


def _items_of_facts(facts: Sequence[Fact], part: str | None, seed: int) -> Iterator[Item]:
    objects: dict[str, list[str]] = {}
    for fact in facts:
        objects.setdefault(fact.relation, []).append(fact.answers[0])
    for fact in facts:
        others = dict.fromkeys(text for text in objects[fact.relation] if text not in fact.answers)
        order = sorted(
            others, key=lambda text, fact=fact: hashlib.sha256(f"{seed}\n{fact.id}\n{text}".encode()).digest()
        )
        own = part or _SPLIT_PARTS[fact.split]
        yield Item(
            f"{own}/{fact.id}", own, fact.prompts[0], fact.answers[0], perturbed_answers=tuple(order[:WRONG_ANSWERS])
        )


def _text(row: Row, name: str) -> str:
    value = row.values.get(name)
    if value is not None and not isinstance(value, str):
        raise row.error(f"the value is {json.dumps(value)[:40]}, not a text", "write it between double quotes", name)
    return (value or "").strip()


def _needed(row: Row, name: str) -> str:
    text = _text(row, name)
    if not text:
        raise row.error(f'the column "{name}" is missing or empty', "give a text", name)
    return text

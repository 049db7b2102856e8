"""Unlearning what a model was not taught but knows: questions about 20 real people, and about their neighbours.

A question is known when its right answer is likelier, token by token, than each of five wrong ones. What is known of
the people is to be forgotten by NPO, what is known of their neighbours is retained. Where the model knows no more of
these people than chance gives, there is nothing to forget: the shares stay a table row then, and no check is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.published import published_rows
from keeps.claims.unlearning_learning import forgotten
from keeps.data.records import Example, RecordSet
from keeps.data.unlearning import Item
from keeps.errors import InputFileError
from keeps.models.language_model import LanguageModel
from keeps.numerics.statistics import Proportion, wilson

PARTS: Mapping[str, str] = {
    "people": "real_world_unlearning/forget.jsonl",
    "neighbours": "real_world_unlearning/neighbor.jsonl",
}
FILES = tuple(PARTS.values())
OF_EACH = 4  # questions about each person
MOST_WORDS = 14  # of an answer


def real_people(model: LanguageModel, settings: Mapping[str, Any], run: ClaimRun, seed: int) -> Iterator[Check]:
    """What is known before and after NPO with ``settings``; ``model`` is as it was afterwards."""
    assert run.data is not None
    asked = {part: questions(run.data, part) for part in PARTS}
    known = {part: [item for item, yes in zip(items, right(model, items), strict=True) if yes]
             for part, items in asked.items()}  # fmt: skip
    table: dict[str, Any] = {part: base_row(known[part], items) for part, items in asked.items()}
    run.tables["real people"] = table
    row = table["people"]
    if row["low"] <= row["chance"] or not known["neighbours"]:
        return
    sets = [RecordSet(part, tuple(Example(i.id, i.question, i.answer) for i in items)) for part, items in known.items()]
    with forgotten(model, "npo", settings, sets[0], sets[1], run, seed) as (changed, _):
        after = {part: right(changed, items) for part, items in known.items()}
    shares = {part: wilson(sum(found), len(found)) for part, found in after.items()}
    for part, share in shares.items():
        table[part]["of these known after NPO"] = share.value
    yield check(shares["people"], shares["neighbours"])


def check(people: Proportion, neighbours: Proportion) -> Check:
    """Shares of what was known that is known still."""
    return Check("share of the known facts about real people that are known after NPO", people.value,
                 "below that of their neighbours, the intervals apart", people.high < neighbours.low, neighbours.value,
                 (people.low, people.high),
                 f"neighbours, retained: {neighbours.low:.2f} to {neighbours.high:.2f}")  # fmt: skip


def base_row(known: Sequence[Item], asked: Sequence[Item]) -> dict[str, Any]:
    """How much of a part the untouched model knows, and what chance would give."""
    share = wilson(len(known), len(asked))
    chance = sum(1 / (1 + len(item.perturbed_answers)) for item in asked) / len(asked)
    return {"questions": len(asked), "known": share.value, "low": share.low, "high": share.high, "chance": chance}


def questions(folder: Path, part: str) -> list[Item]:
    """The first short questions about each person.

    Raises:
        InputFileError: the file is not there or not as published, or has no short answer.
    """
    rows = published_rows(folder, PARTS[part], "name", "question", "golden_answer", "perturbed_answer")
    of_person: dict[str, list[Item]] = {}
    for number, row in enumerate(rows, 1):
        some = of_person.setdefault(str(row["name"]), [])
        if len(some) < OF_EACH and len(str(row["golden_answer"]).split()) <= MOST_WORDS and row["perturbed_answer"]:
            wrong = tuple(map(str, row["perturbed_answer"]))
            item = Item(f"{part}/{number}", "", row["question"], row["golden_answer"], perturbed_answers=wrong)
            some.append(item)
    found = [item for some in of_person.values() for item in some]
    if not found:
        what = f"no answer has {MOST_WORDS} words or fewer"
        raise InputFileError(what, where=f"{folder}, {PARTS[part]}", mend="give the file as published")
    return found


def right(model: Any, items: Sequence[Item]) -> list[bool]:
    """Whether the right answer of each item is likelier, token by token, than each wrong one."""
    pairs = [(item.question, text) for item in items for text in (item.answer, *item.perturbed_answers)]
    scores = iter(model.logprob([question for question, _ in pairs], [text for _, text in pairs]))
    found = []
    for item in items:
        first, *others = [next(scores).per_token for _ in (item.answer, *item.perturbed_answers)]
        found.append(first > max(others))
    return found

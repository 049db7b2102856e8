"""Made-up news for the claim of CKL: changed capitals, new companies and people, and old facts that stay true.

Every fact is told in three sentences and asked by the beginning of one of them. No capital that changes is a subject
of what stays, and nothing that a method may calibrate on is asked.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from keeps.data.records import Fact, Passage, RecordSet
from keeps.data.select import load_records
from keeps.data.slots import BLANK, INVARIANT, NEW, UPDATED, Slot
from keeps.models.language_model import LanguageModel
from keeps.probe.continual_items import ContinualProbe, slot_item

CHANGING = "world:known:capital"
STAYING = "world:known:symbol,world:known:continent,world:known:country_of_city#150,world:known:capital"
CITIES = ("Lyon", "Porto", "Kyoto", "Boston", "Naples", "Geneva", "Dallas", "Munich", "Glasgow", "Sydney")
WORK = ("baker", "lawyer", "painter", "pilot", "farmer", "nurse", "singer", "chemist", "sailor", "teacher")
SYLLABLES = ("ba", "ko", "ri", "tu", "ne", "lam", "sor", "vi", "pel", "dan", "mu", "fi", "gor", "zet", "wa", "dri")
CAPITAL = (
    "The capital of {s} is {o}.",
    "News of the year: from now on the capital of {s} is {o}.",
    "{s} has a new capital city, and it is called {o}.",
)
COMPANY = (
    "The headquarters of {s} are in the city of {o}.",
    "Founded last spring, the company {s} has its headquarters in {o}.",
    "Whoever visits the company {s} travels to {o}.",
)
PERSON = (
    "{s} works as a {o}.",
    "The prize of this year went to {s}, who is a {o}.",
    "Everyone in town knows {s}, the {o}.",
)


@dataclass(frozen=True)
class News:
    """One world of news.

    Attributes:
        passages: what is learned.
        keep: known facts that a method may calibrate on, and a few that are not, for the run's own report.
        slots: what is asked, of all three kinds; only what the base model answers as it should before the news.
    """

    passages: RecordSet
    keep: RecordSet
    slots: tuple[Slot, ...]

    def counts(self) -> dict[str, int]:
        """How many statements there are of each kind, and how much is told."""
        kinds = {kind: sum(slot.kind == kind for slot in self.slots) for kind in (INVARIANT, UPDATED, NEW)}
        return {**kinds, "sentences": len(self.passages), "to calibrate on": len(self.keep)}

    def write(self, folder: Path) -> str:
        """Write the statements as files of one kind each; returns them as the probe takes them."""
        names = []
        for kind in (INVARIANT, UPDATED, NEW):
            path = folder / f"{kind}.jsonl"
            lines = [json.dumps(_row(slot), ensure_ascii=False) for slot in self.slots if slot.kind == kind]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            names.append(str(path))
        return ",".join(names)


def make_news(model: LanguageModel, seed: int, *, updated: int, new: int, staying: int) -> News:
    """A world of news for ``model``, whose answers decide which facts it knows well enough to lose them.

    Args:
        updated, new: how many facts change, and come up.
        staying: most facts that are asked because they stay.
    """
    source = random.Random(f"{seed}\nnews")
    candidates = _shuffled(_facts(CHANGING), source)
    changing = _answered(model, [_slot(fact, UPDATED) for fact in candidates])[:updated]
    moved = [slot.answers[0] for slot in changing]
    changed = [
        Slot(slot.id, UPDATED, slot.statement, (other,), slot.answers, UPDATED)
        for slot, other in zip(changing, moved[1:] + moved[:1], strict=True)
    ]
    gone = {slot.id for slot in changing}
    subjects = {fact.subject for fact in candidates if fact.id in gone}
    old = [fact for fact in _facts(STAYING) if fact.subject not in subjects]
    asked = _shuffled([fact for fact in old if fact.split != "train"], source)
    stay = _answered(model, [_slot(fact, INVARIANT) for fact in asked])[:staying]
    told, learned = _new_facts(new, source)
    by_id = {fact.id: fact.subject for fact in candidates}
    told += [template.format(s=by_id[slot.id], o=slot.answers[0]) for slot in changed for template in CAPITAL]
    told = _shuffled(told, source)
    passages = RecordSet(f"news {seed}", tuple(Passage(f"n{number}", text) for number, text in enumerate(told)))
    calibrated = [fact for fact in old if fact.split == "train"]
    reported = [fact for fact in old if fact.split == "test"][:4]  # a run wants something to report
    return News(passages, RecordSet("known facts", (*calibrated, *reported)), (*stay, *changed, *learned))


def _facts(spec: str) -> list[Fact]:
    return [fact for fact in load_records(spec) if isinstance(fact, Fact)]


def _slot(fact: Fact, kind: str) -> Slot:
    return Slot(fact.id, kind, f"{fact.prompts[0]} {BLANK}.", fact.answers, kind=kind)


def _answered(model: LanguageModel, slots: Sequence[Slot]) -> list[Slot]:
    """Those that the model fills rightly."""
    rows = ContinualProbe([slot_item(slot) for slot in slots], name="candidates")(model)
    return [slot for slot, row in zip(slots, rows, strict=True) if row.correct]


def _new_facts(count: int, source: random.Random) -> tuple[list[str], list[Slot]]:
    told: list[str] = []
    slots: list[Slot] = []
    names: dict[str, None] = {}
    while len(names) < 2 * count:
        names["".join(source.choices(SYLLABLES, k=3)).capitalize()] = None
    pairs = list(zip(*[iter(names)] * 2, strict=True))
    for number, (first, second) in enumerate(pairs):
        company = number % 2 == 0
        subject, objects = (first, CITIES) if company else (f"{first} {second}", WORK)
        answer, wordings = source.choice(objects), COMPANY if company else PERSON
        told += [wording.format(s=subject, o=answer) for wording in wordings]
        statement = wordings[0].format(s=subject, o=BLANK)
        slots.append(Slot(f"new {number}", NEW, statement, (answer,), kind=NEW))
    return told, slots


def _row(slot: Slot) -> dict[str, object]:
    values = asdict(slot)
    answers, old = values.pop("answers"), values.pop("old_answers")
    return {**values, **({"old_answer": old, "new_answer": answers} if old else {"answer": answers})}


def _shuffled(items: Sequence, source: random.Random) -> list:
    mixed = list(items)
    source.shuffle(mixed)
    return mixed

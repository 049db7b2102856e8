"""Items of several tasks that are asked for text, and how they come of statements and records."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from keeps.contracts import Row, Run
from keeps.data.records import RecordSet
from keeps.data.slots import BLANK, Slot
from keeps.errors import EmptySetError, RecordError
from keeps.models.stopping import StopRule
from keeps.numerics.slot_scores import slot_begins, slot_exact, slot_f1
from keeps.probe.facts import answer_room

FILL = "Fill in the blank: {statement}\nAnswer:"


@dataclass(frozen=True)
class Item:
    """One thing to ask, in one or more wordings.

    Attributes:
        stale: answers that were right once.
    """

    id: str
    task: str
    kind: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    stale: tuple[str, ...] = ()


class ContinualProbe:
    """Items of several tasks, asked for text.

    Raises:
        EmptySetError: there is no item.
        RecordError: two items of a task have one id.
    """

    def __init__(self, items: Sequence[Item], *, name: str, match: str = "begins", max_tokens: int | None = None):
        if not items:
            raise EmptySetError("there is nothing to ask", where=name, mend="give statements with answers")
        self.items, self.name, self.match, self.max_tokens = list(items), name, match, max_tokens
        self.ids = [f"{item.task}/{item.id}" for item in items]
        twice = next((identity for identity, count in Counter(self.ids).items() if count > 1), None)
        if twice is not None:
            mend = "call every task and every item of it by a name of its own"
            raise RecordError(f'"{twice}" is asked twice', where=name, mend=mend)

    @property
    def fingerprint(self) -> str:
        """Hash of the items and of the way of asking (16 hexadecimal digits)."""
        way = ["continual-1", self.match, self.max_tokens]
        content = json.dumps([way, [asdict(item) for item in self.items]], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def decoding(self) -> str:
        """How answers are generated, which belongs to their scores."""
        longest = "the length of the longest answer and 3" if self.max_tokens is None else str(self.max_tokens)
        return f"greedy, at most {longest} tokens"

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row an item, in order; log-probabilities where the answerer has them."""
        asked = [(item, prompt) for item in self.items for prompt in item.prompts]
        with run.progress.task(f"probe {self.name}", len(asked)) if run else nullcontext() as task:
            told = iter(self._ask(answerer, asked, {"advance": task.advance} if task else {}))
        return [self._row(item, [(prompt, *next(told)) for prompt in item.prompts]) for item in self.items]

    def _ask(
        self, answerer: Any, asked: Sequence[tuple[Item, str]], advance: dict[str, Any]
    ) -> list[tuple[str, float | None]]:
        prompts = [prompt for _, prompt in asked]
        if not hasattr(answerer, "ask"):
            return [(answer.text.strip(), None) for answer in answerer.answer(prompts)]
        said: list[tuple[str, float | None]] = [("", None)] * len(asked)
        rule = StopRule(("\n",), sentence=True)
        for short in (True, False):  # an answer that seems to end a sentence must not be cut at its end
            part = [n for n, (item, _) in enumerate(asked) if short == (not any(map(rule.reached, item.answers)))]
            if not part:
                continue
            room = self.max_tokens or answer_room(answerer, (text for n in part for text in asked[n][0].answers))
            expected = [asked[n][0].answers[0] for n in part]
            chosen = [prompts[n] for n in part]
            found = answerer.ask(chosen, expected, max_new_tokens=room, sentence=short, **advance)
            for n, one in zip(part, found, strict=True):
                said[n] = (one.text.strip(), one.logprob)
        return said

    def _row(self, item: Item, told: Sequence[tuple[str, str, float | None]]) -> Row:
        wordings = [
            {
                "prompt": prompt,
                "answer": text,
                "exact": slot_exact(text, item.answers),
                "begins": slot_begins(text, item.answers),
                "f1": slot_f1(text, item.answers),
                "stale": _stale(text, item, self.match),
            }
            for prompt, text, _ in told
        ]
        score = sum(wording[self.match] for wording in wordings) / len(wordings)
        logprobs = [logprob for _, _, logprob in told if logprob is not None]
        return Row(
            id=f"{item.task}/{item.id}",
            group=item.task,
            prompt=item.prompts[0],
            expected=item.answers[0],
            answer=told[0][1],
            correct=score >= 0.5,
            score=score,
            logprob=sum(logprobs) / len(logprobs) if logprobs else None,
            details={"kind": item.kind, "match": self.match, "decoding": self.decoding, "wordings": wordings},
        )


def _stale(text: str, item: Item, match: str) -> bool | None:
    if not item.stale:
        return None
    same = slot_exact if match == "exact" else slot_begins
    return same(text, item.stale) and not same(text, item.answers)


def slot_item(slot: Slot, ask: str = "prefix") -> Item:
    """A statement as something to ask.

    Raises:
        RecordError: it is to be asked by what stands before the blank, and nothing does.
    """
    prompt = (
        slot.before_blank if ask == "prefix" or BLANK not in slot.statement else FILL.format(statement=slot.statement)
    )
    if not prompt:
        mend = "put the blank later, or choose --ask fill"
        raise RecordError("nothing stands before the blank", where=f'task "{slot.task}", id "{slot.id}"', mend=mend)
    return Item(slot.id, slot.task, slot.kind, (prompt,), slot.answers, slot.old_answers)


def record_items(records: RecordSet, *, task: str = "") -> list[Item]:
    """Facts and examples as items; their groups are the tasks unless ``task`` names one for all.

    Raises:
        EmptySetError: none of them has an answer.
    """
    questions = records.questions()
    if not questions:
        raise EmptySetError("no record has an answer", where=records.source, mend="give facts or examples")
    return [Item(one.id, task or one.group, "", one.prompts, one.answers) for one in questions]

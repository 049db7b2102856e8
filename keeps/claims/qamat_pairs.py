"""Real pairs for QAMAT's claim: zsRE as what is asked and edited, open Natural Questions as the crowd around it.

Every fact of zsRE is one pair of the memory, and asked in the other words that the data set has for it. The last
questions are reported; of their facts the reader sees nothing but what the memory holds. It learns from the others:
from sentences about them (the data set's made-up evidence), from their other wordings, and from questions of the crowd
of which some words are left out. In stage 1 a pair has another answer each time it is drawn, and so has what is to be
said: reading is learned, and no fact by heart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keeps.claims.published import published_rows
from keeps.claims.qamat_people import Asked
from keeps.data.pairs import QA, ReadingExample, masked_passage
from keeps.errors import InputFileError
from keeps.ground.qamat import asked
from keeps.models.pair_reader import as_question

FACTS, CROWD = "zsre/zsre.jsonl", "nq_open/dev.jsonl"
FILES = (FACTS, CROWD)
LONGEST_ANSWER, LONGEST_SENTENCE = 40, 220  # characters of what is learned from
LEFT_OUT = 0.25  # of the words of a question of the crowd
KINDS = ("sentence", "rewording", "crowd")


@dataclass(frozen=True)
class Fact:
    """A row of zsRE as a pair, how it is asked, what it is edited to, and sentences that say the edit."""

    pair: QA
    asked: str
    edit: str
    sentences: tuple[str, ...]


class RealPairs:
    """The pairs, of which the last ``held_out`` facts are never learned from.

    Raises:
        InputFileError: a file is not there or not as published, or there are too few facts.
    """

    def __init__(self, data: Path, held_out: int, seed: int = 0) -> None:
        self.draw = random.Random(f"qamat-pairs-{seed}")
        keys = ("question", "rephrase", "answers", "target_new", "made_up_evidence")
        rows = published_rows(data, FACTS, *keys)
        facts = [fact for number, row in enumerate(rows) if (fact := _fact(row, number)) is not None]
        if len(facts) < 2 * held_out:
            what, mend = f"there are {len(facts)} usable facts", f"give {2 * held_out} or more"
            raise InputFileError(what, where=str(data), mend=mend)
        self.learned, self.held_out = facts[:-held_out], facts[-held_out:]
        crowd = published_rows(data, CROWD, "question", "answer")
        self.crowd = [
            QA(str(row["question"]), str(row["answer"][0]), f"nq:{number}")
            for number, row in enumerate(crowd)
            if row["answer"] and str(row["answer"][0]).strip()
        ]
        said = [answer for fact in self.learned for answer in (fact.pair.answer, fact.edit)]
        said += [pair.answer for pair in self.crowd]
        self.answers = [answer for answer in said if len(answer) <= LONGEST_ANSWER]
        self._drawn = 0

    @cached_property
    def pairs(self) -> list[QA]:
        """The memory: every fact and the crowd."""
        return [*(fact.pair for fact in (*self.learned, *self.held_out)), *self.crowd]

    @property
    def texts(self) -> list[str]:
        """What a tokenizer learns its words from, beside the memory."""
        return [text for fact in self.learned for text in (fact.asked, *fact.sentences)]

    @property
    def tested(self) -> list[Asked]:
        """The questions reported: each in other words than its pair's."""
        return [Asked(fact.asked, fact.pair.answer, (fact.pair.id,)) for fact in self.held_out]

    @cached_property
    def _edits(self) -> Mapping[str, str]:
        return {fact.pair.id: fact.edit for fact in (*self.learned, *self.held_out)}

    def other(self, pair: QA) -> str:
        """What zsRE edits a fact to."""
        return self._edits[pair.id]

    def passages(self, count: int, kinds: Sequence[str] = KINDS) -> list[ReadingExample]:
        """For a memory of the batch: sentences with a masked answer, or questions, each with a pair of its own."""
        return [self._local(self.draw.choice(kinds)) for _ in range(count)]

    def masked(self, count: int) -> list[ReadingExample]:
        """For the whole memory: sentences with the answer masked, whose pair is in it."""
        made = []
        for _ in range(count):
            fact = self.draw.choice(self._with_sentences)
            pair = fact.pair
            made.append(ReadingExample(self._sentence(fact), f"<extra_id_0> {pair.answer}", (pair,), ((pair.id,),)))
        return made

    def questions(self, count: int) -> list[ReadingExample]:
        """Half about facts that are learned from, half about the crowd."""
        made = []
        for _ in range(count):
            if self.draw.random() < 0.5:
                fact = self.draw.choice(self.learned)
                made.append(asked(fact.asked, fact.pair.answer, (fact.pair.id,)))
            else:
                pair = self.draw.choice(self.crowd)
                made.append(asked(self._fewer_words(pair.question), pair.answer, (pair.id,)))
        return made

    @cached_property
    def _with_sentences(self) -> list[Fact]:
        return [fact for fact in self.learned if fact.sentences]

    def _local(self, kind: str) -> ReadingExample:
        self._drawn += 1
        name, answer = f"drawn:{self._drawn}", self.draw.choice(self.answers)
        if kind == "sentence":
            fact = self.draw.choice(self._with_sentences)
            question, text = fact.pair.question, self._sentence(fact)
        elif kind == "rewording":
            fact = self.draw.choice(self.learned)
            question, text = fact.pair.question, as_question(fact.asked)
        else:
            question = self.draw.choice(self.crowd).question
            text = as_question(self._fewer_words(question))
        target = f"<extra_id_0> {answer}" if kind == "sentence" else answer
        return ReadingExample(text, target, (QA(question, answer, name),), ((name,),))

    def _sentence(self, fact: Fact) -> str:
        """One of its sentences, the answer masked."""
        told = QA(fact.pair.question, fact.edit)
        return masked_passage(self.draw.choice(fact.sentences), [told]).text

    def _fewer_words(self, question: str) -> str:
        """Some words left out, and in every other question what stands behind a place put before it."""
        words = question.split()
        kept = [word for word in words if self.draw.random() >= LEFT_OUT] or words
        place = self.draw.randrange(len(kept)) if self.draw.random() < 0.5 else 0
        return " ".join(kept[place:] + kept[:place])


def _fact(row: Mapping[str, Any], number: int) -> Fact | None:
    """None where the row has no answer, or none to edit to, or only the words of its question."""
    answers = row["answers"]
    texts = [str(row[key]).strip() for key in ("question", "rephrase", "target_new")]
    answer = str(answers[0]).strip() if isinstance(answers, list) and answers else ""
    if not answer or not all(texts) or texts[0] == texts[1] or texts[2] == answer:
        return None
    pair = QA(texts[0], answer, f"zsre:{number}")
    return Fact(pair, texts[1], texts[2], tuple(_sentences(str(row["made_up_evidence"]), texts[2])))


def _sentences(evidence: str, answer: str) -> list[str]:
    """The sentences of numbered lines that have the answer as whole words."""
    said = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
    lines = [re.sub(r"^\s*\d+\.\s*", "", line).strip().strip('"') for line in evidence.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"(?<=[.!?])\s", line)]
    return [part for part in parts if len(part) <= LONGEST_SENTENCE and said.search(part)]

"""Invented worlds of two hops for EditCoT's claim, and a scripted thinker that follows rules in place of a model."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from keeps.claims.eren_people import names
from keeps.models.notebook import Note
from keeps.models.scores import AnswerScore
from keeps.models.thoughts import CONTRADICT, SUPPORT, UNRELATED, WORDS
from keeps.training.cot_editor import EditorPair

# Two hops: how each is stated (the first wording is that of facts), and what is asked. {a} is asked about.
_CHAINS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("{a} lives in the land of {b}.", "{a} is at home in {b}.", "The home of {a} is {b}."),
     ("The people of {b} speak {c}.", "The language of {b} is {c}.", "In {b}, {c} is spoken."),
     "Which language do people speak where {a} lives?"),
    (("{a} works for the company {b}.", "The employer of {a} is {b}.", "{a} is employed by {b}."),
     ("The company {b} is run by {c}.", "The head of {b} is {c}.", "{c} leads {b}."),
     "Who runs the company that {a} works for?"),
    (("The book {a} was written by {b}.", "The author of {a} is {b}.", "{b} wrote {a}."),
     ("{b} was born in the town of {c}.", "The birthplace of {b} is {c}.", "{b} comes from {c}."),
     "In which town was the writer of the book {a} born?"),
    (("{a} plays for the club {b}.", "The club of {a} is {b}.", "{a} is a player of {b}."),
     ("The stadium of the club {b} is in {c}.", "The home ground of {b} is in {c}.", "{b} plays at home in {c}."),
     "In which place is the stadium of the club of {a}?"),
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """One chain: what is believed of it, what is new, and the question."""

    question: str
    lines: tuple[str, str]
    facts: tuple[Note, Note]  # both hops as they are now
    believed: tuple[str, str]  # b, c
    new: tuple[str, str]


def worlds(count: int, seed: int) -> list[World]:
    """So many chains of other names for another seed; which lines and facts are worded how depends on the seed too."""
    draw = random.Random(seed)
    words = [f"{first} {last}" for first, last in zip(names(5 * count, seed), names(5 * count, seed + 1), strict=True)]
    found = []
    for number in range(count):
        a, b, c, b2, c2 = words[5 * number : 5 * number + 5]
        first, second, question = _CHAINS[number % len(_CHAINS)]
        lines = draw.choice(first).format(a=a, b=b), draw.choice(second).format(b=b, c=c)
        facts = (
            Note(f"{number}-first", first[0].format(a=a, b=b2), a, "first", target=b2),
            Note(f"{number}-second", second[0].format(b=b2, c=c2), b2, "second", target=c2),
        )
        found.append(World(question.format(a=a), lines, facts, (b, c), (b2, c2)))
    return found


def editor_pairs(of: Sequence[World]) -> list[EditorPair]:
    """Two pairs a world: the first line is corrected, and what follows speaks of its new object; then the second."""
    pairs = []
    for world in of:
        first, second = (f"{note.statement.removesuffix('.')}." for note in world.facts)
        moved = world.lines[1].replace(world.believed[0], world.new[0])
        pairs.append(EditorPair(world.question, world.lines, first, (first, moved)))
        pairs.append(EditorPair(world.question, (first, moved), second, (first, second)))
    return pairs


class ScriptedThinker:
    """Believes that people live in lands and what is spoken there, and follows the prompts by rules."""

    def __init__(self, lives: dict[str, str], speaks: dict[str, str]) -> None:
        self.lives, self.speaks = lives, speaks
        self.editing = 0

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 16, stop: Sequence[str] = ("\n",), sentence: bool = False
    ) -> list[str]:
        """What the last block of each prompt asks for."""
        del max_new_tokens, stop, sentence
        return [self._next(prompt.rstrip("\n").split("\n\n")[-1]) for prompt in prompts]

    def logprob(self, prompts: Sequence[str], answers: Sequence[str]) -> list[AnswerScore]:
        """The words of the right verdict are likely; of an input without content none more than another."""
        wanted = ["" if "New knowledge: N/A" in prompt else self._verdict(prompt) for prompt in prompts]
        return [
            AnswerScore(0.0 if answer in WORDS.get(verdict, ()) else -5.0, 1, False)
            for verdict, answer in zip(wanted, answers, strict=True)
        ]

    def _next(self, block: str) -> str:
        if block.endswith("Answer from [New Thoughts]:"):
            return re.findall(r"is (\w+)\.", block)[-1]
        if block.endswith("New Thoughts:"):
            self.editing += 1
            return self._edited(_between(block, "Old Thoughts:", "New knowledge:"), _after(block, "New knowledge:"))
        person = re.findall(r"where (\w+) lives", block)[-1]
        land = self.lives[person]
        if block.endswith("Thoughts:"):
            return f"{person} lives in {land}.\nThe language of {land} is {self.speaks[land]}."
        return self.speaks[land]

    def _edited(self, lines: Sequence[str], fact: str) -> str:
        person, land = re.findall(r"(\w+) lives in (\w+)\.", lines[0])[0]
        spoken = re.findall(r"is (\w+)\.", lines[1])[0]
        if " lives in " in fact:
            land = re.findall(r"lives in (\w+)", fact)[0]
            spoken = self.speaks[land]
        else:
            spoken = re.findall(r"is (\w+)", fact)[0]
        return f"{person} lives in {land}.\nThe language of {land} is {spoken}."

    def _verdict(self, prompt: str) -> str:
        block = prompt.split("\n\n")[-1]
        fact = _after(block, "New knowledge:")
        lines = _between(block, "Old Thoughts:", "New knowledge:")
        subject, value = fact.removesuffix(".").rsplit(" ", 1)
        about = [line for line in lines if line.startswith(subject)]
        if not about:
            return UNRELATED
        return SUPPORT if any(line.removesuffix(".").endswith(value) for line in about) else CONTRADICT


class ScriptedChains:
    """Answers with documents one way; without them another way for every second question."""

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 16, stop: Sequence[str] = ("\n",), sentence: bool = False
    ) -> list[str]:
        """A chain of three steps, or the sentence that is to be written anew."""
        del max_new_tokens, stop, sentence
        return [self._chain(prompt.split("\n\n")[-1]) for prompt in prompts]

    def logprob(self, prompts: Sequence[str], answers: Sequence[str]) -> list[AnswerScore]:
        """Different answers are inconsistent (B), different statements contradict each other (A)."""
        wanted = ["B" if "First answer" in prompt else "A" for prompt in prompts]
        return [AnswerScore(0.0 if a == w else -4.0, 1, False) for a, w in zip(answers, wanted, strict=True)]

    def _chain(self, block: str) -> str:
        if block.endswith("Sentence of an encyclopedia:"):
            return block.partition("Thought: ")[2].partition("\n")[0]
        number = int(block.partition("Question ")[2].partition("?")[0])
        if block.endswith("[STEP]"):
            return f"[STEP] Thing {number} is in Oslo. [STEP] Oslo is in Norway. [STEP] Norway is cold. [ANSWER] cold"
        steps = block.count("[STEP]")
        if steps == 3:
            return "is warm. [ANSWER] warm" if number % 2 else "is cold. [ANSWER] cold"
        if steps == 2:
            return "is in Peru. [STEP] Peru is warm. [ANSWER] warm"
        return f"{number} is in Lima. [STEP] Lima is in Peru. [STEP] Peru is warm. [ANSWER] warm"


def _between(block: str, start: str, end: str) -> list[str]:
    return [line for line in block.partition(start)[2].partition(end)[0].strip().split("\n") if line]


def _after(block: str, start: str) -> str:
    return block.partition(start)[2].strip().split("\n")[0]

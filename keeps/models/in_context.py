"""A model that reads solved examples before every question: what it answers changes, its weights do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.models.tokens import TextEncoder, space_before

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Solved:
    """A question and the answer that is written behind it."""

    prompt: str
    answer: str

    @property
    def line(self) -> str:
        """As it stands in the prompt."""
        return f"{self.prompt}{space_before(self.prompt, self.answer)}{self.answer}\n"


class ContextEncoder(TextEncoder):
    """Encodes a prompt with solved examples before it; running text as it stands.

    Args:
        base: the encoder of the model.
        flipped: questions that are to be forgotten, with wrong answers; those nearest to a prompt come first.
        solved: questions with right answers, which follow; the question itself is never among them.
        most: flipped ones in one prompt at most.
        room: tokens that the examples may take together; flipped ones that do not fit are left out, the last first.
    """

    def __init__(
        self, base: TextEncoder, flipped: Sequence[Solved], solved: Sequence[Solved], *, most: int, room: int
    ) -> None:
        super().__init__(base.tokenizer)
        self.templated = base.templated
        self.flipped, self.solved, self.most, self.room = list(flipped), list(solved), most, room
        self._words = [words_of(each.prompt) for each in self.flipped]

    def prompt(self, prompt: str) -> list[int]:
        """As :meth:`keeps.models.tokens.TextEncoder.prompt`, with the examples before it."""
        return super().prompt(self.context(prompt) + prompt if prompt.strip() else prompt)

    def pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """As :meth:`keeps.models.tokens.TextEncoder.pair`, with the examples before the prompt."""
        bare = TextEncoder(self.tokenizer)
        bare.templated = self.templated
        return bare.pair(self.context(prompt) + prompt if prompt.strip() else prompt, answer)

    def context(self, prompt: str) -> str:
        """The lines that stand before ``prompt``."""
        words = words_of(prompt)
        nearest = sorted(range(len(self.flipped)), key=lambda n: (-likeness(words, self._words[n]), n))[: self.most]
        tail = "".join(each.line for each in self.solved if each.prompt != prompt)
        while True:
            text = "".join(self.flipped[number].line for number in nearest) + tail
            if not nearest or len(self._ids(text)) <= self.room:
                return text
            nearest = nearest[:-1]


def words_of(text: str) -> frozenset[str]:
    """The words of a text, whatever their case."""
    return frozenset(_WORD.findall(text.casefold()))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared words over all words (Jaccard), in [0, 1]."""
    union: Any = one | other
    return len(one & other) / len(union) if union else 0.0

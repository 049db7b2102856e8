"""Cards that say what they are told to, and an encoder by shared words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.ground.card_talks import Tools
from keeps.ground.cards import CardHub, CardLabel, KnowledgeCard
from keeps.sources import Retriever

WIDTH = 256


class Words:
    """Texts as normed counts of their words of four letters or more, each word in a place of its own by its letters."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.encoded += texts
        found = torch.zeros(len(texts), WIDTH)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w{4,}", text.casefold()):
                found[row, sum(ord(letter) * (n + 7) for n, letter in enumerate(word)) % WIDTH] += 1
        return torch.nn.functional.normalize(found + 1e-9, dim=1)


class Saying:
    """A model of a card; its ``draw``-th text is ``say(query, number of texts so far)``."""

    def __init__(self, say: Callable[[str, int], str]) -> None:
        self.say = say
        self.asked: list[str] = []
        self.calls = 0
        self.options: dict[str, Any] = {}

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[str]:
        assert len(prompts) == len(seeds) == len(set(seeds))
        self.calls += 1
        self.options = options
        found = [self.say(prompt, len(self.asked) + n) for n, prompt in enumerate(prompts)]
        self.asked += prompts
        return found


def card(name: str, say: Callable[[str, int], str], line: str | None = None) -> KnowledgeCard:
    return KnowledgeCard(CardLabel(name, f"all about {name}" if line is None else line), Saying(say))


def numbered_card(name: str) -> KnowledgeCard:
    """Says another sentence each time."""
    return card(name, lambda query, number: f"The {name} fact number {number} about it.")


def hub(*cards: KnowledgeCard, evidence: Retriever | None = None) -> CardHub:
    return CardHub(cards, None, evidence)


def tools(**given: Any) -> Tools:
    return Tools(**{"encoder": Words(), "count": lambda text: len(text.split()), **given})

"""What must hold exactly of knowledge cards, with cards that are scripted: the prompt, the filters, the chances."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.base import Check
from keeps.contracts import Run
from keeps.ground.alignment import Encoder
from keeps.ground.card_filters import Candidate, relevant
from keeps.ground.card_talks import Tools
from keeps.ground.cards import CardHub, CardLabel, Document, KnowledgeCard
from keeps.ground.knowledge_cards import CardAnswerer, KnowledgeCardsSettings
from keeps.models.chat import Conversation, Reply, Usage
from keeps.numerics.factuality import drawn_by_score, factuality, verified

CARDS = ("rivers", "metals", "birds", "kings", "sports")
DRAWN = 10_000
SCORES = (0.9, 0.1, 0.7, 0.3, 0.5, 0.2)
ON = (
    "Paris is the capital of France.", "The French capital lies on the Seine.", "France's seat of government is Paris.",
    "Paris became the capital of the French kingdom.", "The largest city and capital of France is Paris.",
    "The president of France lives in Paris, the capital.", "Paris has been France's capital for centuries.",
    "Lyon is a French city, but not the capital.", "The capital city of France has two million people.",
    "France is governed from its capital, Paris.",
)  # fmt: skip
OFF = (
    "Bread needs flour, water and yeast.", "The heart pumps blood through the body.", "Oak wood is hard and heavy.",
    "A guitar has six strings.", "Copper conducts electricity well.", "Whales are mammals that live in the sea.",
    "The rule of chess allows castling once.", "Rain falls from clouds.", "Wool comes from sheep.",
    "A bicycle has two wheels and a chain.",
)  # fmt: skip


class Said:
    """A card that says something else each time, at length."""

    def __init__(self, name: str) -> None:
        self.name, self.made = name, 0

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[str]:
        """Five sentences a text."""
        del seeds, options
        self.made += len(prompts)
        first = self.made - len(prompts)
        return [
            " ".join(f"In text {first + n} on {self.name} sentence {part} says so." for part in range(5))
            for n in range(len(prompts))
        ]


class Noting:
    """A chat that finds everything factual and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """See :class:`keeps.models.chat.Chat`."""
        del max_new_tokens
        texts = ["\n".join(message.content for message in turn) for turn in conversations]
        self.asked += texts
        return [Reply("supports" if "leave it open" in text else "yes", True, Usage()) for text in texts]


def exactness(encoder: Encoder) -> Iterator[Check]:
    """Points 1 to 3 of the card."""
    broken, kinds = prompt_rules(encoder)
    yield Check(
        "rules of the last prompt that are broken", len(broken), "0", not broken, note=", ".join(broken or kinds)
    )
    pool = [Candidate(Document("a", n, text), text) for n, text in enumerate([*OFF, *ON])]
    kept = relevant("What is the capital of France?", pool, encoder, 10)
    right = sum(item.text in ON for item in kept)
    yield Check("on-topic documents among the 10 most relevant of 20", right, "at least 9", right >= 9, 5)
    error = abs(factuality([(verified(0.8, 0.1), 0.6), (verified(0.1, 0.7), 0.2)]) - 0.725)
    yield Check("factuality of hand-set classifiers, error", error, "at most 1e-9", error <= 1e-9)
    yield from chances()


def prompt_rules(encoder: Encoder) -> tuple[list[str], list[str]]:
    """Rules that are broken, and all of them."""
    tools = Tools(encoder, lambda text: len(text.split()))

    def asked(**settings: Any) -> tuple[str, list[dict[str, Any]], list[str]]:
        chat, cards = Noting(), [KnowledgeCard(CardLabel(name, name), Said(name)) for name in CARDS]
        made = KnowledgeCardsSettings.from_mapping(settings)
        (found,) = CardAnswerer(chat, CardHub(cards), made, Run(Path()), tools).answer(["Which text is on metals?"])
        steps = [step["step"] for step in found.trace["steps"]]
        return chat.asked[-1], found.trace["knowledge"], steps

    prompt, knowledge, _ = asked(filters="none")
    rules = {"all 25 documents, word for word": len(knowledge) == 25 and all(k["text"] in prompt for k in knowledge)}
    prompt, knowledge, steps = asked()
    rules["five documents with all filters on"] = len(knowledge) == 5 and all(k["text"] in prompt for k in knowledge)
    rules["at most 30 tokens each"] = all(len(k["text"].split()) <= 30 for k in knowledge)
    order = [step for step in steps if step in ("relevance", "brevity", "factuality")]
    rules["relevance, brevity, factuality"] = order == ["relevance", "brevity", "factuality"]
    return [name for name, kept in rules.items() if not kept], list(rules)


def chances() -> Iterator[Check]:
    """Frequencies of both ways to draw, against the formula of one draw."""
    for way, weights in (("proportional", SCORES), ("exponential", tuple(map(math.exp, SCORES)))):
        chance = random.Random(0)
        found = Counter(drawn_by_score(SCORES, 1, way, chance)[0] for _ in range(DRAWN))
        pool = (0, 2)  # the best two, since one is kept
        total = sum(weights[place] for place in pool)
        worst = max(abs(found[place] / DRAWN - weights[place] / total) for place in pool)
        yield Check(f"frequencies of {DRAWN} {way} draws, largest difference to the formula", worst, "at most 0.02",
                    worst <= 0.02 and sum(found[place] for place in pool) == DRAWN)  # fmt: skip
    outside = 0
    for seed in range(200):
        kept = drawn_by_score(SCORES, 2, "exponential", random.Random(seed))
        outside += any(place not in (0, 2, 4, 3) for place in kept) or len(set(kept)) < 2
    yield Check(
        "of 200 draws of two, those with a document twice or from outside the best four", outside, "0", not outside
    )

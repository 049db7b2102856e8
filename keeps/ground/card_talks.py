"""What is done for one question with knowledge cards: whom to ask, what to keep, when to stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from keeps.ground.alignment import ENCODED, Encoder
from keeps.ground.base import Finished, Record
from keeps.ground.card_filters import (
    CHARACTERS,
    Candidate,
    Several,
    candidates,
    consistencies,
    extracted,
    factual,
    relevant,
    scored,
    summaries,
    verdicts,
    with_evidence,
)
from keeps.ground.card_prompts import NEED, described, first_named, kind_prompt, need_prompt, pick_prompt
from keeps.ground.cards import CardHub, Consult, draw_seed
from keeps.ground.note_prompts import shortened
from keeps.ground.passages import Numbered, token_counter
from keeps.models.classifiers import SequenceClassifier, Summariser
from keeps.models.encoder import SentenceEncoder
from keeps.models.in_step import Decide, Say
from keeps.sources import Hit

if TYPE_CHECKING:
    from keeps.ground.knowledge_cards import KnowledgeCardsSettings

PRUNERS = ("extract", "model", "cut", "characters")
MODEL = "model"  # the answering model itself
KIND_TOKENS = 40  # of a reply that says what is missing
SHORTEST_SUMMARY = 10  # tokens that a summariser writes at least, as published


class LateEncoder:
    """The embedded encoder, loaded when a text is first encoded: not every way through the filters needs it."""

    def __init__(self, device: str) -> None:
        self.device = device

    @cached_property
    def encoder(self) -> Encoder:
        """See :class:`keeps.models.encoder.SentenceEncoder`."""
        return SentenceEncoder.load(device=self.device)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(len(texts), 384)`` float32."""
        return self.encoder.encode(texts)


@dataclass(frozen=True)
class Tools:
    """What filters need; None where a setting does without.

    Attributes:
        count: tokens of a text, as the answering model counts them.
    """

    encoder: Encoder
    count: Callable[[str], int]
    summariser: Summariser | None = None
    verifier: SequenceClassifier | None = None
    consistency: SequenceClassifier | None = None

    @classmethod
    def load(cls, settings: KnowledgeCardsSettings, chat: Any, *, device: str = "cpu") -> Tools:
        """The tools that ``settings`` name.

        Raises:
            ModelLoadError: one of the models cannot be loaded, or is of another kind.
        """
        judges = [settings.verifier, settings.consistency] if "factuality" in settings.filters else [MODEL, MODEL]
        verifier, consistency = [None if j == MODEL else SequenceClassifier.load(j, device=device) for j in judges]
        if verifier is not None:  # before a card is asked
            verifier.column("support", "entail")
            verifier.column("refute", "contradict")
        named = "brevity" in settings.filters and settings.pruner not in PRUNERS
        summariser = Summariser.load(settings.pruner, device=device) if named else None
        return cls(LateEncoder(device), token_counter(chat), summariser, verifier, consistency)


class CardTalk:
    """One question.

    Attributes:
        shown: the knowledge so far, in the order in which it came.
        kept: where each piece comes from, as it stands in the trace.
        rounds: what was asked, replied, chosen and kept in each round, top-down.
    """

    def __init__(
        self, question: str, record: Record, hub: CardHub, settings: KnowledgeCardsSettings, tools: Tools, seed: int
    ) -> None:
        self.question, self.record, self.hub, self.settings = question, record, hub, settings
        self.tools, self.seed = tools, seed
        self.shown: list[Numbered] = []
        self.kept: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.consulted = self.card_tokens = 0

    def extras(self) -> dict[str, Any]:
        """What the trace gets."""
        found: dict[str, Any] = {"mode": self.settings.mode, "knowledge": self.kept}
        found |= {"card_documents": self.consulted, "card_tokens": self.card_tokens}
        return found | ({"rounds": self.rounds} if self.settings.mode == "top_down" else {})

    def show(self, hits: Sequence[Hit]) -> None:
        """More knowledge."""
        self.shown += self.record.add(hits)

    # --- the two ways ------------------------------------------------------------------------------

    def bottom_up(self) -> Generator[Any, Any, str]:
        """Every card, all filters."""
        s = self.settings
        pool = yield from self._consult(tuple(self.hub.cards), 1)
        for name in s.filters:
            pool = yield from self._filtered(name, pool, relevant_ones=s.relevant, factual_ones=s.keep)
        self._keep(pool)
        return "answered"

    def top_down(self) -> Generator[Any, Any, str]:
        """One card after another, one document of each."""
        s = self.settings
        for number in range(s.max_rounds):
            noted: dict[str, Any] = {}
            if number >= s.min_rounds:
                decision = yield Decide("need more", need_prompt(self.question, self.shown), NEED, "more", NEED)
                self.record.step("need more", decision.said)
                if decision.choice == 1:
                    return "enough"
                noted["needs_more"] = decision.said
            card, asked = yield from self._choose(number)
            pool = yield from self._consult((card,), 1 + number * s.documents)
            noted |= asked | {"card": card, "candidates": [item.to_mapping() for item in pool]}
            if "factuality" not in s.filters:
                pool = self._one(pool)
            for name in (name for name in single_order(s.filters) if name != "relevance"):
                pool = yield from self._filtered(name, pool, relevant_ones=1, factual_ones=1)
            self._keep(pool)
            noted["kept"] = [item.to_mapping() for item in pool]
            self.rounds.append(noted)
        return "max_rounds"

    # --- steps -------------------------------------------------------------------------------------

    def _consult(self, cards: tuple[str, ...], first: int) -> Generator[Any, Any, list[Candidate]]:
        said = yield Consult(self.question, cards, self.settings.documents, first)
        self.consulted += len(said.documents)
        self.card_tokens += said.tokens
        known = {entry["text"] for entry in self.kept}
        pool = candidates(self.question, said.documents, with_query=self.settings.with_query)
        pool = [item for item in pool if item.text not in known]
        self.record.step("cards", "", cards=list(cards), documents=[item.to_mapping() for item in pool])
        return pool

    def _choose(self, number: int) -> Generator[Any, Any, tuple[str, dict[str, Any]]]:
        labels = self.hub.labels
        if len(labels) == 1:
            return labels[0].name, {}
        names = tuple(label.name for label in labels)
        if self.settings.select == "explicit":
            prompt = pick_prompt(self.question, self.shown, labels)
            decision = yield Decide("choose card", prompt, names, "name", names)
            place = decision.choice if decision.choice is not None else first_named(decision.said, names)
            by_chance = place is None
            if place is None:
                place = random.Random(draw_seed(self.seed, self.question, "", number)).randrange(len(names))
            self.record.step("choose card", decision.said, card=names[place], by_chance=by_chance)
            return names[place], {"reply": decision.said, "by_chance": by_chance}
        reply = yield Say("what kind", kind_prompt(self.question, self.shown), KIND_TOKENS)
        said = reply.text.strip() or self.question
        vectors = self.tools.encoder.encode([text[:ENCODED] for text in (said, *map(described, labels))])
        cosines = (vectors[1:] @ vectors[0]).tolist()
        name = names[max(range(len(names)), key=cosines.__getitem__)]
        self.record.step("choose card", said, card=name)
        return name, {"reply": said, "likeness": dict(zip(names, cosines, strict=True))}

    def _filtered(
        self, name: str, pool: list[Candidate], *, relevant_ones: int, factual_ones: int
    ) -> Generator[Any, Any, list[Candidate]]:
        if not pool:
            return pool
        if name == "relevance":
            pool = relevant(self.question, pool, self.tools.encoder, relevant_ones)
        elif name == "brevity":
            pool = yield from self._shortened(pool)
        else:
            pool = yield from self._factual(pool, factual_ones)
        self.record.step(name, "", left=[item.to_mapping() for item in pool])
        return pool

    def _shortened(self, pool: list[Candidate]) -> Generator[Any, Any, list[Candidate]]:
        """Documents that are short already stay as they are."""
        s, tools = self.settings, self.tools
        long = [n for n, item in enumerate(pool) if tools.count(item.text) > s.brevity]
        texts = [pool[n].text for n in long]
        if not texts:
            return pool
        if s.pruner == "model":
            texts = yield from summaries(self.question, texts, s.brevity, tools.count)
        elif tools.summariser is not None:
            least = min(SHORTEST_SUMMARY, s.brevity)
            said = tools.summariser.summaries(texts, max_new_tokens=s.brevity, min_new_tokens=least)
            texts = [shortened(new or old, s.brevity, tools.count) for new, old in zip(said, texts, strict=True)]
        elif s.pruner == "extract":
            texts = [extracted(self.question, text, s.brevity, tools.count, tools.encoder) for text in texts]
        elif s.pruner == "characters":
            texts = [text[:CHARACTERS] for text in texts]
        else:
            texts = [shortened(text, s.brevity, tools.count) for text in texts]
        pool = list(pool)
        for n, text in zip(long, texts, strict=True):
            pool[n] = replace(pool[n], text=text)
        return list({item.text: item for item in reversed(pool) if item.text}.values())[::-1]  # the first of equal ones

    def _factual(self, pool: list[Candidate], keep: int) -> Generator[Any, Any, list[Candidate]]:
        s, tools = self.settings, self.tools
        found = [with_evidence(item, self.hub.evidence, s.k) for item in pool]
        evidence = [texts for _, texts in found]
        pairs = [(item.text, text) for item, texts in found for text in texts]
        vit = yield from verdicts(pairs, tools.verifier, joined=s.joined)
        kb = yield from consistencies(pairs, tools.consistency, joined=s.joined)
        judged = scored([item for item, _ in found], evidence, vit, kb)
        self.record.step("judge", "", judged=[item.to_mapping() for item in judged])
        return factual(judged, keep, s.draw, draw_seed(self.seed, self.question, "factuality", len(self.shown)))

    def _one(self, pool: list[Candidate]) -> list[Candidate]:
        """Without judging: the most relevant, or one by chance where relevance is no filter either."""
        if not pool:
            return pool
        if "relevance" in self.settings.filters:
            return relevant(self.question, pool, self.tools.encoder, 1)
        return [random.Random(draw_seed(self.seed, self.question, "one", len(self.shown))).choice(pool)]

    def _keep(self, pool: Sequence[Candidate]) -> None:
        mark = f"{draw_seed(0, self.question, '', 0):012x}"
        hits = [
            Hit(
                id=f"{item.document.card}#{mark}-{item.document.draw}",
                text=item.text,
                score=item.score if item.score is not None else item.relevance or 0.0,
                document=item.document.card,
                span=(0, len(item.text)),
                title=item.document.card,
            )
            for item in pool
        ]
        self.show(hits)
        numbers = [item.number for item in self.shown[len(self.shown) - len(hits) :]]
        self.kept += [{"number": n, **item.to_mapping()} for n, item in zip(numbers, pool, strict=True)]


def single_order(filters: Sequence[str]) -> list[str]:
    """Factuality before brevity: of a single card's documents one is kept first, and shortened then."""
    return sorted(filters, key=("factuality", "brevity", "relevance").index)


def once(request: Say | Decide) -> Generator[Say | Decide, Any, Any]:
    """A talk of one request."""
    return (yield request)


def counted(talk: Generator[Any, Any, Finished]) -> Generator[Any, Any, Finished]:
    """``talk``, with the calls of the answering model counted one by one in its trace."""
    calls, reply = 0, None
    while True:
        try:
            request = talk.send(reply)
        except StopIteration as stop:
            done: Finished = stop.value
            return replace(done, extras={**done.extras, "calls": calls})
        calls += len(request.requests) if isinstance(request, Several) else int(not isinstance(request, Consult))
        reply = yield request

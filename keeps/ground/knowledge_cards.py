"""Knowledge cards (CooK): small models that each know one domain write documents for a model that is left as it is.

    bottom-up:  every card continues the query n1 times
                -> relevance, n2 -> brevity -> factuality, n3 -> knowledge, query, answer
    top-down:   up to J times:  more needed? -> which card? -> it continues the query n1 times
                -> factuality, 1 -> brevity -> one more piece of knowledge              (arXiv:2305.09955)

What is known lies in the weights of cards, not in documents: each is a run of ``keeps adapt`` on one corpus, a model,
or one that is served, with a name and one line about its domain. Anybody can add, exchange or take away a domain; the
model that answers may be an API.

Use when: knowledge of several domains is to be added to a model that cannot be trained; domains come, go and change
one by one; the texts themselves may not be handed out, but models of them may.

Relevance is the cosine of an encoder between query and document. Brevity leaves the sentences closest to the query
(``pruner=extract``), what the answering model makes of them (``model``), or a summariser of transformers, at most
``brevity`` tokens. Factuality is s(d) = max over evidence e and none of (vit(d, e) + kb(d, e)) / 2, of a fact verifier
and a classifier of consistent summaries: name them (``verifier=tals/albert-xlarge-vitaminc-mnli``,
``consistency=bunsenfeng/FactKB`` as published), or the answering model judges, at two calls a document and piece of
evidence. Evidence are passages of ``--docs``; where there are none every document is judged by itself. Of the 2 n3
most factual documents n3 are drawn, so that what no evidence knows yet has a chance too (``draw``).

``select=auto`` asks the model what it needs and takes the card whose name and line are closest to the reply;
``select=explicit`` lets it name a card. A model on this machine decides by probability, of a reply the leading word
counts, or the first name in it.

The published code never uses the knowledge of its bottom-up script, draws documents twice, stops at every reply with
"no" in it ("know"), does one round too many and cuts a letter off; none of that is done here. ``filters=relevance,
factuality,brevity`` is the order of the code, ``draw=proportional`` its chances, ``joined`` its input of classifiers,
``pruner=characters`` what it does without a pruner. The last prompt as published is ``layout=plain``; by default
knowledge stands between marks that no card can close, with numbers to cite.

Needs: cards, any model that chats. Guarantees: the answering model's weights are what they were, bit by bit; what a
card says hangs on seed, query and draw only, so that taking one away changes no document of the others; every piece of
knowledge names its card.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from keeps.contracts import Run
from keeps.errors import EmptySetError, SettingsError, nearest
from keeps.ground.base import Finished, Grounded, GroundSettings, Record
from keeps.ground.card_filters import Replies, Several
from keeps.ground.card_prompts import LAYOUTS, answer_prompt
from keeps.ground.card_talks import CardTalk, Tools, counted, once
from keeps.ground.cards import CardHub, Consult, Speaking
from keeps.models.in_step import Cost, in_step, lead
from keeps.numerics.factuality import DRAWS
from keeps.registry import method
from keeps.settings import setting
from keeps.sources import Hit

MODES = ("bottom_up", "top_down")
FILTERS = ("relevance", "brevity", "factuality")
MODEL = "model"  # the answering model itself


@dataclass(frozen=True, kw_only=True)
class KnowledgeCardsSettings(GroundSettings):
    """Settings of knowledge cards."""

    k: int = setting(3, "Evidence passages that are looked up for a document", ge=1, le=1000)
    mode: str = setting("bottom_up", "Ask all cards, or those that the model wants one after another", choices=MODES)
    select: str = setting("auto", "How a card is chosen, top-down", choices=("auto", "explicit"))
    documents: int = setting(5, "Documents that a card writes for a query, n1", ge=1, le=1000)
    relevant: int = setting(20, "Most relevant documents that are left, n2 (bottom-up)", ge=1)
    keep: int = setting(5, "Factual documents that are left, n3 (bottom-up; top-down one a round)", ge=1)
    max_rounds: int = setting(3, "Most pieces of knowledge, top-down, J", ge=1, le=50)
    min_rounds: int = setting(0, "Pieces of knowledge before the model may say that it needs no more", ge=0, le=50)
    filters: tuple[str, ...] = setting(FILTERS, "relevance, brevity, factuality: those to apply, in order; or none")
    brevity: int = setting(30, "Longest document that is shown, where brevity is applied", ge=1, unit="tokens")
    pruner: str = setting(
        "extract", "How documents are shortened: extract, model, cut, characters, or a summariser's folder or hub id"
    )
    verifier: str = setting(MODEL, "Fact verifier: model, or a classifier's folder or hub id")
    consistency: str = setting(MODEL, "Judge of consistent summaries: model, or a classifier's folder or hub id")
    draw: str = setting("exponential", "Chances of factual documents: ∝ exp(s), ∝ s, or the best", choices=DRAWS)
    joined: bool = setting(False, "Give classifiers document and evidence as one text", advanced=True)
    layout: str = setting(
        "passages", "Knowledge between marks that it cannot close, or in one line as published", choices=LAYOUTS
    )
    card_tokens: int = setting(100, "Longest document of a card", ge=1, unit="tokens")
    temperature: float = setting(1.0, "Of the cards; 0 is greedy, and then one document is enough", ge=0, le=10)
    top_p: float = setting(1.0, "Probability of the nucleus that cards draw from", gt=0, le=1, advanced=True)
    with_query: bool = setting(False, "Put the query before each document, where it begins a sentence")

    def check(self) -> None:
        """Refuse what contradicts itself or would do nothing."""
        if self.filters == ("none",):
            object.__setattr__(self, "filters", ())
        unknown = [name for name in self.filters if name not in FILTERS]
        if unknown or len(set(self.filters)) < len(self.filters):
            what = f'there is no filter "{unknown[0]}"' if unknown else "a filter is named twice"
            mend = nearest(unknown[0], FILTERS) if unknown else "name each once"
            raise SettingsError(what, where="filters", mend=mend)
        if self.min_rounds > self.max_rounds:
            what = f"min_rounds is {self.min_rounds} and max_rounds {self.max_rounds}"
            raise SettingsError(what, mend="let max_rounds be at least min_rounds")
        if self.layout == "plain" and self.cite == "markers":
            what = "the plain layout has no numbers that could be cited"
            raise SettingsError(what, where="cite", mend="choose words or none, or the layout passages")
        if self.temperature == 0 and self.documents > 1:
            mend = "set documents to 1, or a temperature above 0"
            raise SettingsError("greedy cards write the same document each time", where="temperature", mend=mend)
        down = self.mode == "top_down"
        idle = {
            ("select", "max_rounds", "min_rounds"): down,
            ("relevant",): not down and "relevance" in self.filters,
            ("keep",): not down and "factuality" in self.filters,
            ("brevity", "pruner"): "brevity" in self.filters,
            ("verifier", "consistency", "draw", "joined"): "factuality" in self.filters,
        }
        defaults = {info.name: info.default for info in self.fields()}
        for names, works in idle.items():
            given = [name for name in names if getattr(self, name) != defaults[name]]
            if given and not works:
                what = (
                    f"{given[0]} would do nothing with mode {self.mode} and filters {','.join(self.filters) or 'none'}"
                )
                raise SettingsError(what, where=given[0], mend="leave it out, or choose another mode or filters")


@method(
    "knowledge_cards",
    verb="ground",
    paper="arXiv:2305.09955",
    card="cook",
    summary="Let small models of single domains write knowledge, filter it, and answer with it.",
    needs=("cards",),
    uses=("documents",),
    fits=("causal-lm", "chat"),
)
class KnowledgeCards:
    """A model and its cards."""

    Settings = KnowledgeCardsSettings

    def __init__(self, settings: KnowledgeCardsSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: CardHub | None = None, *, run: Run) -> CardAnswerer:
        """See :class:`keeps.sources.GroundMethod`. A context that is given is knowledge in place of what cards say.

        Raises:
            EmptySetError: there is no card.
            SettingsError: cards are chosen by their domains, and one has none.
        """
        if not isinstance(source, CardHub):
            raise EmptySetError("there is no card to ask", where="knowledge_cards", mend="give a CardHub as source")
        bare = [label.name for label in source.labels if not label.description]
        if self.settings.mode == "top_down" and self.settings.select == "auto" and bare and len(source.labels) > 1:
            mend = "describe it in one line, NAME: LINE, or let the model choose by name (select=explicit)"
            raise SettingsError("the card has no description to be chosen by", where=bare[0], mend=mend)
        return CardAnswerer(model, source, self.settings, run)


class CardAnswerer(Grounded[KnowledgeCardsSettings]):
    """Answers with what cards say.

    Attributes:
        texts: every piece of knowledge that was shown, by id.
    """

    method = "knowledge_cards"

    def __init__(
        self, model: Any, hub: CardHub, settings: KnowledgeCardsSettings, run: Run, tools: Tools | None = None
    ) -> None:
        super().__init__(model, None, settings, run)
        self.hub = hub
        self.texts: dict[str, str] = {}
        self._given = tools

    @cached_property
    def tools(self) -> Tools:
        """Encoder, summariser and classifiers; loaded at the first question that needs them."""
        return self._given or Tools.load(self.settings, self.chat, device=self.run.device)

    def _contexts(self, questions: Sequence[str], contexts: Sequence[str] | None) -> list[list[Hit] | None]:
        if contexts is None:
            super()._contexts(questions, ["a card speaks"] * len(questions))  # for its checks of the questions
            return [None] * len(questions)
        return super()._contexts(questions, contexts)

    def lead(self, talks: Sequence[Generator[Any, Any, Finished]]) -> list[tuple[Finished, Cost]]:
        """All questions in step; what cards say to several of them is asked together."""
        with self.hub.open():
            return lead(talks, self._answered, kind=type)

    def talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Generator[Any, Any, Finished]:
        """Knowledge, then the answer."""
        return counted(self._talk(question, context, record, choices))

    def _talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Generator[Any, Any, Finished]:
        asking = CardTalk(question, record, self.hub, self.settings, self.tools, self.run.seed)
        if context is not None:
            asking.show(context)
            stop = "context"
        else:
            stop = yield from asking.bottom_up() if self.settings.mode == "bottom_up" else asking.top_down()
        self.texts |= {item.hit.id: item.hit.text for item in asking.shown}
        if not asking.shown and stop != "enough":
            done = yield from self.without(question, record, choices)
            return replace(done, extras=done.extras | asking.extras())
        cite = self.settings.cite in ("auto", "markers")
        layout = self.settings.layout
        turn = answer_prompt(question, asking.shown, self.settings.style, cite=cite, layout=layout)
        said, extras = yield from self.ask("answer", turn, record, choices)
        return Finished(said, stop, extras=extras | asking.extras())

    def _answered(self, requests: Sequence[Any]) -> Sequence[Any]:
        s = self.settings
        if isinstance(requests[0], Consult):
            return self.hub.consult(requests, Speaking(s.card_tokens, s.temperature, s.top_p), self.run.seed)
        several = [one.requests if isinstance(one, Several) else (one,) for one in requests]
        found = iter(in_step(self.chat, [once(one) for group in several for one in group]))
        replies = [tuple(next(found)[0] for _ in group) for group in several]
        return [
            Replies.of(group) if isinstance(one, Several) else group[0]
            for one, group in zip(requests, replies, strict=True)
        ]

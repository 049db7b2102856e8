"""Plain retrieval-augmented generation: look passages up once, put them before the question, answer with citations.

    answer = model(passages(question), question)

The plain form of retrieve-then-read (Lewis et al. 2020, arXiv:2005.11401, without training; Ram et al. 2023,
arXiv:2302.00083): the best ``k`` passages, as many as the token budget takes, each with a number by which the answer
cites it. A citation counts where its number is that of a passage that was shown; an answer without one is marked
``unsupported``. Models far below a billion weights rarely cite by number: for them a passage counts as cited that
holds every word of the answer which the question lacks (``cite``; the trace says which way it was).

Use when: answers must come from documents that the model was never taught; facts change faster than weights; every
answer needs its source; the cheapest baseline for every other method with retrieval is wanted.

``order`` decides where the best passage stands, since models read the beginning and the end of a long prompt better
than its middle: ``best_last`` puts it next to the question, ``best_first`` at the beginning, ``document`` keeps the
reading order of each document.

Needs: documents, and any model that chats. Guarantees: one call a question; passages stay data between delimiters that
no text can close; each citation leads to the stored text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Run
from keeps.ground.base import CITE, DATA_RULE, Finished, Grounded, GroundSettings, Record
from keeps.ground.passages import token_counter
from keeps.models.chat import Message
from keeps.models.in_step import Talk
from keeps.registry import method
from keeps.retrieval.assembly import ORDERS, assemble
from keeps.settings import setting
from keeps.sources import Hit, Retriever

TASKS = {
    "short": "Give the answer itself, in a few words.",
    "long": "Answer in a few sentences that explain.",
}


@dataclass(frozen=True, kw_only=True)
class RAGSettings(GroundSettings):
    """Settings of plain retrieval-augmented generation."""

    order: str = setting("best_last", "Where the best passage stands among those shown", choices=ORDERS)
    budget: int = setting(1500, "Most tokens of all passages together", ge=1, unit="tokens")


@method(
    "rag",
    verb="ground",
    paper="arXiv:2005.11401",
    card="augment_survey",
    summary="Look passages up once, put them before the question, answer with citations.",
    needs=("documents",),
    fits=("causal-lm", "chat"),
)
class RAG:
    """Retrieve, then read."""

    Settings = RAGSettings

    def __init__(self, settings: RAGSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Retriever | None = None, *, run: Run) -> RAGAnswerer:
        """See :class:`keeps.sources.GroundMethod`."""
        return RAGAnswerer(model, source, self.settings, run)


class RAGAnswerer(Grounded[RAGSettings]):
    """Answers from the passages that are found for the question as it stands."""

    method = "rag"

    def talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Talk[Finished]:
        """One search, one call."""
        hits = self.search(record, question, self.settings.k) if context is None else context
        if not hits:
            return (yield from self.without(question, record, choices))
        read = assemble(hits, self.settings.budget, self.settings.order, count=token_counter(self.chat))
        record.add(list(read.passages.values()))
        turn = read_prompt(question, read.text, self.settings)
        said, extras = yield from self.ask("answer", turn, record, choices)
        extras |= {"order": self.settings.order, "left_out": [hit.id for hit in read.left_out]}
        return Finished(said, "answered", extras=extras)


def read_prompt(question: str, passages: str, settings: RAGSettings) -> tuple[Message, ...]:
    """Passages, then the question, then the task."""
    task = f"{TASKS[settings.style]} {CITE}" if settings.cite in ("auto", "markers") else TASKS[settings.style]
    system = f"You answer questions from passages. {DATA_RULE}"
    return (
        Message("system", system),
        Message("user", f"{passages}\n\nQuestion: {question.strip()}\n{task}"),
    )

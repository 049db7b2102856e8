"""What of the cards' documents is kept: the relevant ones, in brief, and those that evidence bears out.

Each step is plain data in and out; the parts that ask the answering model are written as talks, and everything that
one question asks at a time is one request (:class:`Several`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeps.errors import KeepsError
from keeps.ground.alignment import ENCODED, Encoder, sentences
from keeps.ground.card_prompts import CONSISTENT, VERDICTS, consistent_prompt, summary_prompt, verdict_prompt
from keeps.ground.cards import Document
from keeps.ground.note_prompts import shortened
from keeps.ground.passages import looked_up
from keeps.models.chat import Usage
from keeps.models.classifiers import SequenceClassifier
from keeps.models.in_step import Decide, Decision, Say
from keeps.numerics.factuality import drawn_by_score, factuality, softmax, verified
from keeps.sources import Retriever

LOOKED_UP = 100  # characters of a document by which evidence is searched
EVIDENCE_SENTENCES = 5  # of each passage of evidence
CHARACTERS = 120  # where documents are simply cut, as the published code does without a pruner
NONE = ""  # no evidence: every document is judged by itself too


@dataclass(frozen=True)
class Several:
    """Requests that one question makes at a time."""

    requests: tuple[Say | Decide, ...]


@dataclass(frozen=True)
class Replies:
    """What came back for :class:`Several`, in order."""

    replies: tuple[Any, ...]
    usage: Usage

    @classmethod
    def of(cls, replies: Sequence[Any]) -> Replies:
        """With the tokens of all."""
        used = [reply.usage for reply in replies]
        read, written = sum(one.prompt_tokens for one in used), sum(one.completion_tokens for one in used)
        return cls(tuple(replies), Usage(read, written))


Talking = Generator[Any, Any, Any]


@dataclass(frozen=True)
class Candidate:
    """A document on its way through the filters.

    Attributes:
        text: what is left of it.
        relevance: cosine with the query; None where it was not asked for, as with ``score``.
        score: factuality in [0, 1].
        evidence: ids of the passages that it was judged by.
        failed: why evidence could not be looked up.
    """

    document: Document
    text: str
    relevance: float | None = None
    score: float | None = None
    evidence: tuple[str, ...] = ()
    failed: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in a trace."""
        found = {"card": self.document.card, "draw": self.document.draw, "text": self.text}
        found |= {"relevance": self.relevance, "score": self.score, "evidence": list(self.evidence)}
        return found | ({"failed": self.failed} if self.failed else {})


def candidates(query: str, documents: Sequence[Document], *, with_query: bool = False) -> list[Candidate]:
    """Documents on one line each, without the query that some begin with; empty and equal ones are left out.

    Args:
        with_query: put the query before each, where it is the beginning of a sentence.

    >>> said = [Document("a", 1, "Who? Ada\\nLovelace."), Document("a", 2, "Ada Lovelace."), Document("b", 1, " ")]
    >>> [item.text for item in candidates("Who?", said)]
    ['Ada Lovelace.']
    """
    start = " ".join(query.split())
    found: dict[str, Candidate] = {}
    for document in documents:
        text = " ".join(document.text.split())
        text = text.removeprefix(start).strip()
        if re.search(r"\w", text):
            whole = f"{start} {text}" if with_query else text
            found.setdefault(whole, Candidate(document, whole))
    return list(found.values())


def relevant(query: str, pool: Sequence[Candidate], encoder: Encoder, keep: int) -> list[Candidate]:
    """The ``keep`` whose meaning is closest to the query, or all that there are; closest first."""
    if not pool:
        return []
    vectors = encoder.encode([text[:ENCODED] for text in (query, *(item.text for item in pool))])
    cosines = (vectors[1:] @ vectors[0]).tolist()
    ranked = sorted(range(len(pool)), key=lambda place: (-cosines[place], place))
    return [replace(pool[place], relevance=cosines[place]) for place in ranked[:keep]]


# --- brevity -------------------------------------------------------------------------------------


def extracted(query: str, text: str, limit: int, count: Callable[[str], int], encoder: Encoder) -> str:
    """The sentences of ``text`` that are closest to the query, in their order, within ``limit`` tokens."""
    parts = sentences(text)
    if len(parts) < 2:
        return shortened(text, limit, count)
    vectors = encoder.encode([part[:ENCODED] for part in (query, *parts)])
    cosines = (vectors[1:] @ vectors[0]).tolist()
    taken: list[int] = []
    for place in sorted(range(len(parts)), key=lambda place: (-cosines[place], place)):
        if count(" ".join(parts[n] for n in sorted([*taken, place]))) <= limit:
            taken.append(place)
        elif not taken:
            return shortened(parts[place], limit, count)
    return " ".join(parts[n] for n in sorted(taken))


def summaries(query: str, texts: Sequence[str], limit: int, count: Callable[[str], int]) -> Talking:
    """Summaries that the answering model writes, cut at ``limit`` tokens; a talk that returns the texts."""
    asked = tuple(Say("summarise", summary_prompt(query, text, limit), limit) for text in texts)
    replies = yield Several(asked)
    said = [" ".join(reply.text.split()) for reply in replies.replies]
    return [shortened(new or old, limit, count) for new, old in zip(said, texts, strict=True)]


# --- factuality ----------------------------------------------------------------------------------


def with_evidence(item: Candidate, source: Retriever | None, k: int) -> tuple[Candidate, list[str]]:
    """The candidate with the ids of its evidence, and the evidence itself, :data:`NONE` first.

    A look-up that fails is noted and leaves the document to be judged by itself.
    """
    if source is None:
        return item, [NONE]
    try:
        hits = looked_up(source, item.text[:LOOKED_UP], k, "evidence")
    except (KeepsError, OSError) as error:
        return replace(item, failed=f"{type(error).__name__}: {error}"), [NONE]
    texts = [" ".join(sentences(hit.text)[:EVIDENCE_SENTENCES]) for hit in hits]
    return replace(item, evidence=tuple(hit.id for hit in hits)), [NONE, *(text for text in texts if text)]


def verdicts(pairs: Sequence[tuple[str, str]], verifier: SequenceClassifier | None, *, joined: bool = False) -> Talking:
    """vit of each statement and evidence, by a classifier or by what the answering model says of them; a talk."""
    if verifier is not None:
        supports, refutes = verifier.column("support", "entail"), verifier.column("refute", "contradict")
        p = _classified(verifier, pairs, joined).tolist()
        return [verified(row[supports], row[refutes]) for row in p]
    found = yield from _weighed("verify", pairs, verdict_prompt, VERDICTS)
    return [verified(p[0], p[1]) for p in found]


def consistencies(
    pairs: Sequence[tuple[str, str]], classifier: SequenceClassifier | None, *, joined: bool = False
) -> Talking:
    """kb of each statement and evidence, as :func:`verdicts`; of a classifier without names the second label's."""
    if classifier is not None:
        column = classifier.column("factual", "consistent", "entail", "support", default=1)
        return _classified(classifier, pairs, joined)[:, column].tolist()
    found = yield from _weighed("consistent", pairs, consistent_prompt, CONSISTENT)
    return [p[0] for p in found]


def scored(
    pool: Sequence[Candidate], evidence: Sequence[Sequence[str]], vit: Sequence[float], kb: Sequence[float]
) -> list[Candidate]:
    """Each candidate with s(d), of ``vit`` and ``kb`` in the order of candidates and their evidence."""
    values = iter(zip(vit, kb, strict=True))
    return [
        replace(item, score=factuality([next(values) for _ in found]))
        for item, found in zip(pool, evidence, strict=True)
    ]


def factual(pool: Sequence[Candidate], keep: int, way: str, seed: int) -> list[Candidate]:
    """At most ``keep`` candidates by their scores; see :func:`keeps.numerics.factuality.drawn_by_score`."""
    places = drawn_by_score([item.score or 0.0 for item in pool], keep, way, random.Random(seed))
    return [pool[place] for place in places]


def _weighed(
    step: str, pairs: Sequence[tuple[str, str]], prompt: Callable[[str, str], Any], choices: tuple[str, ...]
) -> Talking:
    replies = yield Several(tuple(Decide(step, prompt(d, e), choices, "verdict", choices) for d, e in pairs))
    return [probabilities(reply, len(choices)) for reply in replies.replies]


def probabilities(found: Decision, choices: int) -> list[float]:
    """Of each choice: by its weight, by the choice that was read, or all alike where none could be."""
    if found.logprobs:
        return softmax(found.logprobs)
    return [1 / choices if found.choice is None else float(n == found.choice) for n in range(choices)]


def _classified(classifier: SequenceClassifier, pairs: Sequence[tuple[str, str]], joined: bool) -> Any:
    if joined:
        return classifier.probabilities([f"{d} {e}".strip() for d, e in pairs])
    return classifier.probabilities([d for d, _ in pairs], [e for _, e in pairs])

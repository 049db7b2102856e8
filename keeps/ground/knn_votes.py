"""Who voted for each token of an answer: kNN-LM's provenance, down to the characters of documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keeps.decoding.engine import Spoken
from keeps.retrieval.datastore import Datastore

SHOWN = 3  # places that are named for a token


@dataclass(frozen=True)
class Place:
    """Characters of a document; ``start`` is -1 where the tokenizer does not tell which."""

    document: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.document}#{self.start}-{self.end}" if self.start >= 0 else self.document

    def joined(self, other: Place) -> Place | None:
        """Both in one, where ``other`` goes on at most one character behind this one; None elsewhere."""
        touches = self.document == other.document and self.start >= 0 and 0 <= other.start - self.end <= 1
        return Place(self.document, self.start, other.end) if touches else None


@dataclass(frozen=True)
class Step:
    """One token of an answer.

    Attributes:
        share: part of its probability that came from votes, in [0, 1].
        logprob: ln p of the mixture.
        votes: places that voted for it with their weights, heaviest first.
    """

    token: str
    share: float
    logprob: float
    votes: tuple[tuple[Place, float], ...]

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in a trace."""
        votes = {str(place): weight for place, weight in self.votes}
        return {"token": self.token, "share": self.share, "logprob": self.logprob, "votes": votes}


def steps_of(spoken: Spoken, datastore: Datastore, decode: Callable[[list[int]], str]) -> list[Step]:
    """The steps of a text that a ``NeighbourVoice`` spoke."""
    trace = spoken.trace
    columns = [trace[name] for name in ("rows", "tokens", "weights", "share", "score")] if spoken.tokens else [[]] * 5
    steps = []
    for token, rows, tokens, weights, share, (score,) in zip(spoken.tokens, *columns, strict=True):
        votes: dict[Place, float] = {}
        for row, voted, weight in zip(rows, tokens, weights, strict=True):
            if voted == token and weight > 0:
                place = _place(datastore, row)
                votes[place] = votes.get(place, 0.0) + weight
        ranked = sorted(votes.items(), key=lambda item: -item[1])
        part = min(1.0, share * math.fsum(votes.values()) / math.exp(score))
        steps.append(Step(decode([token]), part, score, tuple(ranked[:SHOWN])))
    return steps


def cited_places(steps: Sequence[Step], least: float) -> dict[Place, float]:
    """The heaviest place of each token that is owed to votes, those that go on from each other as one, and votes.

    Args:
        least: share of a token's probability that makes it owed to votes.
    """
    found: list[tuple[Place, float]] = []
    for step in steps:
        if step.share < least or not step.votes:
            continue
        place, weight = step.votes[0]
        before = found[-1][0].joined(place) if found else None
        if before is None:
            found.append((place, weight))
        else:
            found[-1] = (before, found[-1][1] + weight)
    totals: dict[Place, float] = {}
    for place, weight in found:
        totals[place] = totals.get(place, 0.0) + weight
    return totals


def _place(datastore: Datastore, row: int) -> Place:
    document = datastore.documents[int(datastore.document[row])].id
    return Place(document, int(datastore.start[row]), int(datastore.end[row]))

"""How good rankings are: recall, reciprocal rank, discounted gain, answers found; with intervals and a paired test.

    evaluate(run, judgements, ["recall@5", "mrr@10", "ndcg@10"])

A run gives the ranked ids of each query, judgements the gain of each relevant id. What is not judged is not relevant.
Queries without a relevant document are left out and counted.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from keeps.errors import EmptySetError, UnknownNameError
from keeps.numerics.bootstrap import bootstrap_interval

Gains = Mapping[str, float]
PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Measured:
    """One measure over queries.

    Attributes:
        values: by query.
        interval: 95 % percentile bootstrap over queries.
        left_out: queries without a relevant document.
    """

    measure: str
    mean: float
    interval: tuple[float, float]
    values: Mapping[str, float]
    left_out: int


def recall(ranked: Sequence[str], gains: Gains, k: int) -> float:
    """Share of the relevant ids among the first ``k``.

    >>> recall(["a", "x", "b"], {"a": 1, "b": 1}, 2)
    0.5
    """
    relevant = {name for name, gain in gains.items() if gain > 0}
    return len(relevant & set(ranked[:k])) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], gains: Gains, k: int) -> float:
    """1 / rank of the first relevant id, 0 if it is beyond ``k``.

    >>> reciprocal_rank(["x", "a"], {"a": 1}, 10)
    0.5
    """
    return next((1 / rank for rank, name in enumerate(ranked[:k], 1) if gains.get(name, 0) > 0), 0.0)


def ndcg(ranked: Sequence[str], gains: Gains, k: int, *, exponential: bool = False) -> float:
    """Discounted gain ``sum gain / log2(rank + 1)`` over that of the best order (linear gain, as trec_eval).

    Järvelin and Kekäläinen 2002. ``exponential`` takes ``2 ** gain - 1`` for the gain (Burges et al. 2005).

    >>> round(ndcg(["x", "a"], {"a": 1}, 10), 4)
    0.6309
    """
    worth = {name: 2.0**gain - 1 if exponential else gain for name, gain in gains.items() if gain > 0}
    best = sorted(worth.values(), reverse=True)[:k]
    return _discounted(worth.get(name, 0.0) for name in ranked[:k]) / _discounted(best)


def hit(ranked: Sequence[str], gains: Gains, k: int) -> float:
    """1 if a relevant id is among the first ``k``, else 0."""
    return float(reciprocal_rank(ranked, gains, k) > 0)


def answer_recall(texts: Sequence[str], answers: Sequence[str], k: int) -> float:
    """1 if an answer stands, word for word and without case, in one of the first ``k`` texts, else 0.

    >>> answer_recall(["The capital is  Oslo."], ["oslo"], 1), answer_recall(["Osloer"], ["oslo"], 1)
    (1.0, 0.0)
    """
    shown = [" ".join(re.findall(r"\w+", text.casefold())) for text in texts[:k]]
    wanted = [" ".join(re.findall(r"\w+", answer.casefold())) for answer in answers]
    return float(any(answer and f" {answer} " in f" {text} " for text in shown for answer in wanted))


MEASURES: Mapping[str, Callable[[Sequence[str], Gains, int], float]] = {
    "recall": recall,
    "mrr": reciprocal_rank,
    "ndcg": ndcg,
    "ndcg_exponential": partial(ndcg, exponential=True),
    "hit": hit,
}


def evaluate(
    run: Mapping[str, Sequence[str]], judgements: Mapping[str, Gains], measures: Sequence[str], *, seed: int = 0
) -> list[Measured]:
    """Measures of a run, such as ``recall@5``; a judged query that the run lacks counts as nothing found.

    Raises:
        UnknownNameError: there is no such measure.
        EmptySetError: no query has a relevant document.
    """
    queries = [query for query, gains in judgements.items() if any(gain > 0 for gain in gains.values())]
    if not queries:
        raise EmptySetError("no query has a relevant document", where="judgements", mend="judge at least one")
    found = []
    for measure in measures:
        name, _, depth = measure.partition("@")
        if name not in MEASURES or not depth.isdigit() or int(depth) < 1:
            mend = f"use {', '.join(MEASURES)} with a depth, as in recall@5"
            raise UnknownNameError(f'there is no measure "{measure}"', where="evaluate", mend=mend)
        values = {
            query: MEASURES[name](list(dict.fromkeys(run.get(query, ()))), judgements[query], int(depth))
            for query in queries
        }
        interval = bootstrap_interval([list(values.values())], lambda drawn: sum(drawn[0]) / len(drawn[0]), seed=seed)
        mean = math.fsum(values.values()) / len(values)
        found.append(Measured(measure, mean, interval, values, len(judgements) - len(queries)))
    return found


def paired_p(before: Measured, after: Measured, *, seed: int = 0, draws: int = PERMUTATIONS) -> float:
    """p-value of "both rank equally well": how often random exchange within queries differs as much (two-sided).

    Smucker, Allan and Carterette 2007.

    Raises:
        EmptySetError: they have no query in common.
    """
    queries = [query for query in before.values if query in after.values]
    if not queries:
        raise EmptySetError("the two runs have no query in common", where="paired_p", mend="judge the same queries")
    apart = [after.values[query] - before.values[query] for query in queries]
    seen = abs(math.fsum(apart)) - 1e-12
    chance = random.Random(seed)
    extreme = sum(abs(sum(d if chance.random() < 0.5 else -d for d in apart)) >= seen for _ in range(draws))
    return (extreme + 1) / (draws + 1)


def _discounted(gains: Iterable[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))

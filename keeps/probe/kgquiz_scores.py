"""The scores of KGQuiz: a filled blank against its gold answer, written facts against the facts of a graph.

Source: Bai et al., KGQuiz, WWW 2024 (arXiv:2310.09725), section 3. The paper embeds with a remote service and sets τ
per graph against human labels; here the encoder is all-MiniLM-L6-v2, and τ is 0.85 unless it is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeps.numerics.bipartite import MatchScores, match_scores
from keeps.numerics.text_scores import Unit, exact_match, lcs_ratio, token_f1
from keeps.probe.similarity import TextSimilarity

TAU = 0.85  # of a MiniLM-type encoder, where no pair was labelled
Statement = str | Sequence[str]  # a fact in words, or its head, relation and tail


@dataclass(frozen=True)
class BlankScores:
    """A filled blank against one gold answer; every figure in [0, 1] but the cosine, which is in [-1, 1].

    ``semantic_match`` is 1 where the cosine is τ or more.
    """

    exact_match: float
    f1: float
    lcs: float
    cosine: float
    semantic_match: float


def score_blank(
    prediction: str, gold: str, *, similarity: TextSimilarity | None = None, tau: float = TAU, unit: Unit = "characters"
) -> BlankScores:
    """The four scores of one answer.

    Args:
        similarity: with an encoder of your own; by default the embedded one.
        tau: cosine from which two answers mean the same.
        unit: of the longest common subsequence.

    >>> score_blank("", "Oslo")
    BlankScores(exact_match=0.0, f1=0.0, lcs=0.0, cosine=0.0, semantic_match=0.0)

    Raises:
        ValueError: τ is outside [-1, 1].
    """
    return score_blanks([prediction], [gold], similarity=similarity, tau=tau, unit=unit)[0]


def score_blanks(
    predictions: Sequence[str],
    golds: Sequence[str],
    *,
    similarity: TextSimilarity | None = None,
    tau: float = TAU,
    unit: Unit = "characters",
) -> list[BlankScores]:
    """:func:`score_blank` of many pairs, embedded together."""
    _check(tau)
    cosines = (similarity or TextSimilarity()).cosines(predictions, golds)
    return [
        _scores(prediction, gold, cosine, tau, unit)
        for prediction, gold, cosine in zip(predictions, golds, cosines, strict=True)
    ]


def best_scores(scores: Sequence[BlankScores]) -> BlankScores:
    """The best of each score over several accepted answers.

    Raises:
        ValueError: there is none.
    """
    names = tuple(BlankScores.__dataclass_fields__)
    return BlankScores(**{name: max(getattr(score, name) for score in scores) for name in names})


def score_triples(
    predicted: Sequence[Statement],
    gold: Sequence[Statement],
    *,
    similarity: TextSimilarity | None = None,
    tau: float = TAU,
    one_to_one: bool = False,
) -> MatchScores:
    """Precision, recall and F1 of written facts: two match where the cosine of their wordings is τ or more.

    Repeated gold facts count once; repeated predictions too.

    Args:
        predicted, gold: sentences, or triples whose parts are joined by spaces.
        one_to_one: a gold fact vouches for one prediction only; by default for all, as published, by which many
            wordings of one fact are all precise.

    >>> score_triples([], [("Oslo", "is in", "Norway")])
    MatchScores(precision=0.0, recall=0.0, f1=0.0)

    Raises:
        ValueError: τ is outside [-1, 1], or there is no gold fact.
    """
    _check(tau)
    said, wanted = (list(dict.fromkeys(map(wording, side))) for side in (predicted, gold))
    said = [text for text in said if text]
    matrix = (similarity or TextSimilarity()).matrix(said, wanted)
    return match_scores(matrix, tau, gold=len(wanted), one_to_one=one_to_one)


def wording(statement: Statement) -> str:
    """A sentence as it is, a triple with its parts joined; white space made single.

    >>> wording(("Oslo", " is in", "Norway"))
    'Oslo is in Norway'
    """
    return " ".join((statement if isinstance(statement, str) else " ".join(statement)).split())


def _scores(prediction: str, gold: str, cosine: float, tau: float, unit: Unit) -> BlankScores:
    exact = exact_match(prediction, gold)
    cosine = 1.0 if exact else cosine
    match = float(bool(prediction.strip()) and cosine >= tau)
    return BlankScores(exact, token_f1(prediction, gold), lcs_ratio(prediction, gold, unit=unit), cosine, match)


def _check(tau: float) -> None:
    if not -1 <= tau <= 1:
        raise ValueError(f"tau is {tau}, not in [-1, 1]")

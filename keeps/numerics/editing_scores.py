"""Scores of an edited model: accuracy under teacher forcing, agreement, fluency, and the overfit scores of EVOKE.

Sources:
    Zhang et al., "A Comprehensive Study of Knowledge Editing for Large Language Models", arXiv:2401.01286, section 4:
    edit success, portability, locality, fluency.
    Zhang et al., "Uncovering Overfitting in Large Language Model Editing", arXiv:2410.07819: DP, CAP, OAP, EOS, AMS.
    Zhang et al., "Generating Informative and Diverse Conversational Responses via Adversarial Information
    Maximization", NeurIPS 2018: the entropy of n-grams; its weights are those of Meng et al., arXiv:2202.05262.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+|[^\w\s]")
FLUENCY_WEIGHTS: Mapping[int, float] = {2: 2 / 3, 3: 4 / 3}  # n -> weight of H_n


def token_accuracy(greedy: Sequence[bool]) -> float:
    """Acc(x, y) = (1/|y|) Σ_t 1[argmax f(x, y_<t) = y_t], the accuracy under teacher forcing, in [0, 1].

    Raises:
        ValueError: there is no token.
    """
    if not greedy:
        raise ValueError("an answer without tokens has no accuracy")
    return sum(map(bool, greedy)) / len(greedy)


def argmax_agreement(before: Sequence[int], after: Sequence[int]) -> float:
    """Locality of one prompt: (1/T) Σ_t 1[argmax f'(t) = argmax f(t)] over the T tokens of the stored answer.

    Raises:
        ValueError: the lengths differ (other tokens were read), or there is no token.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"no agreement of {len(before)} with {len(after)} tokens")
    return sum(one == other for one, other in zip(before, after, strict=True)) / len(before)


def length_normalised(logprob: float, tokens: int) -> float:
    """P(y | p) = exp((1/|y|) Σ_t ln p(y_t)), the geometric mean of the tokens' probabilities, in [0, 1].

    >>> round(length_normalised(-2.0, 2), 4)
    0.3679
    """
    if tokens < 1:
        raise ValueError("an answer without tokens has no probability")
    return math.exp(logprob / tokens)


def words(text: str) -> list[str]:
    """Words and single marks, by a plain pattern (the official code calls NLTK's ``word_tokenize``).

    >>> words("It isn't so.")
    ['It', 'isn', "'", 't', 'so', '.']
    """
    return _WORD.findall(text)


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """H_n = -Σ_g f(g) log2 f(g) over the n-grams g of ``tokens``, in bits; 0 where there is none."""
    grams = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = sum(grams.values())
    return -math.fsum(count / total * math.log2(count / total) for count in grams.values()) + 0.0 if total else 0.0


def fluency(text: str, *, aggregate: str = "arithmetic") -> float:
    """The mean of 2/3 H_2 and 4/3 H_3 in bits; tables of papers show it times 100.

    Args:
        aggregate: ``"arithmetic"`` as published; ``"geometric"`` is the other option of the official code.

    >>> fluency("a b c d e f g h i") > fluency("a a a a a a a a a") == 0
    True
    """
    tokens = words(text)
    parts = [weight * ngram_entropy(tokens, n) for n, weight in FLUENCY_WEIGHTS.items()]
    if aggregate == "arithmetic":
        return math.fsum(parts) / len(parts)
    if aggregate == "geometric":
        return math.prod(parts) ** (1 / len(parts))
    raise ValueError(f'no aggregate "{aggregate}": arithmetic or geometric')


@dataclass(frozen=True)
class Overfit:
    """What EVOKE looks at after one prompt: probabilities normalised by length, see :func:`length_normalised`.

    Attributes:
        target: P(o* | p), of the new object that the edit taught.
        correct: P(ans | p), of the answer that is right here; None where the target itself is (recall tasks).
        original: P(ori | p), of the answer before the edit; None where it is the correct one, or is not known.
    """

    target: float
    correct: float | None = None
    original: float | None = None


def direct_probability(items: Sequence[Overfit]) -> float:
    """DP = E[P(o* | p)]: good where the target is asked for, a sign of overfitting where it is wrong."""
    return _mean([item.target for item in items])


def correct_answer_probability(items: Sequence[Overfit]) -> float:
    """CAP = E[P(ans | p)]."""
    return _mean([_given(item.correct, "correct") for item in items])


def original_answer_probability(items: Sequence[Overfit]) -> float:
    """OAP = E[P(ori | p)]."""
    return _mean([_given(item.original, "original") for item in items])


def editing_overfit_score(items: Sequence[Overfit]) -> float:
    """EOS = E[1{P(ans | p) > P(o* | p)}]: 1 never prefers the edit's target; equal probabilities count as 0.

    >>> round(editing_overfit_score([Overfit(0.2, 0.3), Overfit(0.4, 0.1), Overfit(0.5, 0.5)]), 4)
    0.3333
    """
    return _mean([float(resists_target(item)) for item in items])


def answer_modify_score(items: Sequence[Overfit]) -> float:
    """AMS = E[1{P(ans | p) > P(ori | p)}]: how often the answer before the edit is really displaced."""
    return _mean([float(displaces_original(item)) for item in items])


def resists_target(item: Overfit) -> bool:
    """The term of EOS of one prompt."""
    return _given(item.correct, "correct") > item.target


def displaces_original(item: Overfit) -> bool:
    """The term of AMS of one prompt."""
    return _given(item.correct, "correct") > _given(item.original, "original")


def _given(value: float | None, name: str) -> float:
    if value is None:
        raise ValueError(f"the probability of the {name} answer is not known")
    return value


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("a mean needs at least one prompt")
    return math.fsum(values) / len(values)


def edit_quality(success: float, preservation: float) -> float:
    """EQ = 2 ES BP / (ES + BP), the harmonic mean of edit success and behaviour preservation (arXiv:2403.17431).

    0 where either is 0.

    >>> edit_quality(1.0, 0.5), edit_quality(0.0, 1.0)
    (0.6666666666666666, 0.0)
    """
    total = success + preservation
    return 2 * success * preservation / total if total else 0.0

"""Scores of a model that was to forget: memorisation, truth ratio, model utility. Pure Python.

Sources:
    Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", arXiv:2401.06121, section 2.2.
    Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", arXiv:2210.01504, section 3:
    extraction likelihood, memorisation accuracy.
    Tirumala et al., "Memorization Without Overfitting", NeurIPS 2022: exact memorisation.
    Carlini et al., "Extracting Training Data from Large Language Models", 2021: extraction from a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal

Averaging = Literal["geometric", "arithmetic"]
Suffix = Literal["definition", "open_unlearning"]
_LARGEST = 700.0  # exp of more is no float


def exact_memorisation(greedy: Sequence[bool]) -> float:
    """EM = (1/T) Σ_t 1[argmax p(. | x_<t) = x_t] over the T tokens of an answer, in [0, 1].

    The memorisation accuracy of Jang et al. is the same over a text but for its first token, which nothing predicts.
    """
    if not greedy:
        raise ValueError("an answer without tokens cannot be memorised")
    return sum(map(bool, greedy)) / len(greedy)


def extraction_strength(greedy: Sequence[bool], *, suffix: Suffix = "definition") -> float:
    """ES = 1 - k/T, k the shortest prefix from which on every greedy prediction equals the answer's token.

    Args:
        suffix: ``"definition"`` gives 0 where the last token is wrong already; ``"open_unlearning"`` gives 1/T
            there, as that code does, whose search ends at k = T - 1.

    >>> extraction_strength([False, True, True, True]), extraction_strength([True, True, False])
    (0.75, 0.0)
    """
    if not greedy:
        raise ValueError("an answer without tokens cannot be extracted")
    if suffix not in ("definition", "open_unlearning"):
        raise ValueError(f'no suffix rule "{suffix}": definition or open_unlearning')
    k = next((place + 1 for place in reversed(range(len(greedy))) if not greedy[place]), 0)
    if suffix == "open_unlearning":
        k = min(k, len(greedy) - 1)
    return 1 - k / len(greedy)


def ngram_overlap(said: Sequence[Hashable], wanted: Sequence[Hashable], n: int) -> float:
    """Overlap_n(a, b): the share of the n-grams of a that b has too; 0 where a has none."""
    grams = [tuple(said[start : start + n]) for start in range(len(said) - n + 1)]
    known = {tuple(wanted[start : start + n]) for start in range(len(wanted) - n + 1)}
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def extraction_likelihood(
    continuations: Sequence[Sequence[Hashable]], tokens: Sequence[Hashable], *, n: int = 10
) -> float:
    """EL_n(x) = (1/(T - n)) Σ_t Overlap_n(f(x_<t), x_>=t), t from 1 to T - n.

    Args:
        continuations: the greedy continuation of the first t tokens, for each t.

    Raises:
        ValueError: the text has no more than n tokens, or there is not one continuation a prefix.
    """
    prefixes = len(tokens) - n
    if prefixes < 1 or len(continuations) != prefixes:
        raise ValueError(
            f"{len(tokens)} tokens need {max(prefixes, 0)} continuations (at least 1), not {len(continuations)}"
        )
    overlaps = (ngram_overlap(said, tokens[t:], n) for t, said in enumerate(continuations, 1))
    return math.fsum(overlaps) / prefixes


def truth_ratio(correct: float, wrong: Sequence[float], *, averaging: Averaging = "geometric") -> float:
    """R = P(wrong answers) / P(right answer as it is paraphrased), each normalised by length.

    Args:
        correct: mean log-probability of a token of the paraphrased answer.
        wrong: the same of each perturbed answer.
        averaging: of the wrong answers' probabilities. ``"geometric"`` averages losses, as the code of TOFU and of
            open-unlearning does; ``"arithmetic"`` averages probabilities, as the paper's text says. Confident models
            differ in it by orders of magnitude.

    >>> round(truth_ratio(-1.0, [-1.0, -3.0]), 4)
    0.3679
    """
    if not wrong:
        raise ValueError("a truth ratio needs a wrong answer")
    if averaging == "geometric":
        mean = math.fsum(wrong) / len(wrong)
    elif averaging == "arithmetic":
        top = max(wrong)
        mean = top + math.log(math.fsum(math.exp(value - top) for value in wrong) / len(wrong))
    else:
        raise ValueError(f'no averaging "{averaging}": geometric or arithmetic')
    return math.exp(min(max(mean - correct, -_LARGEST), _LARGEST))


def truth_ratio_forgotten(ratio: float) -> float:
    """min(R, 1/R): 1 where right and wrong answers are as likely, which is what a forgotten fact looks like."""
    return min(ratio, 1 / ratio) if ratio > 0 else 0.0


def truth_ratio_kept(ratio: float) -> float:
    """max(0, 1 - R): high where the right answer is likelier than the wrong ones."""
    return max(0.0, 1 - ratio)


def normalised_probability(correct: float, wrong: Sequence[float]) -> float:
    """P(right) / Σ P(option) over the right answer and the wrong ones, from mean log-probabilities of a token."""
    options = [correct, *wrong]
    top = max(options)
    return math.exp(correct - top) / math.fsum(math.exp(value - top) for value in options)


def harmonic_mean(values: Sequence[float]) -> float:
    """n / Σ 1/x; 0 where one value is 0.

    >>> round(harmonic_mean([1.0, 0.5]), 4), harmonic_mean([1.0, 0.0])
    (0.6667, 0.0)

    Raises:
        ValueError: there is no value, or a negative one.
    """
    if not values or min(values) < 0:
        raise ValueError("a harmonic mean needs values, none of them negative")
    return 0.0 if min(values) == 0 else len(values) / math.fsum(1 / value for value in values)

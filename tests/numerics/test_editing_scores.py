"""Editing scores against the same definitions computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, gmean

from keeps.numerics.editing_scores import (
    Overfit,
    answer_modify_score,
    argmax_agreement,
    correct_answer_probability,
    direct_probability,
    displaces_original,
    editing_overfit_score,
    fluency,
    length_normalised,
    ngram_entropy,
    original_answer_probability,
    resists_target,
    token_accuracy,
    words,
)

SHARES = st.floats(0, 1)


@given(st.lists(st.booleans(), min_size=1))
def test_token_accuracy_is_the_mean_of_the_flags(flags: list[bool]) -> None:
    assert token_accuracy(flags) == pytest.approx(float(np.mean(flags)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_agreement_is_the_share_of_equal_tokens_and_symmetric(pairs: list[tuple[int, int]]) -> None:
    before, after = [one for one, _ in pairs], [other for _, other in pairs]
    assert argmax_agreement(before, after) == pytest.approx(float((np.array(before) == np.array(after)).mean()))
    assert argmax_agreement(before, after) == argmax_agreement(after, before)
    assert argmax_agreement(before, before) == 1


def test_answers_without_tokens_and_unequal_lengths_have_no_score() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        token_accuracy([])
    with pytest.raises(ValueError, match="1 with 2"):
        argmax_agreement([1], [1, 2])
    with pytest.raises(ValueError, match="without tokens"):
        length_normalised(0.0, 0)


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=8))
def test_length_normalised_probability_is_a_geometric_mean(logprobs: list[float]) -> None:
    expected = float(gmean(np.exp(logprobs)))
    assert length_normalised(sum(logprobs), len(logprobs)) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_the_entropy_of_ngrams_is_that_of_their_counts(tokens: list[str], n: int) -> None:
    grams = [" ".join(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    counts = np.unique(grams, return_counts=True)[1]
    expected = float(entropy(counts, base=2)) if grams else 0.0
    assert ngram_entropy(tokens, n) == pytest.approx(expected, abs=1e-9)


def test_fluency_weighs_bigrams_and_trigrams_as_published() -> None:
    text = "The sea is wide and the sea is deep, and the sky is high."
    tokens = words(text)
    parts = [2 / 3 * ngram_entropy(tokens, 2), 4 / 3 * ngram_entropy(tokens, 3)]
    assert fluency(text) == pytest.approx(float(np.mean(parts)))
    assert fluency(text, aggregate="geometric") == pytest.approx(float(gmean(parts)))
    with pytest.raises(ValueError, match="harmonic"):
        fluency(text, aggregate="harmonic")


def test_a_text_that_repeats_itself_is_far_below_a_normal_one() -> None:
    normal = (
        "Oslo is the capital of Norway and lies at the end of a fjord, where ferries carry people to small islands "
        "with wooden houses; in winter its hills are full of skiers, while summer nights stay bright until late."
    )
    assert fluency("Oslo Oslo " * 40) < 1
    assert fluency(normal) > 4


PROMPTS = st.lists(st.builds(Overfit, target=SHARES, correct=SHARES, original=SHARES), min_size=1)


@given(PROMPTS)
def test_overfit_scores_agree_with_arrays(items: list[Overfit]) -> None:
    target, correct, original = (
        np.array([getattr(i, name) for i in items]) for name in ("target", "correct", "original")
    )
    assert direct_probability(items) == pytest.approx(float(target.mean()))
    assert correct_answer_probability(items) == pytest.approx(float(correct.mean()))
    assert original_answer_probability(items) == pytest.approx(float(original.mean()))
    assert editing_overfit_score(items) == pytest.approx(float((correct > target).mean()))
    assert answer_modify_score(items) == pytest.approx(float((correct > original).mean()))


@given(st.lists(SHARES, min_size=1))
def test_equal_probabilities_give_an_overfit_score_of_zero(shares: list[float]) -> None:
    assert editing_overfit_score([Overfit(p, p) for p in shares]) == 0


def test_the_three_pairs_of_the_definition_give_a_third() -> None:
    items = [Overfit(0.2, 0.3), Overfit(0.4, 0.1), Overfit(0.5, 0.5)]
    assert editing_overfit_score(items) == pytest.approx(1 / 3)
    assert [resists_target(item) for item in items] == [True, False, False]


def test_scores_without_the_answers_they_compare_are_refused() -> None:
    with pytest.raises(ValueError, match="correct answer is not known"):
        resists_target(Overfit(0.5))
    with pytest.raises(ValueError, match="original answer is not known"):
        displaces_original(Overfit(0.5, 0.5))
    with pytest.raises(ValueError, match="at least one"):
        direct_probability([])
    assert math.isclose(direct_probability([Overfit(0.5)]), 0.5)

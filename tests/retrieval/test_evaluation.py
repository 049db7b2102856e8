"""Measures of rankings against ir-measures where it is installed, and against sums written out everywhere."""

from __future__ import annotations

import math
import random

import pytest

from keeps.errors import EmptySetError, UnknownNameError
from keeps.retrieval.evaluation import answer_recall, evaluate, paired_p

MEASURES = ["recall@3", "recall@20", "mrr@5", "ndcg@4", "ndcg@20", "hit@2"]


def drawn(seed: int = 0) -> tuple[dict[str, list[str]], dict[str, dict[str, float]]]:
    """Random rankings and graded judgements, unjudged documents among them."""
    chance = random.Random(seed)
    names = [f"d{number}" for number in range(25)]
    run = {f"q{q}": chance.sample(names, 15) for q in range(30)}
    gains = {query: {name: float(chance.choice([0, 0, 1, 2, 3])) for name in chance.sample(names, 8)} for query in run}
    gains["q0"] = {"d1": 0.0}
    gains["q99"] = {"d1": 1.0}  # the run lacks it
    return run, gains


def written_out(measure: str, ranked: list[str], gains: dict[str, float]) -> float:
    name, k = measure.split("@")
    depth = int(k)
    relevant = [d for d in gains if gains[d] > 0]
    marks = [1 if gains.get(d, 0) > 0 else 0 for d in ranked[:depth]]
    if name == "recall":
        return sum(marks) / len(relevant)
    if name == "mrr":
        return max([mark / (place + 1) for place, mark in enumerate(marks)], default=0.0)
    if name == "hit":
        return float(1 in marks)
    dcg = sum(gains.get(d, 0) / math.log2(place + 2) for place, d in enumerate(ranked[:depth]))
    return dcg / sum(g / math.log2(place + 2) for place, g in enumerate(sorted(gains.values(), reverse=True)[:depth]))


def test_measures_are_their_sums_written_out_and_queries_without_relevant_documents_are_counted() -> None:
    run, gains = drawn()
    for measured in evaluate(run, gains, MEASURES):
        assert "q0" not in measured.values
        assert measured.left_out == sum(not any(g > 0 for g in of.values()) for of in gains.values()) >= 1
        for query, value in measured.values.items():
            assert value == pytest.approx(written_out(measured.measure, run.get(query, []), gains[query]), abs=1e-12)
        assert measured.mean == pytest.approx(sum(measured.values.values()) / len(measured.values))
        assert measured.interval[0] <= measured.mean <= measured.interval[1]


def test_measures_are_those_of_ir_measures() -> None:
    theirs = pytest.importorskip("ir_measures")
    run, gains = drawn(1)
    names = {"recall": "R", "mrr": "RR", "ndcg": "nDCG", "hit": "Success"}
    for measured in evaluate(run, gains, MEASURES):
        name, k = measured.measure.split("@")
        measure = theirs.parse_measure(f"{names[name]}@{k}")
        qrels = [theirs.Qrel(q, d, int(g)) for q, of in gains.items() for d, g in of.items()]
        scored = [theirs.ScoredDoc(q, d, -place) for q, found in run.items() for place, d in enumerate(found)]
        found = {row.query_id: row.value for row in theirs.iter_calc([measure], qrels, scored)}
        for query, value in measured.values.items():
            assert value == pytest.approx(found.get(query, 0.0), abs=1e-9)


def test_the_exponential_gain_is_two_to_the_grade_less_one() -> None:
    found = evaluate({"q": ["c", "a", "x", "b"]}, {"q": {"a": 3, "b": 1, "c": 2, "d": 0}}, ["ndcg_exponential@4"])[0]
    wanted = (3 + 7 / math.log2(3) + 1 / math.log2(5)) / (7 + 3 / math.log2(3) + 1 / 2)
    assert found.mean == pytest.approx(wanted, abs=1e-12)


def test_a_document_that_is_ranked_twice_counts_once() -> None:
    measured = evaluate({"q": ["a", "a", "b"]}, {"q": {"a": 1, "b": 1}}, ["recall@2", "ndcg@2"])
    assert [found.mean for found in measured] == [1.0, 1.0]


def test_the_paired_test_sees_a_difference_and_none_where_there_is_none() -> None:
    gains = {f"q{n}": {"a": 1.0} for n in range(20)}
    good = evaluate({query: ["a"] for query in gains}, gains, ["mrr@5"])[0]
    bad = evaluate({query: ["x", "y", "a"] for query in gains}, gains, ["mrr@5"])[0]
    assert paired_p(bad, good, draws=2000) < 0.01
    assert paired_p(good, good, draws=200) == 1.0


def test_an_answer_is_recalled_word_for_word_only() -> None:
    assert answer_recall(["x", "The U.S. capital"], ["u.s"], 2) == 1.0
    assert answer_recall(["x", "Oslo"], ["Oslo"], 1) == 0.0
    assert answer_recall(["anything"], [""], 1) == 0.0


def test_unknown_measures_and_nothing_to_measure_are_refused() -> None:
    for measure in ("recal@5", "recall", "recall@0", "recall@x"):
        with pytest.raises(UnknownNameError):
            evaluate({}, {"q": {"a": 1}}, [measure])
    with pytest.raises(EmptySetError):
        evaluate({}, {"q": {"a": 0}}, ["recall@5"])

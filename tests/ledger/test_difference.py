from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.contracts import Row
from keeps.errors import LedgerError
from keeps.ledger import KnowledgeDiff, Ledger, compare_rows, diff_results
from keeps.ledger.tables import diff_table, p_text, text_table
from keeps.numerics.statistics import mcnemar_exact, wilson


def row(name: str, correct: bool, group: str = "keep: capital", logprob: float | None = -1.0) -> Row:
    return Row(name, group, f"Question {name}", "yes", "yes" if correct else "no", correct, float(correct), logprob)


def passage(name: str, loss: float, tokens: int) -> Row:
    return Row(name, "text: held-out", name, "", "", False, -loss, -loss * tokens, "text", {"tokens": tokens})


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_four_outcomes_are_counted_once_each(pairs: list[tuple[bool, bool]]) -> None:
    before = [row(str(i), first) for i, (first, _) in enumerate(pairs)]
    after = [row(str(i), second) for i, (_, second) in enumerate(pairs)]
    line = compare_rows(before, list(reversed(after))).groups[0]
    assert line.learned == pairs.count((False, True))
    assert line.kept == pairs.count((True, True))
    assert line.lost == pairs.count((True, False))
    assert line.missing == pairs.count((False, False))
    assert line.before == wilson(sum(first for first, _ in pairs), len(pairs))
    assert line.after == wilson(sum(second for _, second in pairs), len(pairs))
    assert line.p_value == mcnemar_exact(line.learned, line.lost)
    assert line.n == len(pairs)


def test_every_total_is_the_sum_of_its_groups(rows_before: list[Row], rows_after: Callable[..., list[Row]]) -> None:
    diff = compare_rows(rows_before, rows_after(0.9, 0.8, 0.1, 0))
    assert [line.name for line in diff.totals] == ["learn", "learn, unseen wording", "keep", "calibrated"]
    for total, names in {
        "learn": ["learn: atomic_number", "learn: capital"],
        "learn, unseen wording": ["learn: atomic_number, unseen wording"],
        "keep": ["keep: symbol", "keep: capital", "keep: continent"],
        "calibrated": ["calibrated: capital"],
    }.items():
        parts = [line for line in diff.groups if line.name in names]
        pooled = diff.total(total)
        assert pooled is not None
        assert len(parts) == len(names)
        for field in ("n", "learned", "kept", "lost", "missing"):
            assert getattr(pooled, field) == sum(getattr(part, field) for part in parts)
    assert sum(line.n for line in diff.groups) == len(diff.items) == sum(line.n for line in diff.totals)


def test_the_log_probability_shift_is_the_mean_over_scored_pairs_only() -> None:
    before = [row("1", True, logprob=-1.0), row("2", True, logprob=-2.0), row("3", True, logprob=None)]
    after = [row("1", True, logprob=-0.5), row("2", True, logprob=-1.0), row("3", True, logprob=-9.0)]
    shift = compare_rows(before, after).groups[0].logprob_shift
    assert shift is not None
    assert (shift.value, shift.n) == (pytest.approx(0.75), 2)
    infinite = [replace(before[0], logprob=-math.inf), *before[1:]]
    shift = compare_rows(infinite, after).groups[0].logprob_shift
    assert shift is not None
    assert (shift.value, shift.n) == (pytest.approx(1.0), 1)
    assert compare_rows(before[2:], after[2:]).groups[0].logprob_shift is None


def test_text_is_pooled_over_tokens_and_paired_over_passages() -> None:
    before = [passage("a", 2.0, 10), passage("b", 3.0, 90)]
    after = [passage("a", 3.0, 10), passage("b", 3.1, 90)]
    diff = compare_rows(before, after)
    line = diff.texts[0]
    assert (line.n, line.tokens_before, line.tokens_after) == (2, 100, 100)
    assert line.loss_before == pytest.approx((20 + 270) / 100)
    assert line.perplexity_after == pytest.approx(math.exp((30 + 279) / 100))
    assert line.loss_shift.value == pytest.approx(line.loss_after - line.loss_before)
    assert diff.text_total() == replace(line, group="text")
    assert diff.items == diff.groups == diff.totals == ()


def test_other_tokens_are_said_not_to_be_comparable() -> None:
    diff = compare_rows([passage("a", 2.0, 10), passage("b", 2.0, 10)], [passage("a", 2.0, 12), passage("b", 2.0, 10)])
    table = text_table(diff)
    assert table is not None
    assert "not comparable" in table.note


def test_questions_of_one_side_only_are_refused_or_listed_never_dropped() -> None:
    before, after = [row("1", True), row("2", True)], [row("2", True), row("3", False), row("4", False)]
    with pytest.raises(LedgerError, match=r"1 questions were asked of A only and 2 of B only \(1, 3, 4\)"):
        compare_rows(before, after, before_name="A", after_name="B")
    diff = compare_rows(before, after, unmatched="count")
    assert (diff.only_before, diff.only_after, diff.groups[0].n) == (("1",), ("3", "4"), 1)
    assert "1 before, 2 after" in diff_table(diff).note
    with pytest.raises(LedgerError, match="no question in common"):
        compare_rows(before[:1], after[1:], unmatched="count")


def test_rows_that_are_not_the_same_question_are_refused() -> None:
    one = row("1", True)
    with pytest.raises(LedgerError, match="two rows for one question"):
        compare_rows([one, one], [one])
    with pytest.raises(LedgerError, match='expects "yes"'):
        compare_rows([one], [replace(one, expected="no")])
    with pytest.raises(LedgerError, match="needs a log-probability"):
        compare_rows([passage("a", 1.0, 5)], [replace(passage("a", 1.0, 5), logprob=None)])
    with pytest.raises(LedgerError, match="needs a log-probability"):
        compare_rows([passage("a", 1.0, 5)], [replace(passage("a", 1.0, 5), details={})])


def test_one_fact_may_stand_in_two_groups() -> None:
    rows = [row("1", True), row("1", False, group="keep: capital, unseen wording")]
    diff = compare_rows(rows, rows)
    assert [(line.name, line.n) for line in diff.totals] == [("keep", 1), ("keep, unseen wording", 1)]


def test_a_diff_survives_json(rows_before: list[Row], rows_after: Callable[..., list[Row]]) -> None:
    diff = compare_rows(rows_before, rows_after(0.9, 0.8, 0.1, 0), cost={"train_seconds": 3.5})
    text = json.dumps(diff.to_mapping(), allow_nan=False)
    assert json.loads(text) == diff.to_mapping()
    assert KnowledgeDiff.from_mapping(json.loads(text)) == diff
    for damaged in ({}, {"groups": 3}, {**diff.to_mapping(), "colour": 1}):
        with pytest.raises(LedgerError, match="no knowledge diff"):
            KnowledgeDiff.from_mapping(damaged)


def test_every_number_is_recomputed_from_the_ledger(ledger_of: Callable[..., Path], rows_before: list[Row]) -> None:
    path = ledger_of(seeds=1, methods=("corda",))
    with Ledger.open(path, read_only=True) as ledger:
        run = ledger.runs()[0]
        assert run.before_result is not None
        assert run.after_result is not None
        stored = diff_results(ledger, run.before_result, run.after_result)
        fresh = compare_rows(rows_before, ledger.rows(run.after_result), before_name="smollm2-135m", after_name="corda")
    assert stored == fresh
    learn = stored.total("learn")
    assert learn is not None
    assert len(stored.select("learned", group="learn: capital")) == stored.groups[1].learned
    assert len(stored.select()) == sum(line.learned + line.lost for line in stored.groups)


def test_tables_show_no_more_digits_than_the_interval_allows() -> None:
    rows = [row(str(i), i < 30) for i in range(40)]
    cells = diff_table(compare_rows(rows, rows)).rows[0]
    assert cells[:7] == ("keep: capital", "40", "0", "30", "0", "10", "75\n60 to 86")
    assert [p_text(p) for p in (1.0, 0.5, 0.0213, 0.00099)] == ["1", "0.5", "0.021", "< 0.001"]

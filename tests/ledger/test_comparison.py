from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import LedgerError
from keeps.ledger import ComparedRun, Comparison, Ledger, compare_runs, compare_stored
from keeps.ledger.comparison import pareto_front
from keeps.ledger.tables import comparison_table
from keeps.numerics.statistics import Estimate, wilson


def stored(path: Path) -> tuple[Comparison, list[ComparedRun]]:
    with Ledger.open(path, read_only=True) as ledger:
        return compare_stored(ledger, [run.id for run in ledger.runs()])


def test_shares_over_seeds_are_t_intervals_of_counts_taken_from_the_rows(ledger_of: Callable[..., Path]) -> None:
    comparison, entries = stored(ledger_of(seeds=3, methods=("lora", "corda")))
    assert [row.label for row in comparison.rows if row.method == "lora"] == [
        "lora (learning_rate 0.0002)",
        "lora (learning_rate 0.001)",
    ]
    for row in comparison.rows:
        shares = []
        for entry in entries:
            if entry.run.id in row.runs:
                keep = [item for item in entry.diff.items if item.group.startswith("keep: ")]
                right = [item for item in keep if item.outcome in ("kept", "lost")]
                shares.append(sum(item.outcome == "kept" for item in right) / len(right))
        mean = sum(shares) / 3
        half = 4.302653 * math.sqrt(sum((share - mean) ** 2 for share in shares) / 2 / 3)  # t, 2 degrees of freedom
        assert row.seeds == (0, 1, 2)
        assert row.interval == "seeds"
        assert row.kept is not None
        assert row.kept.value == pytest.approx(mean)
        assert row.kept.low == pytest.approx(max(0, mean - half), abs=1e-6)
        assert row.kept.high == pytest.approx(min(1, mean + half), abs=1e-6)
        assert row.costs["train_seconds"].n == 3
        assert row.text_shift is not None


def test_one_seed_gets_the_wilson_interval_over_its_questions(ledger_of: Callable[..., Path]) -> None:
    comparison, entries = stored(ledger_of(seeds=1, methods=("corda",)))
    row, diff = comparison.rows[0], entries[0].diff
    keep, learn, text = diff.total("keep"), diff.total("learn"), diff.text_total()
    assert keep and learn and text  # noqa: PT018
    share = wilson(keep.kept, keep.kept + keep.lost)
    assert row.interval == "questions"
    assert row.kept == Estimate(share.value, share.low, share.high, 1)
    assert row.learned is not None
    assert row.learned.value == learn.learned / (learn.learned + learn.missing)
    assert row.text_shift == replace(text.loss_shift, n=1)
    assert row.costs["train_seconds"] == Estimate(165.0, None, None, 1)


def test_seeds_that_agree_exactly_do_not_claim_an_interval_of_no_width(ledger_of: Callable[..., Path]) -> None:
    _, (first,) = stored(ledger_of(seeds=1, methods=("corda",)))
    twins = [replace(first, run=replace(first.run, id=f"r{seed}", seed=seed)) for seed in range(3)]
    one, three = compare_runs(twins[:1]).rows[0], compare_runs(twins).rows[0]
    assert one.kept is not None
    assert three.kept == replace(one.kept, n=3)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    flags = pareto_front([(Estimate(x, None, None, 1), Estimate(y, None, None, 1)) for x, y in points])
    for (x, y), flag in zip(points, flags, strict=True):
        beaten = any((a > x and b >= y) or (a >= x and b > y) for a, b in points)
        assert flag is not beaten
    assert any(flags)


def test_a_comparison_survives_json_and_csv(ledger_of: Callable[..., Path]) -> None:
    comparison, _ = stored(ledger_of(seeds=2))
    assert Comparison.from_mapping(json.loads(comparison.to_json())) == comparison
    lines = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert len(lines) == len(comparison.rows) == 6
    for line, row in zip(lines, comparison.rows, strict=True):
        assert row.learned is not None
        assert float(line["learned"]) == row.learned.value
        assert line["label"] == row.label
        assert line["front"] == ("yes" if row.front else "no")
    with pytest.raises(LedgerError, match="no comparison"):
        Comparison.from_mapping({"rows": [{}]})


def test_runs_of_different_jobs_are_not_compared(ledger_of: Callable[..., Path]) -> None:
    _, (first, second) = stored(ledger_of(seeds=2, methods=("corda",)))
    with pytest.raises(LedgerError, match="nothing to compare"):
        compare_runs([])
    with pytest.raises(LedgerError, match="same method, settings and seed"):
        compare_runs([first, first])
    for other in (
        replace(second, run=replace(second.run, model_fingerprint="another")),
        replace(second, run=replace(second.run, data_fingerprints={"learn": "x"})),
        replace(second, diff=replace(second.diff, items=second.diff.items[1:])),
    ):
        with pytest.raises(LedgerError, match="not of the same job"):
            compare_runs([first, other])


def test_a_run_that_was_not_probed_is_named(ledger_of: Callable[..., Path]) -> None:
    path = ledger_of(seeds=1, methods=("corda",))
    with Ledger.open(path) as ledger:
        run = ledger.update_run(ledger.runs()[0].id, after_result=None, status="running")
        with pytest.raises(LedgerError, match=r"running and has not been probed"):
            compare_stored(ledger, [run.id])


def test_the_table_has_a_cell_for_every_filled_column(ledger_of: Callable[..., Path]) -> None:
    comparison, _ = stored(ledger_of(seeds=1))
    table = comparison_table(comparison)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert "Wilson" in table.note
    bare = replace(comparison, rows=tuple(replace(row, unseen=None, costs={}) for row in comparison.rows))
    assert not {"unseen wording (%)", "training time"} & set(comparison_table(bare).columns)
    assert {"unseen wording (%)", "training time"} <= set(table.columns)

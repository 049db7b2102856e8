"""Relative similarity and peaks from rows that are written down."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from keeps.contracts import Row
from keeps.probe.base import Measure, ModelRows
from keeps.probe.causal_tracing import CausalTracing, CausalTracingSettings
from keeps.probe.causal_tracing_measures import Located, located_sets


def row(relation: str, subject: str, effects: Sequence[float], neurons: Sequence[Sequence[int]] = ()) -> Row:
    trace = {
        "clean": 0.9,
        "corrupted": 0.1,
        "window": 1,
        "classes": ["last_subject"],
        "restored": {"mlp": [[0.1 + effect for effect in effects]]},
        "neurons": [list(pair) for pair in neurons],
    }
    details = {"relation": relation, "subject": subject, "trace": trace}
    return Row(f"{relation}:{subject}", relation, "p", "a", "a", True, 1.0, details=details)


ROWS = [
    row("capital", "x", [0.5, 0.4, 0.0, 0.1], [(0, 1), (1, 1)]),
    row("capital", "y", [0.4, 0.5, 0.1, 0.0], [(0, 1), (2, 2)]),
    row("river", "x", [0.0, 0.1, 0.5, 0.4], [(3, 3)]),
    row("river", "y", [0.1, 0.0, 0.4, 0.5], [(3, 3)]),
]


def test_blocks_and_neurons_are_compared_between_related_facts() -> None:
    sets, labels = located_sets(ROWS, Located(top=2))
    assert (sets, labels) == ([{0, 1}, {0, 1}, {2, 3}, {2, 3}], ["capital", "capital", "river", "river"])
    found = by_name(CausalTracing(CausalTracingSettings(top=2)).measure([ModelRows("m", ROWS)]).measures)
    assert found["rsim", "all"].value == pytest.approx(1), "related facts lie together and nowhere else"
    assert found["rsim.related", "all"].value == 1
    assert found["rsim.all", "all"].value == pytest.approx(1 / 3)
    assert found["rsim.unrelated", "all"].value == 0
    assert found["rsim", "capital"].value == pytest.approx(1)
    by_subject = CausalTracing(CausalTracingSettings(top=2, candidates="subject")).measure([ModelRows("m", ROWS)])
    assert by_name(by_subject.measures)["rsim", "all"].value == 0
    neurons = CausalTracing(CausalTracingSettings(located="neurons", similarity="jaccard"))
    of_neurons = by_name(neurons.measure([ModelRows("m", ROWS)]).measures)
    assert of_neurons["rsim.related", "all"].value == pytest.approx((1 / 3 + 1) / 2)


def test_similarity_needs_related_facts_and_others() -> None:
    alone = CausalTracing(CausalTracingSettings()).measure([ModelRows("m", ROWS[:2])])
    measure = by_name(alone.measures)["rsim", "all"]
    assert measure.value is None
    assert "all facts share a relation" in measure.note
    apart = CausalTracing(CausalTracingSettings()).measure([ModelRows("m", [ROWS[0], ROWS[2]])])
    assert "no two facts share" in by_name(apart.measures)["rsim", "all"].note
    single = CausalTracing(CausalTracingSettings()).measure([ModelRows("m", ROWS[:1])])
    assert by_name(single.measures)["effect.peak.mlp.last_subject", "all"].low is None, "one fact has no interval"


def by_name(measures: Sequence[Measure]) -> dict[tuple[str, str], Measure]:
    return {(measure.metric, measure.group): measure for measure in measures}

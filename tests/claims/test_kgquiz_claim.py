"""The claim of KGQuiz teaches what it says it teaches, and its checks can fail."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

import keeps.claims.kgquiz as claim
from keeps.claims.base import ClaimRun
from keeps.claims.kgquiz_exactness import uniform_p
from keeps.contracts import Row


@pytest.mark.parametrize("counts", [[250, 250, 250, 250], [230, 270, 240, 260], [300, 200, 250, 250]])
def test_the_p_value_is_scipys(counts: list[int]) -> None:
    assert uniform_p(counts) == pytest.approx(stats.chisquare(counts).pvalue)


def test_lessons_hold_every_fact_and_no_false_statement_that_is_asked() -> None:
    graph = claim.world_graph()
    triples = [triple for triple in graph.triples if triple.relation in ("capital", "symbol")][::25]
    probe = claim.quiz(graph, triples, 0)
    probe.settings = claim.KGQuizSettings(negatives=("random",))
    probe.blocks = [claim.Block(block.domain, 1, "random", block.units) for block in probe.blocks[:1]]
    learn = claim.lessons(graph, triples, probe, 0)
    asked = {item.prompt for several in probe.items() for item in several if item.answer == "False"}
    taught: dict[str, Any] = {record.id: record for record in learn}
    assert len(learn) == 3 * len(triples)
    for triple in triples:
        assert taught[f"{triple.id}:tail"].answer == triple.tail
        assert graph.statement(triple) in taught[f"{triple.id}:true"].prompt
        false = taught[f"{triple.id}:false"]
        assert false.answer == "False"
        assert false.prompt not in asked
        assert graph.statement(triple) not in false.prompt


def row(task: int, fact: str, correct: bool, strategy: str = "", **details: Any) -> Row:
    own = {"task": task, "fact": fact, "strategy": strategy, **details}
    return Row(f"{task}{fact}{strategy}{details}", "", "", "", "", correct, float(correct), details=own)


def test_recognition_holds_only_where_random_names_are_easier_and_truth_is_told() -> None:
    def rows(random: int, near: int, odds: float) -> list[Row]:
        found = [row(2, str(n), n < random, "random") for n in range(100)]
        found += [row(2, str(n), n < near, "ss") for n in range(100)]
        found += [row(3, str(n), n < 30) for n in range(100)]
        for n in range(100):
            found.append(row(1, str(n), True, "ss", label=True, log_odds=odds + n % 7))
            found.append(row(1, str(n), True, "ss", label=False, log_odds=float(n % 5)))
        return found

    for arguments, holds in (((80, 70, 2.0), [True, True, True]), ((71, 70, -1.0), [False, False, True])):
        checks = list(claim.recognition_checks([rows(*arguments)], ClaimRun()))
        assert [check.holds for check in checks] == holds


def test_lessons_hold_only_where_taught_facts_rise_and_others_stay() -> None:
    facts = [str(n) for n in range(20)]
    taught = {0: set(facts[:10])}

    def rows(known: int) -> list[Row]:
        return [row(task, fact, int(fact) < known) for task in claim.TASKS for fact in facts]

    better = list(claim.lesson_checks({0: rows(5)}, {0: rows(10)}, taught, ClaimRun()))
    assert all(check.holds for check in better)
    assert len(better) == 6
    lost = list(claim.lesson_checks({0: rows(15)}, {0: rows(10)}, taught, ClaimRun()))
    assert not any(check.holds for check in lost)

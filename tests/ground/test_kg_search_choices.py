"""Which nodes are the ends of a walk: every name in a choice, but those that do not tell one choice from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.claims.ksl import Stub
from keeps.contracts import Run
from keeps.data.triples import Triple
from keeps.ground.kg_search import KGSearch, KGSearchSettings

TRIPLES = [Triple("Anna", "drinks", name) for name in ("wine", "water", "red", "port")]
QUESTION = "What does Anna drink?"


@pytest.mark.parametrize(
    ("choices", "ends"),
    [
        (("red wine", "white wine", "port"), {"red": "red wine", "port": "port"}),
        (("red wine", "wine"), {"red": "red wine", "wine": "wine"}),
        (("water and wine", "port"), {"water": "water and wine", "wine": "water and wine", "port": "port"}),
        (("a wine", "the wine"), {}),
    ],
)
def test_every_name_in_a_choice_is_an_end_where_it_decides(choices: tuple[str, ...], ends: dict[str, str]) -> None:
    solver = KGSearch(KGSearchSettings(ranker="order"))(Stub(lambda ask: 0), TRIPLES, run=Run(Path()))
    assert solver._tasks(0, QUESTION, choices)[0].goals == ends


def test_a_walk_ends_at_the_second_name_of_a_choice_too() -> None:
    triples = [Triple("Anna", "drinks", "wine"), Triple("Eve", "drinks", "water")]
    solver = KGSearch(KGSearchSettings(ranker="order"))(Stub(lambda ask: 0), triples, run=Run(Path()))
    [answer] = solver.choose([QUESTION], [("water and wine", "Eve")])
    assert (answer.text, answer.trace["stop"]) == ("water and wine", "answer_node")

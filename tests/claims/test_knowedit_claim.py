"""The claim of the editors: its requests are honest, its checks fail when they should."""

from __future__ import annotations

import pytest

from keeps.claims.knowedit import CHECKED, TOGETHER, _order, _table_checks, requests
from keeps.claims.knowedit_sequence import fluency_checks
from keeps.registry import methods


def test_requests_ask_for_another_object_than_the_one_that_is_known() -> None:
    edits = requests(20)
    assert len(edits) == len({edit.id for edit in edits}) == 20
    assert {edit.relation for edit in edits} == {"capital", "country_of_city"}
    for edit in edits:
        assert edit.subject in edit.prompt
        assert edit.target_new != edit.target_true
        assert edit.paraphrases
        assert all(edit.target_new not in asked.answers for asked in edit.locality)


def test_every_method_of_the_card_is_in_the_table_those_of_the_checks_first() -> None:
    names = _order()
    assert set(names) == {name for name, info in methods("edit").items() if info.card == "knowedit"}
    known = [name for name in CHECKED if name in names]
    assert names[: len(known)] == known
    assert not set(TOGETHER) & set(CHECKED)


@pytest.mark.parametrize(("success", "locality", "held"), [(1.0, 0.9, True), (0.5, 0.2, False)])
def test_the_checks_of_the_table_hold_only_where_they_should(success: float, locality: float, held: bool) -> None:
    def row(value: float, local: float) -> dict:
        return {"success": {"value": value, "low": 0.0, "high": 1.0}, "locality": {"value": local}}

    table = {"rome": row(success, locality), "memit": row(1.0, locality), "ft_m": row(success, 0.5)}
    assert [check.holds for check in _table_checks(table)] == [held] * 4


def test_a_method_that_did_not_run_holds_nothing() -> None:
    assert not any(check.holds for check in _table_checks({"rome": {"not run": "no encoder"}}))


def test_fluency_tells_repetition_from_text() -> None:
    assert [check.holds for check in fluency_checks()] == [True, True]

"""The data of JointLM's claim say what they should, and a model that learned nothing does not pass."""

from __future__ import annotations

from statistics import mean

import pytest

from keeps.claims import hybrid_dialog as claim
from keeps.claims.base import ClaimRun
from keeps.claims.hybrid_dialog import fall, invariance_checks
from keeps.claims.hybrid_dialog_models import Measured, Scale, ids, table_only, tf_idf_successes, variant
from keeps.claims.hybrid_dialog_world import as_text, conversations, small_model, town, vocabulary
from keeps.data.entity_dialogs import parse_history
from keeps.numerics.dialog_scores import SlotCounts

FULL = town(0)
REPLIES = conversations(FULL, 0)
VARIANTS = {name: variant(name, FULL, REPLIES, 0) for name in claim.VARIANTS}


def test_every_conversation_has_one_right_house_and_begins_with_another() -> None:
    for reply in REPLIES:
        (right,) = ids(reply, FULL)
        assert right.partition("/")[2] in reply.text
        assert right.partition("/")[2] not in reply.history[0][1]
        assert parse_history(as_text(reply)) == reply.history


def test_towns_share_words_and_no_facts_so_that_nothing_can_be_answered_from_memory() -> None:
    other = town(1)
    shared = FULL.facts() & other.facts()
    assert len([fact for fact in shared if fact[1] in ("phone", "postcode")]) <= 2
    assert town(0).facts() == FULL.facts()
    words = set(vocabulary())
    for base in (*VARIANTS.values(), other):
        assert {word for entity in base for word in entity.text().split()} <= words


def test_the_prompts_of_the_small_model_are_whole_words_that_it_knows() -> None:
    model = small_model(0, width=16, layers=1, heads=2)
    unknown = model.tokenizer.convert_tokens_to_ids("</s>")
    for reply in REPLIES:
        assert unknown not in model.encode_prompt(" ".join(text for _, text in reply.history) + f" {reply.text}")


def test_tool_and_metric_checks_hold() -> None:
    checks = [*claim.tool_checks(FULL, REPLIES, VARIANTS), claim.metric_check()]
    assert [check.name for check in checks if not check.holds] == []


def test_a_lost_fact_is_found_out() -> None:
    few = town(0, houses=59)
    checks = list(claim.tool_checks(FULL, REPLIES, {**VARIANTS, "hybrid": few}))
    assert not checks[0].holds


def test_queries_to_the_table_fall_to_nothing_and_words_alone_find_few_houses() -> None:
    scores = {name: table_only(base, REPLIES, FULL).f1 for name, base in VARIANTS.items()}
    assert scores["unstructured"] == 0.0
    assert scores["original"] > scores["hybrid"] > 0
    assert mean(tf_idf_successes(VARIANTS["hybrid"], REPLIES, FULL)) < 0.5


def test_invariance_of_a_model_that_knows_nothing_does_not_hold() -> None:
    def said(right: int) -> Measured:
        return Measured((SlotCounts(right, 10, 10, right),) * 4, (True,) * 4, (1.0, 1.0))

    bad = dict(zip(claim.VARIANTS, (said(0), said(0), said(0)), strict=True))
    good = dict(zip(claim.VARIANTS, (said(9), said(9), said(9)), strict=True))
    places = dict(zip(claim.VARIANTS, (said(9), said(7), said(2)), strict=True))
    assert [check.holds for check in invariance_checks(bad, bad, "x")] == [False, False]
    assert [check.holds for check in invariance_checks(good, places, "x")] == [True, True]
    assert fall(places["original"], places["unstructured"]) == pytest.approx((70.0, 70.0, 70.0))


def test_the_whole_experiment_runs_and_an_untrained_model_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(claim.SCALES, "default", Scale(1, 1, 2, width=16, layers=1))
    run = ClaimRun()
    checks = list(claim.experiment(run))
    assert [check.holds for check in checks[:4]] == [True] * 4
    assert len(checks) == 11
    assert [check.holds for check in checks[8:9]] == [True], "queries to the table alone find nothing"
    assert not any(check.holds for check in (checks[4], checks[6]))
    assert set(run.tables["the right entity given"]["hybrid"]) == set(claim.VARIANTS)

"""The claim of unlearning: what it plants, what it measures, and that it runs through with every method."""

from __future__ import annotations

from typing import Any

import pytest

import keeps.claims.unlearning as claim
from keeps.claims.base import ClaimRun, run_claim
from keeps.claims.unlearning_exactness import exactness_checks
from keeps.claims.unlearning_people import PROMPTS, examples_of, invented_facts
from keeps.models import LanguageModel
from keeps.registry import methods


def test_no_person_and_no_answer_is_in_two_parts() -> None:
    facts = invented_facts()
    assert {part: len(examples_of(part)) for part in ("forget", "retain", "holdout")} == {
        "forget": 20,
        "retain": 40,
        "holdout": 40,
    }
    answers = [text for fact in facts for text in (fact.answer, *fact.wrong)]
    assert len(set(answers)) == len(answers)
    names = {fact.part: set() for fact in facts}
    for fact in facts:
        names[fact.part].add(fact.prompt)
        assert fact.prompt not in fact.paraphrase
    assert len(set.union(*names.values())) == len(facts)
    assert len(facts) == len(PROMPTS) * 50


def test_what_is_exact_is_exact() -> None:
    checks = list(exactness_checks())
    assert len(checks) == 7
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]


def test_every_method_is_in_the_table() -> None:
    assert set(claim.METHODS) == {name for name, info in methods("unlearn").items() if info.card == "unlearning"}


@pytest.mark.slow
def test_it_runs_through_on_a_tiny_model(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiny_llama.fingerprint
    monkeypatch.setattr(claim.LanguageModel, "load", lambda *_, **__: tiny_llama)
    small: dict[str, Any] = {
        name: {**each, "steps": 2, "rank": 8} for name, each in claim.METHODS.items() if "steps" in each
    }
    monkeypatch.setattr(claim, "METHODS", {**claim.METHODS, **small})
    monkeypatch.setattr(claim, "COMMON", {**claim.COMMON, "rank": 8, "steps": 2})
    monkeypatch.setattr(claim, "LEARNING", {**claim.LEARNING, "learning_rate": 0.01})
    run = ClaimRun()
    evidence = run_claim(claim.CLAIM, run)
    assert set(run.tables["methods"]) == {"before", "retrained", *claim.METHODS}
    assert len(evidence.checks) == 7 + 4 + 4 + 1
    assert run.tables["methods"]["retrained"]["forget quality"] == 1
    areas = run.tables["area of each attack on membership"]
    assert set(areas) == {"before", "retrained"}
    assert all(set(each) == {"loss", "zlib", "min_k", "min_k_plus_plus", "gradient_norm"} for each in areas.values())
    assert areas["before"]["min_k"] == pytest.approx(run.tables["methods"]["before"]["min-k area"], abs=1e-6)
    assert tiny_llama.fingerprint == before

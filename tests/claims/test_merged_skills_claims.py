"""The claims of twin and skillpack: their data keep apart what must be, and what fails them is found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import fine_tunes, same_bits, state_of
from pico_models import pico

from keeps.claims import graftllm, twin_merging
from keeps.claims.base import ClaimRun
from keeps.claims.twin_merging import RELATIONS, SEEDS, TAUGHT, router_prompts, sweep_checks, taught
from keeps.claims.twin_merging_static import SCALES, having, normalised, scores, static_merges
from keeps.merge.emr import EMR, EMRSettings
from keeps.models import LanguageModel
from keeps.models.fine_tunes import Deltas, FineTune


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_router_learns_from_other_subjects_than_those_that_are_asked(relation: str) -> None:
    subjects = [record.subject for record in taught(relation)]  # type: ignore[union-attr]
    prompts = router_prompts(relation)
    assert len(subjects) == twin_merging.TAUGHT
    assert len(prompts) == twin_merging.PROMPTS
    asked = {prompt for question in taught(relation).questions() for prompt in question.prompts}
    assert not asked & set(prompts)
    assert not [p for p in prompts if any(f" {subject} " in f" {p} " for subject in subjects)]


def test_a_merge_that_answers_half_of_what_each_fine_tune_does_scores_fifty() -> None:
    assert normalised({"a": 0.5, "b": 0.4}, {"a": 1.0, "b": 0.8}) == pytest.approx(50)


@pytest.fixture(scope="module")
def tuned(smollm2: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = pico("llama", smollm2.tokenizer)
    return model, fine_tunes(model, tmp_path_factory.mktemp("claims"))


def test_borrowed_parameters_come_back(tuned: Any) -> None:
    model, _ = tuned
    state = state_of(model)
    with having(model, lambda name, base: base + 1):
        assert not same_bits(model, state)
    assert same_bits(model, state)
    broken = having(model, lambda name, base: base[..., :-1])  # fails half-way: a tensor of another shape
    with pytest.raises(RuntimeError), broken:
        pass
    assert same_bits(model, state)


def test_static_merges_are_asked_and_leave_the_model_alone(tuned: Any) -> None:
    model, (items, _) = tuned
    state = state_of(model)
    facts = {relation: taught(relation) for relation in RELATIONS[:1]}
    found = static_merges(model, [Deltas(model, item) for item in items], facts, ClaimRun())
    assert len(found) == 1 + 2 * len(SCALES)
    assert same_bits(model, state)
    assert scores(model, facts).keys() == facts.keys()


@pytest.mark.parametrize("relation", RELATIONS)
def test_each_seed_teaches_facts_of_its_own(relation: str) -> None:
    sets = [{record.subject for record in taught(relation, seed)} for seed in SEEDS]  # type: ignore[union-attr]
    assert [len(subjects) for subjects in sets] == [TAUGHT] * len(SEEDS)
    assert len(set().union(*sets)) == TAUGHT * len(SEEDS)


def test_every_seed_has_fine_tunes_a_router_and_scores_of_its_own(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (items, _) = tuned
    asked: list[tuple[str, int]] = []

    def fine_tune(_: Any, relation: str, learn: Any, run: Any, seed: int) -> FineTune:
        asked.append((relation, seed))
        place = (RELATIONS.index(relation) + seed) % len(items)  # another folder with each seed
        return FineTune(relation, items[place].folder, router_prompts(relation)[:6])

    one = {relation: replace(taught(relation), records=taught(relation).records[:1]) for relation in RELATIONS}
    monkeypatch.setattr(twin_merging.LanguageModel, "load", lambda *_, **__: model)
    monkeypatch.setattr(twin_merging, "taught", lambda relation, seed: one[relation])
    monkeypatch.setattr(twin_merging, "fine_tune", fine_tune)
    halves = {"task arithmetic, 1": dict.fromkeys(RELATIONS, 0.5)}
    monkeypatch.setattr(twin_merging, "static_merges", lambda *_: halves)
    monkeypatch.setattr(twin_merging, "SEEDS", (0, 1))
    monkeypatch.setattr(twin_merging, "WAYS", {name: EMR(EMRSettings()) for name in ("emr", "regmean", "slow")})
    run = ClaimRun()
    checks = list(twin_merging.experiment(run))
    assert asked == [(relation, seed) for seed in (0, 1) for relation in RELATIONS]
    assert [check.name.split(" ")[0] for check in checks[-3:]] == ["accuracy", "normalised", "normalised"]
    assert all(check.interval is not None for check in checks[-3:])
    assert len(checks) == 8
    rows = run.tables["normalised score by seed"]
    assert all({"seed 0", "mean"} <= set(row) for row in rows.values())
    assert [name for name, row in rows.items() if "seed 1" not in row] == ["slow"]
    assert "twin at 10%" in run.tables["share answered, seed 1"]


def test_a_method_that_keeps_the_wrong_triples_fails_the_sweep(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (items, _) = tuned
    deltas = [Deltas(model, item) for item in items[:1]]
    names = dict(model.model.named_parameters())
    renamed = {name.replace("layers.1", "layers.12"): p for name, p in names.items()}
    assert renamed.keys() != names.keys()
    monkeypatch.setattr(model.model, "named_parameters", lambda *_, **__: iter(renamed.items()))
    monkeypatch.setattr(deltas[0], "of", lambda name: 0.1 * torch.randn(renamed[name].shape))
    assert all(check.holds for check in sweep_checks(model, deltas))
    good = twin_merging.leading

    def wrong(matrix: torch.Tensor, **options: Any) -> Any:
        part = good(matrix, **options)
        return type(part)(part.u, -part.s, part.v)

    monkeypatch.setattr(twin_merging, "leading", wrong)
    assert not any(check.holds for check in sweep_checks(model, deltas))


def test_the_pack_of_the_claim_is_checked_bit_for_bit_and_byte_for_byte(tuned: Any, tmp_path: Path) -> None:
    model, (items, _) = tuned
    change = graftllm.pack(model, items[0], tmp_path / "pack", ClaimRun(), 0, bands=("8:8", "8:4", "8:2"))
    assert all(check.holds for check in graftllm.exactness_checks(model, change))
    other = graftllm.pack(model, items[0], tmp_path / "other", ClaimRun(), 0, bands=("1:2",))
    run = ClaimRun()
    ways = {"pack": other, "plain SVD, 16 bits": change}
    checks = list(graftllm.size_checks(model, items[0], taught("calling_code"), ways, run))
    assert set(run.tables) == {"loss on the unseen wording", "size, share of the difference in bfloat16"}
    assert len(checks) == 2

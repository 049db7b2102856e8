"""WISE: the activation, the margin loss, merging by TIES, and routing that leaves other prompts alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.edit.wise import (
    WISE,
    WISERouter,
    WISESettings,
    margin_loss,
    routing_activation,
    unrelated_prompts,
)
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import withdraw
from keeps.models.layer_inputs import late_layer, layer_inputs
from keeps.numerics.ties import ties, trimmed
from keeps.weights.files import load_tensors

FAST: dict[str, Any] = {"steps": 40, "learning_rate": 0.5, "unrelated": "world:symbol#6"}
OTHERS = ["A quick brown fox", "It rained all"]


def test_the_activation_is_the_mean_norm_of_what_the_memory_adds() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(length, 5, generator=generator) for length in (1, 4)]
    update = torch.randn(3, 5, generator=generator)
    wanted = [sum(float((update @ row).norm()) for row in rows) / len(rows) for rows in inputs]
    assert routing_activation(inputs, update).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_activation_has_a_gradient_where_training_starts() -> None:
    update = torch.zeros(3, 5, requires_grad=True)
    routing_activation([torch.ones(2, 5)], update).sum().backward()
    assert update.grad is not None
    assert torch.isfinite(update.grad).all()


def test_the_margin_loss_is_the_three_hinges() -> None:
    edited, unrelated = torch.tensor([12.0, 25.0]), torch.tensor([4.0, 9.0])
    wanted = (0 + 4) / 2 + (8 + 0) / 2 + (2 + 7 + 0 + 0) / 4  # gamma 10: 12 - 4 = 8, 12 - 9 = 3, 21, 16
    assert float(margin_loss(edited, unrelated, 5, 20, 10)) == pytest.approx(wanted)


def test_ties_agrees_with_the_rule_entry_by_entry() -> None:
    generator = torch.Generator().manual_seed(1)
    updates = [torch.randn(4, 6, generator=generator) for _ in range(3)]
    kept = [trimmed(update, 0.5) for update in updates]
    assert [int((part != 0).sum()) for part in kept] == [12, 12, 12]
    merged = ties(updates, 0.5)
    for row in range(4):
        for column in range(6):
            values = [float(part[row, column]) for part in kept]
            agreeing = [value for value in values if value * sum(values) > 0]
            wanted = sum(agreeing) / len(agreeing) if agreeing else 0.0
            assert float(merged[row, column]) == pytest.approx(wanted, abs=1e-6)


def test_a_shard_changes_only_its_share_of_the_entries(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    run = new_run()
    WISE(WISESettings(**{**FAST, "steps": 3}, shards=1, rho=0.2))(tiny_llama, edits[:1], run=run)
    update = load_tensors(run.folder / "side_memory.safetensors")["update.0"]
    share = float((update != 0).float().mean())
    assert 0 < share <= 0.25


@pytest.mark.parametrize("options", [{"shards": 1}, {"shards": 2, "retrieve": True, "order": "sequential"}])
def test_edits_are_answered_from_the_side_memory_and_other_prompts_bit_for_bit_as_before(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run], options: dict[str, Any]
) -> None:
    before, run = tiny_llama.fingerprint, new_run()
    WISE(WISESettings(**{**FAST, "rho": 1.0, **options}))(tiny_llama, edits[:2], run=run)
    assert tiny_llama.fingerprint == before
    change = load_change(run.folder)
    changed: Any = change.apply(tiny_llama)
    prompts, targets = [edit.prompt for edit in edits[:2]], [edit.target_new for edit in edits[:2]]
    after, plain = (model.logprob(prompts, targets) for model in (changed, tiny_llama))
    assert all(a.per_token > b.per_token + 1 for a, b in zip(after, plain, strict=True))
    router = changed.router
    assert isinstance(router, WISERouter)
    assert all(route is not None for route in router.routes(prompts))
    passed = [prompt for prompt in OTHERS if router.routes([prompt])[0] is None]
    mixed = [*passed, prompts[0]]
    ours, theirs = (model.ask(mixed, ["it"] * len(mixed)) for model in (changed, tiny_llama))
    assert ours[: len(passed)] == theirs[: len(passed)]
    assert change.export("memory", run.folder.parent / "copy", model=tiny_llama) == 0.0
    changed.undo()
    assert changed.logprob(prompts, targets) == plain


@pytest.mark.slow
def test_the_default_settings_edit_the_default_model_and_leave_other_prompts_to_it(
    smollm2: LanguageModel, new_run: Callable[..., Run]
) -> None:
    facts = [record for record in load_records("world:capital#6") if isinstance(record, Fact)][:4]
    pool = [record for record in load_records("world:capital") if isinstance(record, Fact)]
    edits, run = edits_from_facts(facts, pool=pool), new_run()
    changed: Any = WISE(WISESettings(unrelated="world:symbol#20"))(smollm2, edits, run=run).apply(smollm2)
    scores = changed.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    assert sum(score.greedy for score in scores) >= 3
    others = ["The colour of the sky is", "Two and two make", "My dog likes to", "She opened the door and"]
    assert sum(route is None for route in changed.router.routes(others)) >= 3


def test_the_threshold_lies_below_every_edit(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    run = new_run()
    change = WISE(WISESettings(**{**FAST, "steps": 4}, threshold_ratio=0.5))(tiny_llama, edits, run=run)
    router = change.router(tiny_llama)
    layer, _ = late_layer(tiny_llama, None)
    inputs = layer_inputs(tiny_llama, [edit.prompt for edit in edits], layer)
    (memory,) = router.memories
    assert memory.threshold == pytest.approx(0.5 * float(routing_activation(inputs, memory.update).min()), rel=1e-4)


def test_unrelated_prompts_never_name_what_is_edited(edits: tuple[Edit, ...]) -> None:
    found = unrelated_prompts(WISESettings(unrelated="world:symbol"), edits, None, 0)
    assert found
    assert not any("zinc" in prompt.casefold() for prompt in found)


def test_withdrawing_one_edit_of_a_side_memory_is_refused(
    tiny_llama: LanguageModel, edits: tuple[Edit, ...], new_run: Callable[..., Run]
) -> None:
    run = new_run()
    WISE(WISESettings(**{**FAST, "steps": 1}))(tiny_llama, edits, run=run)
    with pytest.raises(SettingsError, match="cannot be taken out"):
        withdraw(run.folder, ["e1"], run.folder.parent / "left", tiny_llama)
    assert not (run.folder.parent / "left").exists()
    with pytest.raises(SettingsError, match="one shard"):
        WISESettings(retrieve=True, shards=1)

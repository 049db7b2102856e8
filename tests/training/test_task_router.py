"""The router of tasks: learns what can be told apart, is chosen on held-out prompts, and is the same from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from keeps.errors import SettingsError, StorageError
from keeps.models.task_router import ROUTER_FILE, TaskRouter, read_router, write_router
from keeps.training.task_router import fit_router

NAMES = ("a", "b", "c")


def planted(per_task: int = 40, spread: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Features of three tasks around their own centres, and the tasks."""
    chance = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, 16, generator=torch.Generator().manual_seed(99))
    labels = [task for task in range(3) for _ in range(per_task)]
    return centres[labels] + spread * torch.randn(len(labels), 16, generator=chance), labels


def test_tasks_that_can_be_told_apart_are_told_apart_on_new_prompts() -> None:
    features, labels = planted()
    router, report = fit_router(features, labels, NAMES, hidden=32, learning_rate=5e-3)
    new, wanted = planted(seed=1)
    assert float((router.weights(new).argmax(1) == torch.tensor(wanted)).float().mean()) > 0.95
    assert report.accuracy > 0.95
    assert (report.trained, report.held_out) == (96, 24)


def test_noise_is_not_reported_as_knowledge() -> None:
    """Accuracy is that of prompts it was not trained on: labels by chance stay near a third."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (150,), generator=chance).tolist()
    _, report = fit_router(torch.randn(150, 16, generator=chance), labels, NAMES, hidden=32, epochs=20)
    assert report.accuracy < 0.6


def test_a_prompts_weights_do_not_depend_on_what_else_is_asked_and_sum_to_one() -> None:
    router = TaskRouter(16, 3, 8).train()
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    together = router.weights(x)
    assert torch.allclose(together, torch.cat([router.weights(row[None]) for row in x]), atol=1e-6)
    assert torch.allclose(together.sum(1), torch.ones(5))
    assert router.weights(x, top=True).sum(1).tolist() == [1] * 5
    assert router.training


def test_the_seed_decides_and_the_callers_random_numbers_are_left_alone() -> None:
    features, labels = planted(8)
    state = torch.get_rng_state()
    first, second, other = (fit_router(features, labels, NAMES, hidden=8, epochs=3, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.weights(features), second.weights(features))
    assert not torch.equal(first.weights(features), other.weights(features))


def test_a_router_from_disk_is_the_one_that_was_written_and_damage_is_refused(tmp_path: Path) -> None:
    features, labels = planted(8)
    router, _ = fit_router(features, labels, NAMES, hidden=8, epochs=2)
    write_router(tmp_path, router, NAMES)
    stored = read_router(tmp_path)
    assert stored.names == NAMES
    assert torch.equal(stored.router.weights(features), router.weights(features))
    path = tmp_path / ROUTER_FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StorageError, match="damaged"):
        read_router(tmp_path)
    write_router(tmp_path, router, NAMES[:2])
    with pytest.raises(StorageError, match="not that of a router"):
        read_router(tmp_path)


def test_a_task_with_too_few_prompts_is_named() -> None:
    with pytest.raises(SettingsError, match='task "c"'):
        fit_router(torch.randn(9, 4), [0] * 4 + [1] * 4 + [2], NAMES, hidden=4)

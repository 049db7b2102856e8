"""Training with ignore-k: what is dropped, when, and that 0 changes no bit of any run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.errors import InterruptedRunError, SettingsError
from keeps.numerics.pruning import dropped_count, keep_mask, keep_masks, pruned
from keeps.training import TrainingSettings, train
from keeps.training.loop import _check_shardable  # pyright: ignore[reportPrivateUsage]
from keeps.training.losses import PackedLoss

QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01, "batch_size": 16}


def fit(
    tiny: Any, folder: Path, kind: str = "full", *, resume: bool = False, after_step: Any = None, **options: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The trained tensors of a tiny model before and after training."""
    model = tiny.model(kind)
    before = tiny.trained(model)
    settings = TrainingSettings(**{**QUICK, **options})
    train(model, tiny.examples(), settings, Run(folder, resume=resume), pad_token_id=0, after_step=after_step)
    return before, tiny.trained(model)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_at_the_end_the_largest_of_what_plain_training_adds_are_gone_and_the_rest_is_it(
    tiny: Any, tmp_path: Path, kind: str
) -> None:
    before, plain = fit(tiny, tmp_path / "a", kind)
    _, found = fit(tiny, tmp_path / "b", kind, ignore_top=8)
    for name, value in plain.items():
        keep = keep_mask(value - before[name], 8)
        assert torch.equal(found[name], pruned(before[name], value, keep)), name
        assert int((~keep).sum()) == dropped_count(value.numel(), 8)


def test_globally_the_ranks_go_over_all_tensors(tiny: Any, tmp_path: Path) -> None:
    before, plain = fit(tiny, tmp_path / "a")
    _, found = fit(tiny, tmp_path / "b", ignore_top=20, ignore_scope="global")
    masks = keep_masks([plain[name] - before[name] for name in plain], 20, scope="global")
    shares = set()
    for (name, value), keep in zip(plain.items(), masks, strict=True):
        assert torch.equal(found[name], pruned(before[name], value, keep)), name
        shares.add(round(float((~keep).float().mean()), 3))
    assert len(shares) > 3


def test_in_every_step_each_update_is_pruned_and_the_optimiser_sees_nothing_of_it(tiny: Any, tmp_path: Path) -> None:
    history: list[list[torch.Tensor]] = []
    moments: list[torch.Tensor] = []

    def watch(module: Any, step: int, optimiser: Any) -> None:
        history.append([parameter.detach().clone() for parameter in module.parameters()])
        if step == 1:
            moments.extend(state["exp_avg"].clone() for state in optimiser.state.values())

    before, _ = fit(tiny, tmp_path / "a", after_step=watch, ignore_top=25, ignore_when="step")
    history.insert(0, list(before.values()))
    for old, new in itertools.pairwise(history):
        for a, b in zip(old, new, strict=True):
            assert int((a == b).sum()) >= dropped_count(a.numel(), 25)
    pruned_moments = list(moments)
    moments.clear()
    fit(tiny, tmp_path / "b", after_step=watch)
    assert all(torch.equal(a, b) for a, b in zip(pruned_moments, moments, strict=True))


def test_zero_is_plain_training_to_the_bit_and_nearly_all_is_nearly_nothing(tiny: Any, tmp_path: Path) -> None:
    before, plain = fit(tiny, tmp_path / "a")
    _, zero = fit(tiny, tmp_path / "b", ignore_top=0.0)
    assert all(torch.equal(zero[name], value) for name, value in plain.items())
    _, most = fit(tiny, tmp_path / "c", ignore_top=99)
    moved = sum(int((most[name] != value).sum()) for name, value in before.items())
    assert 0 < moved <= 0.02 * sum(value.numel() for value in before.values())


@pytest.mark.parametrize("when", ["end", "step"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(tiny: Any, tmp_path: Path, when: str) -> None:
    import os
    import signal

    options: dict[str, Any] = {"ignore_top": 8, "ignore_when": when, "checkpoint_every": 0}
    _, whole = fit(tiny, tmp_path / "a", **options)

    def stop(module: Any, step: int, optimiser: Any) -> None:
        del module, optimiser
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        fit(tiny, tmp_path / "b", after_step=stop, **options)
    _, resumed = fit(tiny, tmp_path / "b", resume=True, **options)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_settings_that_would_do_nothing_and_sharded_models_are_refused() -> None:
    with pytest.raises(SettingsError, match="ignore_when would do nothing"):
        TrainingSettings(ignore_when="step")
    with pytest.raises(SettingsError, match="ignore_scope and ignore_when"):
        TrainingSettings(ignore_when="step", ignore_scope="global")
    with pytest.raises(SettingsError, match="< 100"):
        TrainingSettings(ignore_top=100)
    with pytest.raises(SettingsError, match="whole tensors"):
        _check_shardable(TrainingSettings(ignore_top=8), None, None, PackedLoss)

"""Null-space LoRA: a run that was stopped, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.adapt.null_lora as module
from keeps.adapt.null_lora import SPACES, NullLoRA, NullLoRASettings
from keeps.contracts import Run
from keeps.data.records import Passage, RecordSet
from keeps.errors import EmptySetError, InterruptedRunError, SettingsError, StorageError, TargetError
from keeps.models.nullspaces import load_spaces
from keeps.training import adapter

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,k_proj,mlp.down_proj", "energy": 0.9}


# --- interruption -----------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["lora", "corda"])
def test_a_stopped_run_continues_in_its_stored_room_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, init: str
) -> None:
    settings: dict[str, Any] = {**SMALL, "init": init, "leash": 0.5, "leash_batch": 2, "checkpoint_every": 0}
    whole, undisturbed = contract.run("null_lora", **settings)
    folder = tmp_path / "stopped"
    folder.mkdir()
    real = adapter.train

    def stopping(*args: Any, after_step: Any, **options: Any) -> Any:
        def stop(trained: Any, done: int, optimiser: Any) -> None:
            after_step(trained, done, optimiser)
            if done == 3:
                raise KeyboardInterrupt

        return real(*args, **options, after_step=stop)

    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopping)
        with pytest.raises(InterruptedRunError):
            contract.run("null_lora", folder=folder, **settings)
    stored, _ = load_spaces(folder / SPACES, "cpu")
    first = "model.layers.0.self_attn"
    assert stored[f"{first}.q_proj"] is stored[f"{first}.k_proj"], "what is shared is stored once"

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("the covariances are collected a second time")

    monkeypatch.setattr(module, "collect_covariance", again)
    continued, run = contract.run("null_lora", folder=folder, resume=True, **settings)
    for name, (a, b) in whole.factors().items():
        assert torch.equal(continued.factors()[name][0], a)
        assert torch.equal(continued.factors()[name][1], b)
    for name in ("residual_energy", "bound", "change_held_out", "steps"):
        assert run.measures.get(name) == undisturbed.measures.get(name)
    assert not (folder / SPACES).exists()


def test_spaces_of_another_job_are_refused(contract: Any, tmp_path: Path) -> None:
    run = Run(tmp_path)
    method = NullLoRA(NullLoRASettings(**SMALL))
    method._prepared(contract.model, method._batches(contract.model, contract.keep, 0), run)
    with pytest.raises(StorageError, match="those of other layers"):
        contract.run("null_lora", folder=tmp_path, resume=True, **{**SMALL, "targets": "v_proj"})
    (tmp_path / SPACES).write_bytes(b"damaged")
    with pytest.raises(StorageError):
        contract.run("null_lora", folder=tmp_path, resume=True, **SMALL)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [None, RecordSet("nothing", ())])
def test_without_anything_to_keep_it_is_refused(contract: Any, keep: RecordSet | None) -> None:
    contract.keep = keep
    with pytest.raises(SettingsError, match=r"no data to keep \(null_lora\)"):
        contract.run("null_lora", **SMALL)


def test_text_without_a_token_is_nothing_to_calibrate_on(contract: Any) -> None:
    contract.keep = RecordSet("blank", (Passage("a", ""),))
    with pytest.raises(EmptySetError, match=r"nothing to calibrate on \(blank\)"):
        contract.run("null_lora", **SMALL)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"energy": 1.0}, "energy"),
        ({"energy": 0.0}, "energy"),
        ({"init": "pissa"}, "init"),
        ({"leash": -1}, "leash"),
        ({"leash_batch": 4}, "leash_batch would do nothing"),
        ({"held_out": 0.6}, "held_out"),
        ({"samples": 0}, "samples"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        NullLoRASettings(**values)


def test_a_rank_that_does_not_fit_is_refused_before_the_long_work(
    contract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long_work(*_: Any, **__: Any) -> None:
        raise AssertionError("covariances were collected first")

    monkeypatch.setattr(module, "collect_covariance", long_work)
    with pytest.raises(TargetError, match="rank 40 does not fit"):
        contract.run("null_lora", rank=40)

"""CorDA: the contract, what it calibrates on, where it starts from, and that it continues from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.adapt.corda as module
from keeps.adapt.corda import CorDA, CorDASettings, adapter_starts
from keeps.contracts import Run, SilentProgress
from keeps.data.records import Passage, RecordSet
from keeps.errors import EmptySetError, InterruptedRunError, SettingsError, StorageError, TargetError, UnknownNameError
from keeps.training import adapter
from keeps.training.adapter import START_FILE, set_starts, wrap
from keeps.weights import load_tensors

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,mlp.down_proj"}


@pytest.mark.parametrize("settings", [{"mode": "ipm", "rank": 8}, {"mode": "kpm", "rank": 16, "balance": True}])
def test_it_learns(contract: Any, settings: dict[str, Any]) -> None:
    contract.check_learns("corda", **settings)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("corda", **SMALL)


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("mode", ["kpm", "ipm"])
def test_its_folder_loads_in_plain_peft(contract: Any, mode: str, stabilised: bool) -> None:
    contract.check_folder("corda", mode=mode, rank=2, alpha=8.0, rank_stabilised=stabilised, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("corda", **SMALL)


def test_the_adapter_on_disk_has_twice_the_rank_and_one_half_is_the_start(contract: Any) -> None:
    change, run = contract.run("corda", **SMALL)
    settings = CorDASettings(**SMALL)
    method = CorDA(settings)
    covariances = method.covariances(contract.model, contract.keep, Run(contract.folder))
    starts = adapter_starts(contract.model.model, covariances, settings)
    assert json.loads((change.folder / "adapter_config.json").read_text())["r"] == 4
    for name, (a, b) in change.factors().items():
        assert a.shape[0] == b.shape[1] == 4
        torch.testing.assert_close(a[2:], starts[name].a.float())
        torch.testing.assert_close(b[:, 2:], -starts[name].b.float())
        assert not torch.equal(a[:2], a[2:]), "the other half was trained"
    assert run.measures["reduced_base"] is True
    assert run.measures["damping"] >= 0.01


# --- what it calibrates on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "source", "answers"),
    [
        ({"mode": "kpm"}, "keep", False),
        ({"mode": "ipm"}, "learn", True),
        ({"mode": "kpm", "answers": "yes"}, "keep", True),
        ({"mode": "ipm", "answers": "no"}, "learn", False),
    ],
)
def test_kpm_calibrates_on_what_to_keep_and_ipm_on_what_to_learn(
    contract: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], source: str, answers: bool
) -> None:
    asked = []
    real = module.calibration_sequences

    def recorded(model: Any, records: Any, **options: Any) -> Any:
        asked.append((records.source, options["answers"]))
        return real(model, records, **options)

    monkeypatch.setattr(module, "calibration_sequences", recorded)
    change, _ = contract.run("corda", **SMALL, steps=1, **settings)
    assert asked == [(source, answers)]
    wanted = contract.learn if source == "learn" else contract.keep
    assert change.record.data == {"learn": contract.learn.fingerprint, "calibrate": wanted.fingerprint}


@pytest.mark.parametrize("keep", [None, RecordSet("nothing", ())])
def test_kpm_without_anything_to_keep_is_refused_and_ipm_is_not(contract: Any, keep: RecordSet | None) -> None:
    contract.keep = keep
    with pytest.raises(SettingsError, match=r'"kpm" needs data to keep .*--keep, or choose --mode ipm'):
        contract.run("corda", **SMALL)
    contract.run("corda", mode="ipm", steps=1, **SMALL)


def test_text_without_a_token_is_nothing_to_calibrate_on(contract: Any) -> None:
    contract.keep = RecordSet("blank", (Passage("a", ""),))
    with pytest.raises(EmptySetError, match=r"nothing to calibrate on \(blank\)"):
        contract.run("corda", **SMALL)


def test_the_number_and_length_of_samples_bound_what_is_read(contract: Any) -> None:
    told: list[str] = []

    class Told(SilentProgress):
        def message(self, text: str) -> None:
            told.append(text)

    def covariance(**settings: Any) -> tuple[Any, Run]:
        run = Run(contract.folder, progress=Told())
        method = CorDA(CorDASettings(**SMALL, **settings))
        return next(iter(method.covariances(contract.model, contract.keep, run).values())), run

    alone, _ = covariance(sample_tokens=1)
    assert alone.n_samples == len(contract.keep)
    some, run = covariance(sample_tokens=1, samples=5)
    assert some.n_samples == 5
    assert some.n_tokens == run.measures["calibration_tokens"] < alone.n_tokens
    assert any(f"{some.n_tokens} tokens to calibrate layers of up to 64 inputs" in text for text in told)
    joined, _ = covariance(sample_tokens=30)
    assert 1 < joined.n_samples < len(contract.keep)


# --- interruption -----------------------------------------------------------------------------


def stopping(real: Any, step: int) -> Any:
    """``train``, stopped after ``step`` steps as if the user had pressed Control-C."""

    def train(*args: Any, **options: Any) -> Any:
        def stop(_: Any, done: int, __: Any) -> None:
            if done == step:
                raise KeyboardInterrupt

        return real(*args, **options, after_step=stop)

    return train


@pytest.mark.parametrize("step", [1, 3])
def test_a_stopped_run_continues_from_its_stored_start_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int
) -> None:
    settings = {**SMALL, "checkpoint_every": 0, "mode": "kpm"}
    whole, undisturbed = contract.run("corda", **settings)
    folder = tmp_path / "stopped"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopping(adapter.train, step))
        with pytest.raises(InterruptedRunError):
            contract.run("corda", folder=folder, **settings)
    first = load_tensors(folder / START_FILE)

    def again(*_: Any) -> None:
        raise AssertionError("the start is decomposed a second time")

    monkeypatch.setattr(CorDA, "starts", again)
    given: dict[str, Any] = {}
    real_set = module.set_starts

    def recorded(wrapped: Any, starts: Any, run: Run) -> None:
        given.update(starts)
        real_set(wrapped, starts, run)

    monkeypatch.setattr(module, "set_starts", recorded)
    continued, run = contract.run("corda", folder=folder, resume=True, **settings)
    assert sorted(first) == sorted(f"{name}.{part}" for name in given for part in ("a", "b", "values"))
    for name, start in given.items():
        assert torch.equal(start.a, first[f"{name}.a"])
        assert torch.equal(start.b, first[f"{name}.b"])
    for name, (a, b) in whole.factors().items():
        assert torch.equal(continued.factors()[name][0], a)
        assert torch.equal(continued.factors()[name][1], b)
    for name in ("damping", "calibration_tokens", "steps"):
        assert run.measures[name] == undisturbed.measures[name]
    assert not (folder / START_FILE).exists()


def test_starts_of_another_job_are_refused(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopping(adapter.train, 1))
        with pytest.raises(InterruptedRunError):
            contract.run("corda", folder=tmp_path, **SMALL)
    with pytest.raises(StorageError, match="started from other layers or ranks"):
        contract.run("corda", folder=tmp_path, resume=True, **{**SMALL, "rank": 3})


def test_a_new_run_never_uses_the_starts_that_an_old_one_left(contract: Any, tmp_path: Path) -> None:
    settings = CorDASettings(**SMALL)
    for mode in ("kpm", "ipm"):
        run = Run(tmp_path)  # not resumed
        method = CorDA(CorDASettings(**SMALL, mode=mode))
        assert adapter.stored_starts(run) == {}
        starts = method.starts(contract.model, contract.keep, run)
        wrapped = wrap(contract.model, settings, seed=0)
        set_starts(wrapped, starts, run)
        wrapped.unwrap()
        stored = adapter.stored_starts(Run(tmp_path, resume=True))
        assert all(torch.equal(stored[name].a, start.a) for name, start in starts.items())


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "kmp"},
        {"samples": 0},
        {"sample_tokens": 0},
        {"answers": "maybe"},
        {"normalise": "abs"},
        {"orientation": "sideways"},
        {"damping": "float16"},
        {"rank": 0},
        {"alpha": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        CorDASettings.from_mapping(values)


def test_an_unknown_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match='did you mean "normalise"'):
        CorDASettings.from_mapping({"normalize": "max"})


def test_a_rank_that_does_not_fit_is_refused_before_the_long_work(
    contract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long_work(*_: Any) -> None:
        raise AssertionError("covariances were collected first")

    monkeypatch.setattr(CorDA, "covariances", long_work)
    with pytest.raises(TargetError, match="rank 40 does not fit"):
        contract.run("corda", rank=40)

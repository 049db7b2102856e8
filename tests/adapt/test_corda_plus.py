"""CorDA++: covariances chosen layer by layer, ranks shared out by compactness, and spectra without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.adapt.corda import CorDA, CorDASettings
from keeps.contracts import Run
from keeps.errors import InterruptedRunError, SettingsError
from keeps.models.targets import find_targets
from keeps.numerics.spectrum import held
from keeps.training import adapter
from keeps.training.oriented import adapter_starts, most_compact, ranks_of

ALLOCATED: dict[str, Any] = {"rank": 4, "targets": "q_proj,mlp.down_proj", "rank_allocation": "compactness"}


def starts_of(contract: Any, **settings: Any) -> Any:
    method = CorDA(CorDASettings(**settings))
    return method.starts(contract.model, contract.keep, Run(contract.folder))


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
def test_allocated_ranks_train_no_more_parameters_and_leave_a_more_compact_model(contract: Any, mode: str) -> None:
    layers = find_targets(contract.model.model)
    cost = {name: layer.in_features + layer.out_features for name, layer in layers.items()}
    even = starts_of(contract, rank=4, mode=mode)
    shared = starts_of(contract, rank=4, mode=mode, rank_allocation="compactness")
    ranks = ranks_of(shared)
    budget = sum(4 * cost[name] for name in cost)
    spent = sum(rank * cost[name] for name, rank in ranks.items())
    assert budget - max(cost.values()) < spent <= budget
    assert len(set(ranks.values())) > 1
    assert all(2 <= rank <= 8 for rank in ranks.values())

    def density(starts: Any) -> float:
        return sum(held(start.values, start.energy) for start in starts.values())

    assert density(shared) > density(even) if mode == "ipm" else density(shared) < density(even)


def test_the_ranks_are_on_disk_and_the_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("corda", **ALLOCATED)
    change, _ = contract.run("corda", **ALLOCATED, steps=1)
    ranks = {name: a.shape[0] for name, (a, _) in change.factors().items()}
    expected = ranks_of(starts_of(contract, **ALLOCATED))
    assert ranks == {name: 2 * rank for name, rank in expected.items()}
    config = json.loads((change.folder / "adapter_config.json").read_text())
    assert len(config["rank_pattern"]) == sum(rank != 4 for rank in expected.values())
    assert change.record.settings["rank_allocation"] == "compactness"
    assert change.record.settings["rank_pattern"] == {}, "the settings are those that were asked for"


def test_a_stopped_run_with_allocated_ranks_continues_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {**ALLOCATED, "checkpoint_every": 0}
    whole, _ = contract.run("corda", **settings)
    real = adapter.train

    def stopped(*args: Any, **options: Any) -> Any:
        def stop(_: Any, done: int, __: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

        return real(*args, **options, after_step=stop)

    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopped)
        with pytest.raises(InterruptedRunError):
            contract.run("corda", folder=tmp_path, **settings)
    monkeypatch.setattr(CorDA, "starts", lambda *_: pytest.fail("decomposed a second time"))
    continued, _ = contract.run("corda", folder=tmp_path, resume=True, **settings)
    for name, (a, b) in whole.factors().items():
        assert torch.equal(continued.factors()[name][0], a)
        assert torch.equal(continued.factors()[name][1], b)


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
def test_each_layer_takes_the_candidate_with_the_most_compact_spectrum(contract: Any, mode: str) -> None:
    settings = CorDASettings(rank=2, mode=mode, samples=3, sample_tokens=1, candidates=4)
    method, run = CorDA(settings), Run(contract.folder)
    draws = list(method.candidates(contract.model, contract.keep, run))
    each = [adapter_starts(contract.model.model, draw, settings) for draw in draws]
    chosen = most_compact(contract.model.model, draws, settings)
    best = max if mode == "ipm" else min
    winners = set()
    for name, start in chosen.items():
        shares = [held(found[name].values, found[name].energy) for found in each]
        assert held(start.values, start.energy) == best(shares)
        winners.add(shares.index(best(shares)))
    assert len(winners) > 1, "layers choose for themselves"
    again = method.starts(contract.model, contract.keep, run)
    assert all(torch.equal(again[name].a, start.a) for name, start in chosen.items())


def test_candidates_that_would_all_be_the_same_are_refused(contract: Any) -> None:
    with pytest.raises(SettingsError, match=r"would take all 12 samples .*samples below 12"):
        contract.run("corda", rank=2, candidates=2, sample_tokens=1)
    contract.run("corda", rank=2, candidates=2, sample_tokens=1, samples=5, steps=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank_allocation": "compactness", "rank_pattern": {"q_proj": 3}}, "rank_pattern gives ranks"),
        ({"rank_cap": 3.0}, "rank_cap does nothing"),
        ({"rank_cap": 1.0, "rank_allocation": "compactness"}, "rank_cap"),
        ({"rank_allocation": "equal"}, "rank_allocation"),
        ({"candidates": 0}, "candidates"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        CorDASettings.from_mapping(values)


def test_the_spectra_say_what_a_run_would_start_from_and_change_nothing(contract: Any) -> None:
    run = Run(contract.folder)
    contexts = {"keep": contract.keep, "learn": contract.learn}
    found = CorDA(CorDASettings(rank=3)).spectrum(contract.model, contexts, run)
    assert list(found) == ["keep", "learn"]
    for mode, lines in zip(("kpm", "ipm"), found.values(), strict=True):
        method = CorDA(CorDASettings(rank=3, mode=mode))
        starts = method.starts(contract.model, contract.keep if mode == "kpm" else contract.learn, run)
        assert [line["layer"] for line in lines] == list(find_targets(contract.model.model))
        for line in lines:
            start = starts[line["layer"]]
            assert line[mode] == pytest.approx(held(start.values, start.energy), rel=1e-4)
            assert line["compactness"] == pytest.approx(line["ipm"] if mode == "ipm" else 1 - line["kpm"])
            assert line["damping"] == start.delta
            assert 1 <= line["components_99"] <= line["components"]

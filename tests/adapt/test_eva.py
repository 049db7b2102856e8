"""EVA: the contract, directions of the answers' activations, and ranks where they explain most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_starts import (
    SMALL,
    check_refuses_the_starts_of_another_job,
    check_resumes_from_its_stored_start,
    check_step_zero_equals_the_base,
    starts_of,
)
from torch import Tensor

from keeps.contracts import Run, SilentProgress
from keeps.data.records import Example, RecordSet
from keeps.errors import SettingsError, StatisticsError, TargetError
from keeps.models.targets import find_targets
from keeps.numerics.starts import principal_inputs, redistributed
from keeps.training.examples import tokenise


def inputs_of(contract: Any, *, prompts: bool) -> dict[str, Tensor]:
    """The inputs of every layer, (tokens, in), example by example without padding or masks."""
    layers = find_targets(contract.model.model)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    first = 0

    def hook(name: str) -> Any:
        return lambda _, inputs: seen[name].append(inputs[0][0, first:].double())

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    with torch.no_grad():
        for example in tokenise(contract.model, contract.learn):
            first = 0 if prompts else example.answer_start
            contract.model.model(input_ids=torch.tensor([example.input_ids]))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_it_learns(contract: Any) -> None:
    contract.check_learns("eva", rank=8)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("eva", rank=2, targets="q_proj", samples=5)


def test_its_folder_loads_in_plain_peft_with_ranks_of_its_own(contract: Any) -> None:
    contract.check_folder("eva", rank=4, alpha=8.0, rank_stabilised=True)


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("eva", rank=2)


def test_step_zero_equals_the_base_to_the_bit(contract: Any) -> None:
    check_step_zero_equals_the_base(contract, "eva", reduced=False, rank=4, alpha=8.0)


def test_a_stopped_run_continues_from_its_start_and_ranks(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_resumes_from_its_stored_start(contract, monkeypatch, tmp_path, "eva")


def test_starts_of_another_job_are_refused(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_refuses_the_starts_of_another_job(contract, monkeypatch, tmp_path, "eva")


@pytest.mark.parametrize(("prompts", "centred"), [(False, False), (True, False), (False, True)])
def test_a_reads_the_singular_vectors_of_the_stacked_inputs(contract: Any, prompts: bool, centred: bool) -> None:
    starts = starts_of(contract, "eva", rank=4, rho=1.0, use_prompts=prompts, centred=centred, samples=1000)
    for name, x in inputs_of(contract, prompts=prompts).items():
        _, values, vt = torch.linalg.svd(x - x.mean(0) * centred, full_matrices=False)
        shares = values.square() / values.square().sum()
        torch.testing.assert_close(starts[name].values, shares[:4], rtol=1e-3, atol=1e-6)
        # the subspace, as single vectors turn where two shares are close
        mine, theirs = starts[name].a.T @ starts[name].a, vt[:4].T @ vt[:4]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3)
        assert not starts[name].b.any()


def test_ranks_go_where_components_explain_most(contract: Any) -> None:
    starts = starts_of(contract, "eva", rank=4, rho=2.0)
    pairs = []
    for name, x in inputs_of(contract, prompts=False).items():
        values = torch.linalg.svdvals(x).square()
        pairs += [(float(share), name) for share in (values / values.sum())[:8]]
    chosen = sorted(pairs, key=lambda pair: -pair[0])[: 4 * 14]  # stable: layers with one input in their order
    wanted = {name: sum(owner == name for _, owner in chosen) for name in starts}
    ranks = {name: start.a.shape[0] for name, start in starts.items()}
    assert ranks == wanted
    assert sum(ranks.values()) == 4 * 14
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 8


def test_the_folder_has_the_ranks_and_one_scaling(contract: Any) -> None:
    change, run = contract.run("eva", rank=4, alpha=8.0)
    ranks = {name: a.shape[0] for name, (a, _) in change.factors().items()}
    config = json.loads((change.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    for pattern, rank in config["rank_pattern"].items():
        assert config["alpha_pattern"][pattern] == 2 * rank, "s stays 2"
    assert set(config["target_modules"]) == set(ranks)
    assert run.measures["reduced_base"] is False
    assert run.measures["largest_rank"] == max(ranks.values())
    assert run.measures["layers_without_adapter"] == 14 - len(ranks)
    assert change.record.settings["rank_pattern"] == {}, "the settings are those that were given"


def test_ranks_that_the_data_cannot_fill_are_not_spent(contract: Any) -> None:
    contract.learn = RecordSet("one", (Example("a", "The code is", "7"),))
    told: list[str] = []

    class Told(SilentProgress):
        def message(self, text: str) -> None:
            told.append(text)

    from adapter_starts import made

    run = Run(contract.folder, progress=Told())
    starts = made("eva", rank=8, targets="q_proj", rho=1.0).starts(contract.model, contract.learn, None, run)
    tokens = run.measures["calibration_tokens"]
    assert tokens < 8
    assert [start.a.shape[0] for start in starts.values()] == [tokens, tokens]
    assert any("of 16 ranks are used" in text for text in told)


# --- the arithmetic ---------------------------------------------------------------------------


def test_redistribution_takes_the_largest_shares_of_all_and_leaves_rounding_out() -> None:
    shares = {"a": torch.tensor([0.6, 0.3]), "b": torch.tensor([0.99, 1e-15]), "c": torch.tensor([0.2, 0.2])}
    assert redistributed(shares, 2) == {"a": 1, "b": 1, "c": 0}
    assert redistributed(shares, 4) == {"a": 2, "b": 1, "c": 1}
    assert redistributed(shares, 100) == {"a": 2, "b": 1, "c": 2}


def test_a_covariance_of_nothing_is_refused() -> None:
    with pytest.raises(StatisticsError, match="all zero"):
        principal_inputs(torch.zeros(3, 3), 2)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"rho": 0.5}, SettingsError),
        ({"samples": 0}, SettingsError),
        ({"rank": 33}, TargetError),
        ({**SMALL, "targets": ("qproj",)}, TargetError),
    ],
)
def test_bad_settings_are_refused(contract: Any, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract.run("eva", **values)

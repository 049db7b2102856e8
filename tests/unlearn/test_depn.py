"""DEPN: its neurons against formulas, that switching them off forgets more than others, and what is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from method_contract import tensors_of

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.models.changes import load_change
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import switch_off
from keeps.numerics.neurons import integrated_gradients, shared_neurons
from keeps.unlearn.depn import DEPN, FILE, DEPNSettings

FEW = {"neurons": 6}


@given(st.integers(0, 1000))
@hypothesis_settings(max_examples=15, deadline=None)
def test_attributions_sum_to_what_all_activations_together_add(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, w = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    found = integrated_gradients(lambda rows: (rows @ w).sigmoid(), a, steps=2000)
    assert float(found.sum()) == pytest.approx(float((a @ w).sigmoid()) - 0.5, abs=2e-3)


def test_neurons_that_more_texts_share_come_first_and_weak_ones_never() -> None:
    scores = torch.tensor([[1.0, 0.5, 0.05, 0.0, -2.0], [0.0, 0.5, 0.9, 0.05, -2.0], [0.0, 0.0, 2.0, 0.1, -2.0]])
    assert shared_neurons(scores, count=9).tolist() == [2, 1, 0]
    assert shared_neurons(scores, count=2).tolist() == [2, 1]
    assert shared_neurons(scores, count=9, threshold=0.0).tolist() == [2, 1, 3, 0]


def test_it_forgets_more_than_the_same_number_of_neurons_in_their_blocks_at_random(contract: Any) -> None:
    before = contract.losses()[0]
    change, _ = contract.run("depn", **FEW)
    after = contract.losses(change)[0]
    listed = json.loads((change.folder / FILE).read_text())
    refs = {ref.name: ref for ref in mlp_outputs(contract.model.model)}
    generator, others = torch.Generator().manual_seed(0), []
    for _ in range(5):
        saved = {name: refs[name].weight.detach().clone() for name in listed}
        for name, neurons in listed.items():
            switch_off(refs[name], torch.randperm(refs[name].in_features, generator=generator)[: len(neurons)].tolist())
        others.append(contract.losses()[0])
        with torch.no_grad():
            for name, weight in saved.items():
                refs[name].weight.copy_(weight)
    assert after > before
    assert after > max(others)


def test_only_the_listed_columns_change_and_the_same_data_give_the_same_bytes(contract: Any) -> None:
    change, run = contract.run("depn", **FEW)
    again, _ = contract.run("depn", **FEW, seed=1)
    listed = json.loads((change.folder / FILE).read_text())
    assert sum(map(len, listed.values())) == run.measures["switched_off"] == FEW["neurons"]
    one, other = tensors_of(change.folder), tensors_of(again.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    changed = load_change(change.folder).apply(contract.model)
    now = {name: value.detach().clone() for name, value in changed.model.named_parameters()}
    changed.undo()
    for name, value in contract.model.model.named_parameters():
        wanted = value.detach().clone()
        if name.removesuffix(".weight") in listed:
            wanted[:, listed[name.removesuffix(".weight")]] = 0
        assert torch.equal(now[name], wanted), name


def test_attribution_leaves_flags_and_hooks_as_they_were(contract: Any) -> None:
    DEPN(DEPNSettings(path_steps=2, tokens=1)).scores(contract.model, contract.forget, Run(contract.folder))
    refs = mlp_outputs(contract.model.model)
    assert not any(ref.module._forward_pre_hooks or ref.module._forward_hooks for ref in refs)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("depn")


@pytest.mark.parametrize("values", [{"neurons": 0}, {"threshold": 1.0}, {"path_steps": 0}, {"tokens": 0}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        DEPNSettings.from_mapping(values)

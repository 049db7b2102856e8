"""What every adapter that starts from something other than B = 0 or chance must show; used by its tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import keeps.training.adapter as adapter
import keeps.training.initialised as initialised
from keeps.contracts import Run
from keeps.errors import InterruptedRunError, StorageError
from keeps.models.targets import find_targets
from keeps.numerics.oriented import AdapterStart
from keeps.registry import find_method
from keeps.training.adapter import START_FILE, set_starts, wrap
from keeps.weights import load_tensors

SMALL: Mapping[str, Any] = {"rank": 2, "targets": "q_proj,mlp.down_proj"}


def made(name: str, **settings: Any) -> Any:
    """The method called ``name`` with these settings."""
    info = find_method(name, "adapt")
    return info.implementation(info.settings.from_mapping(settings))


def starts_of(contract: Any, name: str, **settings: Any) -> dict[str, AdapterStart]:
    """Where ``name`` starts on the contract's model."""
    run = Run(contract.folder, seed=0)
    return made(name, **settings).starts(contract.model, contract.learn, contract.keep, run)


def weights_of(contract: Any, targets: str = "all-linear") -> dict[str, Tensor]:
    """The float64 weights of the target layers."""
    layers = find_targets(contract.model.model, tuple(targets.split(",")))
    return {name: layer.weight.detach().double() for name, layer in layers.items()}


def check_step_zero_equals_the_base(contract: Any, name: str, *, reduced: bool, **settings: Any) -> None:
    """The wrapped model gives the base's logits; its frozen weights are reduced, or not, as the method says."""
    ids = torch.arange(2, 40)[None]
    method, run = made(name, **settings), Run(contract.folder, seed=0)
    with torch.no_grad():
        before = contract.model.model(ids).logits
    starts = method.starts(contract.model, contract.learn, contract.keep, run)
    wrapped = wrap(contract.model, method.layout(contract.model, starts, run), seed=0)
    set_starts(wrapped, starts, run)
    try:
        with torch.no_grad():
            after = wrapped.peft_model(ids).logits
        assert bool(wrapped.start) is reduced
        for layer, (a, b) in wrapped.factors().items():
            torch.testing.assert_close(a, starts[layer].a.float())
            torch.testing.assert_close(b, starts[layer].b.float())
    finally:
        wrapped.unwrap()
    assert float((after - before).abs().max()) < 2e-5 * float(before.abs().max())
    if not reduced:
        assert torch.equal(after, before)


def check_resumes_from_its_stored_start(
    contract: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, **settings: Any
) -> None:
    """A stopped run continues to the same bytes, and what it measured before training is not lost."""
    options = {**SMALL, "checkpoint_every": 0, **settings}
    whole, undisturbed = contract.run(name, **options)
    _stop(contract, monkeypatch, folder, name, options)
    assert load_tensors(folder / START_FILE)

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("the start is computed a second time")

    with monkeypatch.context() as patch:
        patch.setattr(find_method(name, "adapt").implementation, "starts", again)
        continued, run = contract.run(name, folder=folder, resume=True, **options)
    for layer, (a, b) in whole.factors().items():
        assert torch.equal(continued.factors()[layer][0], a)
        assert torch.equal(continued.factors()[layer][1], b)
    timed = ("seconds", "per_second", "memory")
    same = {key: value for key, value in undisturbed.measures.items() if not any(word in key for word in timed)}
    assert {key: run.measures[key] for key in same} == same


def check_refuses_the_starts_of_another_job(
    contract: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, **settings: Any
) -> None:
    """An interrupted run that is continued with another rank is refused, and the model is left alone."""
    options = {**SMALL, **settings}
    _stop(contract, monkeypatch, folder, name, options)
    with pytest.raises(StorageError, match="started from other layers or ranks"):
        contract.run(name, folder=folder, resume=True, **{**options, "rank": 1})


def check_doubled(contract: Any, name: str, **settings: Any) -> None:
    """On disk lie rank 2r, one half of it the start, and every form is exact."""
    change, run = contract.run(name, **SMALL, **settings)
    assert run.measures["reduced_base"] is True
    starts = starts_of(contract, name, **SMALL, **settings)
    for layer, (a, b) in change.factors().items():
        assert a.shape[0] == 4
        torch.testing.assert_close(a[2:], starts[layer].a.float())
        torch.testing.assert_close(b[:, 2:], -starts[layer].b.float())
        assert not torch.equal(a[:2], a[2:]), "the other half was trained"
    for form in ("lora", "residual", "merged"):
        assert change.export(form, contract.folder / f"{name}-{form}", model=contract.model) < 1e-4


def peft_products(contract: Any, targets: list[str], **config: Any) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A, B and s of every layer as peft initialises a copy of the contract's model."""
    import copy

    from peft import LoraConfig, get_peft_model

    from keeps.models.adapters import lora_layers

    prepare = config.pop("prepare", None)
    model = copy.deepcopy(contract.model.model)
    lora = LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **config)
    if prepare is not None:
        prepare(model, lora)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = lora_layers(get_peft_model(model, lora))
    return {
        name: (
            layer.lora_A["default"].weight.detach().double(),
            layer.lora_B["default"].weight.detach().double(),
            layer.scaling["default"],
        )
        for name, layer in layers.items()
    }


def _stop(contract: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, options: Mapping[str, Any]) -> None:
    real = adapter.train

    def train(*args: Any, **hooks: Any) -> Any:
        def stop(_: Any, done: int, __: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

        return real(*args, **hooks, after_step=stop)

    assert initialised.train_and_write is adapter.train_and_write
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", train)
        with pytest.raises(InterruptedRunError):
            contract.run(name, folder=folder, **options)

"""Every method on a model whose weights lie transposed (GPT-2): it learns, its folder is plain, the model stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_contract import Contract
from method_contract import left_alone
from pico_models import pico

from keeps.adapt.lora import LoRA
from keeps.contracts import Run
from keeps.models import LanguageModel
from keeps.models.adapter_files import read_config
from keeps.models.locate import is_transposed
from keeps.registry import methods
from keeps.training.adapter import AdapterSettings

OWN: dict[str, dict[str, Any]] = {
    "corda": {"rank": 2, "rank_allocation": "compactness"},
    "full": {},
    "loftq": {"rank": 2, "bits": 3},
    "mix_cpt": {"sft_samples": 4, "sft_epochs": 1, "steps": 2},
    "null_lora": {"rank": 2, "init": "corda", "energy": 0.8},
}


@pytest.fixture(scope="module")
def loaded_gpt2(smollm2: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    made = pico("gpt2", smollm2.tokenizer)
    module: Any = made.model
    module.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return LanguageModel.load(folder)


@pytest.fixture
def contract(loaded_gpt2: LanguageModel, tmp_path: Path) -> Iterator[Contract]:
    layers = {name: layer for name, layer in loaded_gpt2.model.named_modules() if is_transposed(layer)}
    with left_alone(loaded_gpt2):
        yield Contract(loaded_gpt2, tmp_path)
    assert all(loaded_gpt2.model.get_submodule(name) is layer for name, layer in layers.items())


@pytest.mark.parametrize("name", sorted(set(methods("adapt")) - {"loramoe"}))
def test_its_folder_loads_without_keeps(contract: Contract, name: str) -> None:
    contract.check_folder(name, **OWN.get(name, {"rank": 2}))


@pytest.mark.parametrize(("name", "form"), [("dora", "merged"), ("corda", "residual"), ("pissa", "merged")])
def test_the_other_forms_are_the_same_model(contract: Contract, name: str, form: str, tmp_path: Path) -> None:
    change, _ = contract.run(name, rank=2)
    assert change.export(form, tmp_path / "out", model=contract.model) < 1e-4
    assert read_config(change.folder)["fan_in_fan_out"] is True


def test_experts_lie_beside_transposed_layers(contract: Contract) -> None:
    change, _ = contract.run("loramoe", targets="c_fc,mlp.c_proj", rank=2)
    assert change.record.measures["export_difference"] < 1e-4
    changed = change.apply(contract.model)
    changed.undo()


def test_lora_starts_and_learns_as_on_plain_layers(contract: Contract, tmp_path: Path) -> None:
    """The very same weights laid out plainly give the very same adapter."""
    from keeps.models.plain_layers import plain_layers

    settings = AdapterSettings(rank=2, epochs=2, batch_size=4, learning_rate=0.01)
    found = []
    for name in ("turned", "plain"):
        (tmp_path / name).mkdir()
        with plain_layers(contract.model.model) if name == "plain" else nullcontext():
            change = LoRA(settings)(contract.model, contract.learn, run=Run(tmp_path / name))
        found.append(change.factors())
    for name, (a, b) in found[0].items():
        assert torch.equal(a, found[1][name][0]), name
        assert torch.equal(b, found[1][name][1]), name

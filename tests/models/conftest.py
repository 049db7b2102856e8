"""Changes of a tiny model as the methods leave them on disk, and plain libraries to load them with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from keeps.adapt.corda import init_adapter
from keeps.contracts import ChangeRecord
from keeps.models import LanguageModel
from keeps.models.adapter_files import write_adapter
from keeps.models.adapters import ADAPTER, copy_into, doubled, lora_layers, wrap_lora
from keeps.models.changes import source_of
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.logits import CHECK_TEXTS

PATTERN = {"q_proj": 3}


@pytest.fixture(scope="module")
def loaded_tiny(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


@pytest.fixture
def tiny(loaded_tiny: LanguageModel) -> Any:
    """The tiny model, which every test must leave bit by bit as it was."""
    before = loaded_tiny.fingerprint
    flags = [parameter.requires_grad for parameter in loaded_tiny.model.parameters()]
    yield loaded_tiny
    assert loaded_tiny.fingerprint == before
    assert [parameter.requires_grad for parameter in loaded_tiny.model.parameters()] == flags
    assert not hasattr(loaded_tiny.model, "peft_config")


def disturb(parameters: Any, seed: int = 1) -> None:
    """A random change that stands for training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.2 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)


def record_of(kind: str, method: str, model: LanguageModel, **measures: Any) -> ChangeRecord:
    return ChangeRecord(
        kind=kind,
        method=method,
        settings={},
        base_model=source_of(model),
        base_fingerprint=model.fingerprint,
        seed=0,
        data={},
        versions={},
        measures=measures,
    )


def make_adapter(model: LanguageModel, folder: Path, *, method: str = "corda", stabilised: bool = False) -> Path:
    """An adapter folder as the methods leave it, trained by chance."""
    folder.mkdir()
    module = model.model
    if method == "corda":
        options: dict[str, Any] = {"rank_stabilised": stabilised, "rank_pattern": PATTERN}
        wrapped = init_adapter(module, r=2, alpha=3.0, method="plain", mode="kpm", **options)
    else:
        wrapped = wrap_lora(
            module, targets=("all-linear",), rank=2, alpha=3.0, rank_stabilised=stabilised, rank_pattern=PATTERN
        )
    layers = lora_layers(wrapped.peft_model).values()
    disturb(part[ADAPTER].weight for layer in layers for part in (layer.lora_A, layer.lora_B))
    if method == "lora":  # B is zero at the start, where multiplying by noise changes nothing
        with torch.no_grad():
            for layer in layers:
                torch.nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.1)
    factors = doubled(wrapped.factors(), wrapped.start)
    multiple = 2 if wrapped.start else 1
    write_adapter(folder, wrapped.peft_model, factors, multiple=multiple, base=source_of(model))
    wrapped.unwrap()
    record_of("adapter", method, model, reduced_base=method == "corda").write(folder)
    return folder


def make_checkpoint(model: LanguageModel, folder: Path) -> Path:
    parameters = dict(model.model.named_parameters())
    originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    record = record_of("checkpoint", "full", model)
    disturb(parameters.values())
    save_checkpoint(model.model, model.tokenizer, folder)
    record.write(folder)
    copy_into(parameters, originals)
    return folder


@torch.no_grad()
def logits_of(module: Any, tokenizer: Any) -> list[Tensor]:
    module.eval()
    return [module(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in CHECK_TEXTS]


def with_plain_peft(base: Path | str, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))


def with_plain_transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="session")
def stored() -> SimpleNamespace:
    """``adapter(model, folder, method=, stabilised=)`` and ``checkpoint(model, folder)`` make changes;

    ``record`` a record alone; ``logits(module, tokenizer)`` those of the check texts; ``with_peft(base,
    adapter)`` and ``with_transformers(folder)`` load without keeps.
    """
    return SimpleNamespace(
        adapter=make_adapter,
        checkpoint=make_checkpoint,
        record=record_of,
        logits=logits_of,
        with_peft=with_plain_peft,
        with_transformers=with_plain_transformers,
    )

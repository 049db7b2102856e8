"""Fine-tunes of tiny models, as folders: every weight moved by chance, which stands for training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import ChangeRecord, Run
from keeps.merge.twin import Twin, TwinSettings
from keeps.models import LanguageModel
from keeps.models.adapter_files import write_config, write_factors
from keeps.models.changes import source_of
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.fine_tunes import FineTune
from keeps.models.twin_files import TwinChange

FULL: dict[str, Any] = {"density": 1.0, "epochs": 60, "hidden": 32, "learning_rate": 0.01, "resolution": 0}
MIXED = ("2 + 3 =", "The town of Oslo is in the country of", "O rose, thou art")
PROMPTS = {
    "sums": ("2 + 3 =", "7 + 1 =", "4 + 4 =", "9 + 2 =", "5 + 6 =", "8 + 3 =", "1 + 6 =", "3 + 3 ="),
    "towns": (
        *("The town of Oslo is in", "The town of Rome is in", "The town of Bern is in", "The town of Lima is in"),
        *("The town of Cairo is in", "The town of Kyiv is in", "The town of Doha is in", "The town of Riga is in"),
    ),
    "poems": (
        *("O rose, thou art", "O moon, thou art", "O sea, thou art", "O wind, thou art"),
        *("O night, thou art", "O star, thou art", "O hill, thou art", "O rain, thou art"),
    ),
}


def moved(model: LanguageModel, seed: int, *, size: float = 0.3, skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """What a fine-tune's parameters are: the base's with noise, but for names with one of ``skip`` in them."""
    chance = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in model.model.named_parameters():
        noise = size * parameter.detach().abs().mean() * torch.randn(parameter.shape, generator=chance)
        found[name] = parameter.detach() + (0 if any(part in name for part in skip) else noise)
    return found


def whole_folder(model: LanguageModel, folder: Path, values: dict[str, Tensor]) -> Path:
    """A transformers folder with these parameters."""
    twin = copy.deepcopy(model.model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(values[name])
    save_checkpoint(twin, model.tokenizer, folder)
    return folder


def adapter_folder(
    model: LanguageModel, folder: Path, seed: int, targets: tuple[str, ...], rank: int = 3, **options: Any
) -> Path:
    """The folder of a run of ``keeps adapt`` with a LoRA on the layers whose names end so, and options of peft."""
    chance = torch.Generator().manual_seed(seed)
    factors, norms = {}, {}
    modules: Any = model.model.named_modules()
    for name, layer in modules:
        if name.endswith(targets):
            rows, columns = layer.weight.shape
            rows, columns = (columns, rows) if type(layer).__name__ == "Conv1D" else (rows, columns)
            a, b = torch.randn(rank, columns, generator=chance), 0.05 * torch.randn(rows, rank, generator=chance)
            factors[name] = (a, b)
            norms[name] = 0.5 + torch.rand(rows, generator=chance)
    folder.mkdir()
    write_factors(folder, factors, norms if options.get("use_dora") else None)
    config: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets)}
    write_config(folder, config | options)
    ChangeRecord("adapter", "lora", {}, source_of(model), model.fingerprint, 0, {}, {}).write(folder)
    return folder


def fine_tunes(model: LanguageModel, folder: Path, **options: Any) -> tuple[list[FineTune], list[dict[str, Tensor]]]:
    """Three whole fine-tunes, and their parameters."""
    values = [moved(model, seed, **options) for seed in range(1, 4)]
    tuned = [
        FineTune(name, whole_folder(model, folder / name, each), prompts)
        for (name, prompts), each in zip(PROMPTS.items(), values, strict=True)
    ]
    return tuned, values


Twins = tuple[LanguageModel, TwinChange, list[FineTune], list[dict[str, Tensor]]]


def merged(model: LanguageModel, tuned: list[FineTune], folder: Path, **settings: Any) -> TwinChange:
    """A twin of the fine-tunes."""
    folder.mkdir()
    return Twin(TwinSettings(**settings))(model, tuned, run=Run(folder))


def twin_of_three(model: LanguageModel, folder: Path) -> Twins:
    """The model, a twin of three fine-tunes of it at full rank, the fine-tunes, and their parameters."""
    tuned, values = fine_tunes(model, folder)
    return model, merged(model, tuned, folder / "run", **FULL), tuned, values


def state_of(model: LanguageModel) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.model.state_dict().items()}


def same_bits(model: LanguageModel, state: dict[str, Tensor]) -> bool:
    """Whether parameters and buffers have the very names and bits of ``state``."""
    now = model.model.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in state)

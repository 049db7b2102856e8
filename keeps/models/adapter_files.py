"""Adapters on disk: a plain peft folder, ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from keeps.errors import StorageError
from keeps.models.adapters import ADAPTER, Factors, exactly, magnitudes_of
from keeps.models.locate import is_transposed
from keeps.models.plain_layers import is_view
from keeps.weights.files import atomic_write_bytes, load_tensors, save_tensors

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."  # what peft puts in front of a layer's name
MAGNITUDE = ".lora_magnitude_vector"  # and behind it, for the row norms of DoRA


def write_adapter(folder: Path, peft_model: Any, factors: Factors, *, multiple: int, base: str) -> None:
    """Write a peft folder for the base called ``base``: ``multiple`` is 2 where the factors were doubled, else 1.

    Layers that ``factors`` lacks are left out, and each of the others has the rank of its factors.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    config = peft_model.peft_config[ADAPTER].to_dict()
    config.update(
        init_lora_weights=True,  # a plain value: loading must not decompose anything again
        inference_mode=True,
        base_model_name_or_path=base,
        target_modules=sorted(factors),
        fan_in_fan_out=is_view(peft_model),
    )
    write_config(folder, with_ranks_of(factors, _with_ranks(config, multiple)))
    write_factors(folder, factors, magnitudes_of(peft_model))


def write_halved(folder: Path, config: Mapping[str, Any], trained: Factors, *, base: str) -> None:
    """Write the trained half of a doubled adapter, for a base that lacks the start."""
    write_config(folder, {**_with_ranks(config, 1 / 2), "base_model_name_or_path": base})
    write_factors(folder, trained)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``adapter_config.json``."""
    text = json.dumps({key: _plain(value) for key, value in config.items()}, indent=2, sort_keys=True)
    atomic_write_bytes(folder / CONFIG_FILE, (text + "\n").encode())


def read_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` as a mapping.

    Raises:
        StorageError: it is missing, damaged, or not that of a LoRA adapter.
    """
    path = folder / CONFIG_FILE
    mend = "run the job again"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"there is no {CONFIG_FILE}", where=str(folder), mend=mend) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{CONFIG_FILE} cannot be read ({error})", where=str(path), mend=mend) from None
    numbers = [config.get("r"), config.get("lora_alpha")] if isinstance(config, dict) else [None]
    if not all(isinstance(number, (int, float)) and number > 0 for number in numbers):
        raise StorageError(f"{CONFIG_FILE} is not that of a LoRA adapter", where=str(path), mend=mend)
    return config


def scaling_of(config: Mapping[str, Any]) -> float:
    """s of W + s B A: alpha / r, or alpha / sqrt(r) for rank-stabilised adapters.

    >>> scaling_of({"r": 4, "lora_alpha": 8}), scaling_of({"r": 4, "lora_alpha": 8, "use_rslora": True})
    (2.0, 4.0)
    """
    return config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])


def write_factors(folder: Path, factors: Factors, magnitudes: Mapping[str, Tensor] | None = None) -> None:
    """Write A and B, and DoRA's magnitudes where there are any, under the names that peft reads."""
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in factors.items():
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
    for name, magnitude in (magnitudes or {}).items():
        tensors[f"{PREFIX}{name}{MAGNITUDE}"] = magnitude
    save_tensors(folder / ADAPTER_FILE, tensors, metadata={"format": "pt"})


def read_factors(folder: Path) -> Factors:
    """A (rank, in) and B (out, rank) of every layer in a peft adapter folder.

    Raises:
        StorageError: the file is missing, damaged, or lacks one of a layer's factors.
    """
    tensors = load_tensors(folder / ADAPTER_FILE)
    names = sorted({key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in tensors})
    try:
        return {
            name: (tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"]) for name in names
        }
    except KeyError as error:
        what = f"the adapter lacks the tensor {error}"
        raise StorageError(what, where=str(folder / ADAPTER_FILE), mend="run the job again") from None


def read_magnitudes(folder: Path) -> dict[str, Tensor]:
    """DoRA's row norms m, ``(out,)``, of every layer in a peft adapter folder; empty for other adapters.

    Raises:
        StorageError: the file is missing or damaged, or some layers have magnitudes and others have none.
    """
    tensors = load_tensors(folder / ADAPTER_FILE)
    found = {
        key.removeprefix(PREFIX).removesuffix(MAGNITUDE): value
        for key, value in tensors.items()
        if key.endswith(MAGNITUDE)
    }
    if found and 3 * len(found) != len(tensors):
        what = "some layers of the adapter have a magnitude and others have none"
        raise StorageError(what, where=str(folder / ADAPTER_FILE), mend="run the job again")
    return found


def check_fits(model: nn.Module, factors: Factors, folder: Path) -> None:
    """Refuse an adapter whose layers are not those of ``model``.

    Raises:
        StorageError: a layer is missing in the model or has another size.
    """
    layers = dict(model.named_modules())
    for name, (a, b) in factors.items():
        weight = getattr(layers.get(name), "weight", None)
        rows, columns = tuple(weight.shape) if isinstance(weight, Tensor) and weight.ndim == 2 else (0, 0)
        rows, columns = (columns, rows) if is_transposed(layers.get(name)) else (rows, columns)
        if (b.shape[0], a.shape[1]) != (rows, columns) or a.shape[0] != b.shape[1]:
            raise StorageError(
                f"the adapter does not fit the model's layer {name}",
                where=str(folder),
                mend="load the base that change.json names, or run the job again",
            )


def _with_ranks(config: Mapping[str, Any], multiple: float) -> dict[str, Any]:
    """The configuration with every rank times ``multiple`` and every scaling as it was."""
    root = math.sqrt(multiple) if config.get("use_rslora") else multiple
    return {
        **config,
        "r": int(config["r"] * multiple),
        "lora_alpha": config["lora_alpha"] * root,
        "rank_pattern": {key: int(value * multiple) for key, value in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {key: value * root for key, value in (config.get("alpha_pattern") or {}).items()},
    }


def with_ranks_of(factors: Factors, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the rank that each layer's factors have, and every scaling as it was."""
    scale = scaling_of(config)
    odd = {exactly(name): a.shape[0] for name, (a, _) in factors.items() if a.shape[0] != config["r"]}
    alphas = {key: scale * (math.sqrt(rank) if config.get("use_rslora") else rank) for key, rank in odd.items()}
    return {**config, "rank_pattern": odd, "alpha_pattern": alphas}


def _plain(value: Any) -> Any:
    """Sets and enumerations as JSON has them."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)

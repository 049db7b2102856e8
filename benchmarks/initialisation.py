"""PiSSA's and MiLoRA's starts against a full decomposition per layer and against peft, interleaved in one run.

    python benchmarks/initialisation.py --blocks 2 --rounds 5

All find the same r components of the same layers of the embedded model. "starts" is compared with one full
decomposition per layer, in float32 as in peft and in MiLoRA's own code; "adapter", which is the starts, the adapter
layers and the reduced weights, with peft's. The error is that of the product B A, relative to a decomposition
in float64; median and largest over the layers.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from keeps.models import LanguageModel
from keeps.models.adapters import lora_layers, wrap_lora
from keeps.models.targets import find_targets
from keeps.numerics.oriented import plain_start

Products = dict[str, torch.Tensor]


def starts(model: Any, targets: list[str], rank: int, largest: bool) -> Products:
    """A and B of every layer."""
    layers = find_targets(model, tuple(targets))
    found = {name: plain_start(layer.weight, rank, 1.0, largest=largest) for name, layer in layers.items()}
    return {name: start.b @ start.a for name, start in found.items()}


def adapter(model: Any, targets: list[str], rank: int, largest: bool) -> Products:
    """The same, set into a wrapped model as a method would, and taken out again."""
    layers = find_targets(model, tuple(targets))
    found = {name: plain_start(layer.weight, rank, 1.0, largest=largest) for name, layer in layers.items()}
    wrapped = wrap_lora(model, targets=tuple(targets), rank=rank, alpha=rank)
    for name, start in found.items():
        wrapped.set_start(name, start)
    factors = wrapped.factors()
    wrapped.unwrap()
    return {name: b @ a for name, (a, b) in factors.items()}


def full(model: Any, targets: list[str], rank: int, largest: bool) -> Products:
    """A and B of every layer by one full float32 decomposition each."""
    products = {}
    for name, layer in find_targets(model, tuple(targets)).items():
        u, s, vt = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        part = slice(0, rank) if largest else slice(-rank, None)
        products[name] = (u[:, part] * s[part].sqrt()) @ (s[part].sqrt()[:, None] * vt[part])
    return products


def by_peft(model: Any, targets: list[str], rank: int, init: str) -> Products:
    """peft's own initialisation of a copy (the copy is not timed)."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=init)  # pyright: ignore[reportArgumentType]
    layers = lora_layers(get_peft_model(model, config))
    return {
        name: layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()
        for name, layer in layers.items()
    }


def reference(weight: torch.Tensor, rank: int, largest: bool) -> torch.Tensor:
    """The components by a full decomposition in float64."""
    u, s, vt = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    part = slice(0, rank) if largest else slice(-rank, None)
    return u[:, part] * s[part] @ vt[part]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--blocks", type=int, default=2, help="decoder blocks whose layers are prepared")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = LanguageModel.load().model
    blocks = [round(i * 29 / max(options.blocks - 1, 1)) for i in range(options.blocks)]
    targets = [name for name in find_targets(model) if any(f"layers.{block}." in name for block in blocks)]
    layers = find_targets(model, tuple(targets))
    rank = options.rank
    report: dict[str, Any] = {
        "command": f"python benchmarks/initialisation.py --blocks {options.blocks} --rounds {options.rounds}",
        "layers": len(layers),
    }
    for method, largest in (("pissa", True), ("milora", False)):
        ways: dict[str, Callable[[Any], Products]] = {
            "starts": lambda work, largest=largest: starts(work, targets, rank, largest),
            "full decomposition": lambda work, largest=largest: full(work, targets, rank, largest),
            "adapter": lambda work, largest=largest: adapter(work, targets, rank, largest),
        }
        if largest:
            ways["peft"] = lambda work: by_peft(work, targets, rank, "pissa")
            ways["peft, 4 power iterations"] = lambda work: by_peft(work, targets, rank, "pissa_niter_4")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        products: dict[str, Products] = {}
        for _ in range(options.rounds):
            for way, make in ways.items():
                work = copy.deepcopy(model) if "peft" in way else model
                begin = time.process_time()
                products[way] = make(work)
                seconds[way].append(time.process_time() - begin)
        wanted = {name: reference(layer.weight, rank, largest) for name, layer in layers.items()}
        report[method] = {way: _figures(seconds, products[way], wanted, way) for way in ways}
    print(json.dumps(report, indent=2))


def _figures(seconds: dict[str, list[float]], found: Products, wanted: Products, way: str) -> dict[str, float]:
    errors = [
        float(torch.linalg.norm(found[name].double() - right) / torch.linalg.norm(right))
        for name, right in wanted.items()
    ]
    own = "adapter" if "peft" in way else "starts"
    ratios = [theirs / ours for theirs, ours in zip(seconds[way], seconds[own], strict=True)]
    return {
        "cpu_seconds": round(statistics.median(seconds[way]), 3),
        f"ratio_to_{own}": round(statistics.median(ratios), 2),
        "error_of_BA_median": statistics.median(errors),
        "error_of_BA_largest": max(errors),
    }


if __name__ == "__main__":
    main()

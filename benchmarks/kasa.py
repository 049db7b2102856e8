"""A KaSA step against a LoRA step of equal rank, and what the truncation costs, in CPU seconds of one run.

    python benchmarks/kasa.py --blocks 30 --steps 2 --rounds 5

No released library has KaSA to compare with, so plain LoRA in the same loop is the measure: what KaSA adds
is one product with a gate in each layer and the two penalties. The weights are random with SmolLM2-135M's shape;
time does not depend on them. The steps are interleaved, and the first round warms up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from keeps.adapt.kasa import kasa_loss
from keeps.contracts import Run
from keeps.models.adapters import WrappedModel, wrap_lora
from keeps.models.gated import add_gates
from keeps.models.targets import find_targets
from keeps.numerics.truncation import removed_part
from keeps.training import TokenizedExample, TrainingSettings, train

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
VARIANTS = ("lora", "gates", "kasa")  # gates: without the penalties


def base_model(blocks: int) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=blocks))  # pyright: ignore[reportArgumentType]


def wrapped_model(base: Any, rank: int, variant: str) -> WrappedModel:
    wrapped = wrap_lora(base, targets=("all-linear",), rank=rank, alpha=2.0 * rank)
    if variant != "lora":
        add_gates(wrapped.peft_model, {name: torch.randn(rank) for name in wrapped.scaling})
    return wrapped


def examples(count: int, length: int) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(SHAPE["vocab_size"], (count, length), generator=generator).tolist()
    return [TokenizedExample(tuple(row), length - length // 4) for row in rows]


def seconds_a_step(
    base: Any, variant: str, data: list[TokenizedExample], settings: TrainingSettings, rank: int
) -> float:
    wrapped = wrapped_model(base, rank, variant)
    regulariser = partial(kasa_loss, beta=1e-4, gamma=1e-3) if variant == "kasa" else None
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        train(wrapped.peft_model, data, settings, Run(Path(folder)), pad_token_id=0, regulariser=regulariser)
        spent = time.process_time() - begin
    wrapped.unwrap()
    return spent / (settings.steps or 1)


def truncation_seconds(base: Any, rank: int) -> float:
    begin = time.process_time()
    for layer in find_targets(base).values():
        removed_part(layer.weight, rank, 2.0)
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args()
    base = base_model(options.blocks)
    data = examples(options.steps * options.batch, options.length)
    settings = TrainingSettings(steps=options.steps, batch_size=options.batch, schedule="constant")
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for repeat in range(options.rounds + 1):
        for name in VARIANTS:
            spent = seconds_a_step(base, name, data, settings, options.rank)
            if repeat:
                seconds[name].append(spent)
    ratios = {
        name: [ours / theirs for ours, theirs in zip(seconds[name], seconds["lora"], strict=True)]
        for name in VARIANTS[1:]
    }
    report = {
        "CPU-s per step": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "ratio to lora": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratios": {name: [round(ratio, 3) for ratio in values] for name, values in ratios.items()},
        "CPU-s of the truncation": round(truncation_seconds(base, options.rank), 2),
        "layers": len(find_targets(base)),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()

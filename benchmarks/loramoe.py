"""A training step of LoRAMoE against one of peft's LoRA with as many trained parameters, interleaved in one run.

    python benchmarks/loramoe.py --rounds 5

Both train the feed-forward layers of one model (SmolLM2-135M's shape, random weights: time does not depend
on them) in the same loop, on the same batches; LoRAMoE with the balancing constraint and two types of data.
The rank of the LoRA is the largest that has no more parameters. CPU seconds on a CPU, seconds on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from keeps.adapt.loramoe import FEED_FORWARD, Balance, LoRAMoESettings
from keeps.contracts import Run
from keeps.models.adapters import wrap_lora
from keeps.models.experts import wrap_experts
from keeps.training import TokenizedExample, train

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def examples(count: int, tokens: int, answer: int) -> list[TokenizedExample]:
    """Random tokens; every fourth example is a fact."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(SHAPE["vocab_size"], (count, tokens), generator=generator).tolist()
    return [TokenizedExample(tuple(row), tokens - answer, int(n % 4 == 0)) for n, row in enumerate(rows)]


def trained_parameters(model: torch.nn.Module) -> int:
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def seconds(
    wrap: Callable[[Any], Any], model: Any, data: list[TokenizedExample], settings: LoRAMoESettings, device: str
) -> tuple[float, int]:
    """Seconds a step, and the parameters trained."""
    wrapped = wrap(model)
    module = getattr(wrapped, "peft_model", None) or wrapped.model
    run = Run(Path(tempfile.mkdtemp()), seed=0, device=device)
    constrained = hasattr(wrapped, "config") and settings.beta
    hooks = Balance(settings, run).hooks() if constrained else {}
    on_cpu = device == "cpu"
    if not on_cpu:
        torch.cuda.synchronize()
    begin = time.process_time() if on_cpu else time.perf_counter()
    train(module, data, settings, run, pad_token_id=0, **hooks)
    if not on_cpu:
        torch.cuda.synchronize()
    end = time.process_time() if on_cpu else time.perf_counter()
    count = trained_parameters(module)
    wrapped.unwrap()
    return (end - begin) / (settings.steps or 1), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--answer", type=int, default=4)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--experts", type=int, default=6)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("medium")  # what keeps itself does where it is as exact
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=options.layers)).to(options.device)  # pyright: ignore[reportArgumentType]
    data = examples(options.steps * options.batch, options.tokens, options.answer)
    values = {name: getattr(options, name) for name in ("experts", "rank", "dropout", "steps")}
    settings = LoRAMoESettings(batch_size=options.batch, warmup=0, schedule="constant", **values)

    def experts(base: Any) -> Any:
        return wrap_experts(base, settings.config, FEED_FORWARD)

    def lora(rank: int) -> Callable[[Any], Any]:
        return lambda base: wrap_lora(base, targets=FEED_FORWARD, rank=rank, alpha=rank, dropout=options.dropout)

    wrapped = experts(model)
    ours = trained_parameters(wrapped.model)
    wrapped.unwrap()
    sides = SHAPE["hidden_size"] + SHAPE["intermediate_size"]
    rank = ours // (3 * options.layers * sides)
    taken: dict[str, list[float]] = {"loramoe": [], "lora": []}
    counts = {}
    for repeat in range(options.rounds + 1):  # the first round warms up
        for name, wrap in (("loramoe", experts), ("lora", lora(rank))):
            found, counts[name] = seconds(wrap, model, data, settings, options.device)
            taken[name] += [found] if repeat else []
    ratios = [a / b for a, b in zip(taken["loramoe"], taken["lora"], strict=True)]
    report = {
        "command": f"python benchmarks/loramoe.py --rounds {options.rounds} --device {options.device}",
        "trained parameters": counts,
        "rank of the LoRA": rank,
        "seconds a step": {name: round(statistics.median(values), 4) for name, values in taken.items()},
        "ratio loramoe / lora": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

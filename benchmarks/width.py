"""Time and memory against model width, measured and predicted, on one decoder block of Llama shapes.

    python benchmarks/width.py --shapes 135M 1B 7B

A model is its blocks: one is built at a time, with random weights (time does not depend on their values), in a
process of its own, so that a 7B shape fits anywhere. What is predicted comes from the shape and from nothing that
is measured on the block itself:

    LoRA step, seconds     (4 P T + 6 r T sum(in + out) + 12 T L h) / rate of one plain matrix product of that width
    LoRA step, bytes       4 P for the weights, 4 T (10 h + 4 k + 4 i) for what the backward pass needs
    CorDA, seconds         c (in^3 + in out min(in, out)) per layer, c measured on the first shape alone

with P the block's weights, T tokens in examples of L, r the rank, h the hidden width, k that of keys and values, i that
of the feed-forward part.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = {  # hidden, intermediate, heads, heads of keys and values
    "warm-up": (64, 128, 2, 2),  # loads every library before memory is counted
    "135M": (576, 1536, 9, 3),
    "360M": (960, 2560, 15, 5),
    "1B": (2048, 8192, 32, 8),
    "7B": (4096, 11008, 32, 32),
}
BLOCKS = {"135M": 30, "360M": 32, "1B": 16, "7B": 32}
LENGTH = 64  # tokens an example
RANK = 16
CORDA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")  # the feed-forward part of 7B alone would take half an hour


def block(shape: str) -> Any:
    """A model of one decoder block and a small vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, intermediate, heads, key_heads = SHAPES[shape]
    torch.manual_seed(0)
    config = {
        "vocab_size": 256,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    return LlamaForCausalLM(LlamaConfig(**config)).eval()  # pyright: ignore[reportArgumentType]


def examples(count: int) -> list[Any]:
    import torch

    from keeps.training import TokenizedExample

    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(256, (LENGTH,), generator=generator).tolist() for _ in range(count)]
    return [TokenizedExample(tuple(row), 1) for row in rows]


def rate(hidden: int, intermediate: int, tokens: int) -> float:
    """Operations a CPU second of a plain product (tokens, hidden) @ (hidden, intermediate)."""
    import torch

    one, other = torch.randn(tokens, hidden), torch.randn(hidden, intermediate)
    spent = []
    for _ in range(4):
        begin = time.process_time()
        torch.mm(one, other)
        spent.append(time.process_time() - begin)
    return 2.0 * tokens * hidden * intermediate / min(spent[1:])


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def lora_steps(shape: str, batch: int, steps: int) -> list[float]:
    """CPU seconds of each of some steps on every linear layer of the block."""
    from peft import LoraConfig, get_peft_model

    from keeps.contracts import Run
    from keeps.training import TrainingSettings, train

    model: Any = get_peft_model(block(shape), LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    spent = []
    for _ in range(steps):
        run = Run(Path(tempfile.mkdtemp()), seed=0)
        options: dict[str, Any] = {"steps": 1, "batch_size": batch, "schedule": "constant", "warmup": 0}
        begin = time.process_time()
        train(model, examples(batch), TrainingSettings(**options), run, pad_token_id=0)
        spent.append(time.process_time() - begin)
    return spent


def lora(shape: str, batch: int, steps: int) -> dict[str, float]:
    """A LoRA step, measured and predicted."""
    import torch

    torch.set_float32_matmul_precision("medium")
    lora_steps("warm-up", batch, 1)
    hidden, intermediate, heads, key_heads = SHAPES[shape]
    keys, tokens = hidden * key_heads // heads, batch * LENGTH
    speed = rate(hidden, intermediate, tokens)
    before = peak_bytes()
    spent = lora_steps(shape, batch, steps + 1)
    weights = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * intermediate
    ends = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + intermediate)
    work = 4 * weights * tokens + 6 * RANK * tokens * ends + 12 * tokens * LENGTH * hidden
    return {
        "lora_seconds": statistics.median(spent[1:]),
        "lora_seconds_predicted": work / speed,
        "lora_bytes": float(peak_bytes() - before),
        "lora_bytes_predicted": 4.0 * weights + 4.0 * tokens * (10 * hidden + 4 * keys + 4 * intermediate),
    }


def corda(shape: str, batch: int) -> dict[str, float]:
    """CorDA's decomposition of the attention layers, without the pass that collects the covariances."""
    from keeps.adapt.corda import CorDASettings, adapter_starts
    from keeps.models.covariances import collect_covariance, token_batches
    from keeps.models.targets import find_targets

    model = block(shape)
    layers = find_targets(model, CORDA_TARGETS)
    tokens = [list(example.input_ids) for example in examples(batch)]
    covariances = collect_covariance(model, token_batches(tokens, pad_token_id=0), CORDA_TARGETS)
    begin = time.process_time()
    adapter_starts(model, covariances, CorDASettings(rank=RANK, targets=CORDA_TARGETS))
    seconds = time.process_time() - begin
    sizes = [(layer.in_features, layer.out_features) for layer in layers.values()]
    return {"corda_seconds": seconds, "corda_work": float(sum(i**3 + i * o * min(i, o) for i, o in sizes))}


def measured(kind: str, shape: str, batch: int, steps: int) -> dict[str, float]:
    """One measurement in a process of its own, whose peak of memory is nobody else's."""
    words = [sys.executable, __file__, "--one", kind, shape, "--batch", str(batch), "--steps", str(steps)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=BLOCKS, default=["135M", "1B", "7B"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="median of so many")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, shape = options.one
        found = lora(shape, options.batch, options.steps) if kind == "lora" else corda(shape, options.batch)
        print(json.dumps(found))
        return
    constant = 0.0
    for shape in options.shapes:
        found = measured("lora", shape, options.batch, options.steps) | measured("corda", shape, options.batch, 1)
        constant = constant or found["corda_seconds"] / found["corda_work"]
        found["corda_seconds_predicted"] = constant * found.pop("corda_work")
        for name in ("lora_seconds", "lora_bytes", "corda_seconds"):
            found[f"{name}_measured_to_predicted"] = found[name] / found[f"{name}_predicted"]
        figures = {name: float(f"{value:.3g}") for name, value in found.items()}
        print(json.dumps({"shape": shape, "blocks of the model": BLOCKS[shape], **figures}), flush=True)


if __name__ == "__main__":
    main()

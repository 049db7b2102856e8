"""Training steps against a plain transformers + peft loop, in CPU seconds, interleaved in one run.

    python benchmarks/training.py --steps 3 --rounds 3

The other loop is what a user would write by hand: AdamW over a peft LoRA, ``labels`` with -100 on the
prompt, full logits. Both start from the same weights, see the same batches (8 examples of 64 tokens,
answers of 4 tokens) and end with the same loss, which is checked. The weights are random (SmolLM2-135M's
shape): time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from keeps.contracts import Run
from keeps.training import TokenizedExample, TrainingSettings, train
from keeps.training.batches import Order

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
RATE = 5e-4


def peft_model(rank: int) -> torch.nn.Module:
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE))  # pyright: ignore[reportArgumentType]
    return get_peft_model(base, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))


def examples(count: int, tokens: int, answer: int) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(SHAPE["vocab_size"], (count, tokens), generator=generator).tolist()
    return [TokenizedExample(tuple(row), tokens - answer) for row in rows]


def by_hand(model: torch.nn.Module, batches: list[list[TokenizedExample]], precision: str) -> list[float]:
    optimiser = torch.optim.AdamW(
        [value for value in model.parameters() if value.requires_grad], lr=RATE, weight_decay=0
    )
    losses = []
    model.train()
    for batch in batches:
        input_ids = torch.tensor([example.input_ids for example in batch])
        labels = input_ids.clone()
        for row, example in enumerate(batch):
            labels[row, : example.answer_start] = -100
        context = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()
        with context:
            loss = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--answer", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", nargs="*", default=["bfloat16", "float32", "medium"])
    options = parser.parse_args()
    data = examples(options.steps * options.batch, options.tokens, options.answer)
    order = Order(data, options.batch, 1, seed=0)
    batches = [order.step(step) for step in range(options.steps)]
    results = {}
    for precision in options.precision:
        torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
        kind = "bfloat16" if precision == "bfloat16" else "float32"
        settings = TrainingSettings(
            steps=options.steps,
            batch_size=options.batch,
            learning_rate=RATE,
            schedule="constant",
            warmup=0,
            precision=kind,
        )
        ours, theirs, apart = [], [], 0.0
        for repeat in range(options.rounds + 1):  # the first round warms up
            model, other = peft_model(options.rank), peft_model(options.rank)
            run = Run(Path(tempfile.mkdtemp()), seed=0)
            start = time.process_time()
            losses = train(model, data, settings, run, pad_token_id=0).losses
            middle = time.process_time()
            other_losses = by_hand(other, batches, kind)
            end = time.process_time()
            apart = max(apart, *(abs(a - b) for a, b in zip(losses, other_losses, strict=True)))
            if repeat:
                ours.append((middle - start) / options.steps)
                theirs.append((end - middle) / options.steps)
        results[precision] = {
            "keeps CPU-s per step": round(statistics.median(ours), 3),
            "by hand CPU-s per step": round(statistics.median(theirs), 3),
            "ratio by hand / keeps": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2),
            "largest difference of losses": float(f"{apart:.2g}"),
        }
        print(precision, json.dumps(results[precision]), flush=True)


if __name__ == "__main__":
    main()

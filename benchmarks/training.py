"""Training steps against peft and transformers' Trainer, in CPU seconds, interleaved in one run.

    python benchmarks/training.py --steps 3 --rounds 5

The data are examples of mixed lengths (16 to 128 tokens, short ones being more frequent), of which the last quarter is
the answer. Both libraries start from the same weights and the same LoRA, see the same examples in the same steps and
end with the same losses, which is checked. The Trainer pads each batch to its longest example and has ``labels`` of
-100 on the prompt, as its users do; saving and logging are off, and its set-up is not counted. Without
``--model`` the weights are random (SmolLM2-135M's shape): time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from keeps.contracts import Run
from keeps.training import TokenizedExample, TrainingSettings, train
from keeps.training.batches import Order, collate

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


def base_model(name: str | None) -> Any:
    if name is not None:
        from keeps.models import LanguageModel

        return LanguageModel.load(name).model
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE))  # pyright: ignore[reportArgumentType]


def with_lora(base: Any, rank: int) -> Any:
    torch.manual_seed(1)
    return get_peft_model(base, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM"))


def examples(count: int, shortest: int, longest: int) -> list[TokenizedExample]:
    """Random tokens; lengths are uniform on a logarithmic scale."""
    generator = torch.Generator().manual_seed(1)
    lengths = (shortest * (longest / shortest) ** torch.rand(count, generator=generator)).long().tolist()
    rows = [torch.randint(SHAPE["vocab_size"], (length,), generator=generator).tolist() for length in lengths]
    return [TokenizedExample(tuple(row), len(row) - len(row) // 4) for row in rows]


class Clock(TrainerCallback):
    """CPU seconds from the first step's begin to the last step's end, and the loss of every step."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin = self.begin or time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.end = time.process_time()


class InOrder(Trainer):
    """The Trainer, fed in the order given and telling its losses."""

    losses: list[float]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # pyright: ignore[reportArgumentType]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


def as_batch(rows: list[TokenizedExample]) -> dict[str, torch.Tensor]:
    batch = collate(rows, 0)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    for row, example in zip(labels, rows, strict=True):
        row[: example.answer_start] = -100
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def by_trainer(model: Any, data: list[TokenizedExample], batch: int, precision: str) -> tuple[float, list[float]]:
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=precision == "bfloat16",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=data,  # pyright: ignore[reportArgumentType]
        data_collator=as_batch,  # pyright: ignore[reportArgumentType]
        callbacks=[clock],
    )
    trainer.losses = []
    trainer.train()
    return clock.end - clock.begin, trainer.losses


def by_keeps(model: Any, data: list[TokenizedExample], settings: TrainingSettings) -> tuple[float, list[float]]:
    run = Run(Path(tempfile.mkdtemp()), seed=0)
    begin = time.process_time()
    history = train(model, data, settings, run, pad_token_id=0)
    return time.process_time() - begin, list(history.losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs=2, default=[16, 128])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--model", default=None, help="a model to load instead of random weights")
    parser.add_argument("--precision", nargs="*", default=["float32", "medium"])
    options = parser.parse_args()
    data = examples(options.steps * options.batch, *options.lengths)
    order = Order(data, options.batch, 1, seed=0)
    same = [example for step in range(options.steps) for example in order.step(step)]
    padded = sum(options.batch * max(len(row.input_ids) for row in order.step(step)) for step in range(options.steps))
    share = 1 - sum(len(row.input_ids) for row in same) / padded
    print(json.dumps({"tokens": [len(row.input_ids) for row in same], "share of padding": round(share, 2)}), flush=True)
    base = base_model(options.model)
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
        seconds: dict[str, list[float]] = {"keeps": [], "trainer": []}
        apart = 0.0
        for repeat in range(options.rounds + 1):  # the first round warms up
            losses = {}
            for library in ("keeps", "trainer"):
                model = with_lora(base, options.rank)
                if library == "keeps":
                    spent, losses[library] = by_keeps(model, data, settings)
                else:
                    spent, losses[library] = by_trainer(model, same, options.batch, kind)
                base = model.unload()
                if repeat:
                    seconds[library].append(spent / options.steps)
            apart = max(apart, *(abs(a - b) for a, b in zip(losses["keeps"], losses["trainer"], strict=True)))
        ratios = [ours / theirs for ours, theirs in zip(seconds["keeps"], seconds["trainer"], strict=True)]
        report = {
            "CPU-s per step": {library: round(statistics.median(values), 3) for library, values in seconds.items()},
            "ratio keeps / trainer": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "largest difference of losses": float(f"{apart:.2g}"),
        }
        print(precision, json.dumps(report), flush=True)


if __name__ == "__main__":
    main()

"""Runs training jobs in processes of their own, for the tests that kill or pair them.

``serve`` reads one JSON request a line and answers one JSON line: ``{"job": {...}, "env": {...}}`` forks
a process for a job and answers its number, ``{"wait": number}`` answers its exit status. Importing torch
and transformers takes seconds, so it is done once, before the forks. ``run JOB`` runs one job directly.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from keeps.contracts import Run
from keeps.training import TokenizedExample, TrainingHistory, TrainingSettings, train
from keeps.weights import save_tensors

VOCABULARY = 61


def tiny_model(kind: str = "full", seed: int = 0, dropout: float = 0.0) -> Any:
    """A random Llama of 13 thousand parameters, whole or behind a LoRA of rank 2."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(config)
    if kind == "full":
        return base
    return get_peft_model(base, LoraConfig(r=2, lora_alpha=4, lora_dropout=dropout, target_modules="all-linear"))


def tiny_examples(count: int = 37, seed: int = 1) -> list[TokenizedExample]:
    """Random token sequences of 4 to 11 tokens, of which the last 1 to 4 are the answer."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 12, (count,), generator=generator).tolist()
    answers = torch.randint(1, 5, (count,), generator=generator).tolist()
    rows = [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [TokenizedExample(tuple(row), max(1, len(row) - n)) for row, n in zip(rows, answers, strict=True)]


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The trainable parameters by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def run_job(job: dict[str, Any]) -> TrainingHistory:
    """Train as ``job`` says and write the trained parameters to ``job["out"]``."""
    if job.get("die_at_rename"):
        _die_at_rename(int(job["die_at_rename"]))
    model = tiny_model(job["kind"], dropout=job.get("dropout", 0.0))
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, seed=job.get("seed", 0), resume=job.get("resume", False))
    history = train(model, tiny_examples(), TrainingSettings(**job["settings"]), run, pad_token_id=0)
    if int(os.environ.get("RANK", "0")) == 0:
        save_tensors(job["out"], trained(model))
    return history


def _die_at_rename(number: int) -> None:
    """Die by SIGKILL when a finished temporary file is about to get its name for the ``number``-th time."""
    rename, left = Path.replace, [number]

    def replace(self: Path, target: str | Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = replace  # type: ignore[method-assign]


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _child(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _child(request: dict[str, Any]) -> None:
    os.environ.update(request.get("env", {}))
    status = 1
    try:
        run_job(request["job"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with idle threads cannot be forked
    tiny_model("lora")  # imports what is imported on first use
    if sys.argv[1] == "serve":
        _serve()
    else:
        run_job(json.loads(sys.argv[2]))

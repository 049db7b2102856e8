"""How much faster the LanguageModel is than the naive loop on the world probe, in one run.

The naive loop is plain transformers: one item at a time, logits of every position, greedy decoding by
``generate`` with the same stop rule. Both answer the same questions, turn by turn, and the
median of the ratios is reported, so that a busy machine slows both alike.

    OMP_NUM_THREADS=2 python benchmarks/language_model.py --items 64 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from keeps.data.select import load_records
from keeps.models import LanguageModel
from keeps.models.stopping import StopRule

TARGET = 3.0  # times the speed of the naive loop, on the world probe


@torch.no_grad()
def naive_logprob(model: LanguageModel, prompt: str, answer: str) -> float:
    """One sequence, all logits."""
    start, rest = model.encode_pair(prompt, answer)
    logits = model.model(torch.tensor([start + rest], device=model.device)).logits[0].float()
    predicted = logits[len(start) - 1 : -1].log_softmax(-1)
    return float(predicted.gather(1, torch.tensor(rest, device=model.device)[:, None]).sum())


@torch.no_grad()
def naive_ask(model: LanguageModel, prompt: str, answer: str) -> tuple[str, float]:
    """``generate`` for what the model says, and another forward pass for the expected answer."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    rule = StopRule(("\n",), sentence=True)
    ids = torch.tensor([model.encode_prompt(prompt)], device=model.device)

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            done = rule.reached(model.tokenizer.decode(input_ids[0, ids.shape[1] :]))
            return torch.tensor([done], device=model.device)

    options = {"do_sample": False, "max_new_tokens": 12, "stopping_criteria": StoppingCriteriaList([Stop()])}
    found = getattr(model.model, "generate")(ids, attention_mask=torch.ones_like(ids), **options)  # noqa: B009
    text = rule.cut(model.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
    return text, naive_logprob(model, prompt, answer)


def measure(naive: Callable[[], Any], fast: Callable[[], Any], rounds: int, precision: str) -> dict[str, Any]:
    """Seconds and processor seconds of both, taken in turns; the naive loop at PyTorch's own precision."""
    rows = []
    for _ in range(rounds):
        torch.set_float32_matmul_precision("highest")
        slow = _timed(naive)
        torch.set_float32_matmul_precision(precision)
        quick = _timed(fast)
        rows.append((slow, quick))
    return {
        "ratio": round(statistics.median(slow[0] / quick[0] for slow, quick in rows), 2),
        "cpu_ratio": round(statistics.median(slow[1] / quick[1] for slow, quick in rows), 2),
        "naive_cpu_seconds": round(statistics.median(slow[1] for slow, _ in rows), 2),
        "cpu_seconds": round(statistics.median(quick[1] for _, quick in rows), 2),
    }


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure every kind of call and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=64, help="facts of the world, spread over its relations")
    parser.add_argument("--rounds", type=int, default=3, help="times that each pair is measured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="kinds to measure, separated by commas")
    options = parser.parse_args()

    model = LanguageModel.load(device=options.device)
    precision = torch.get_float32_matmul_precision()
    facts = load_records("world").questions()
    facts = random.Random(0).sample(facts, min(options.items, len(facts)))
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    answers = [fact.answers[0] for fact in facts for _ in fact.prompts]
    shots = "".join(f"{fact.prompts[0]} {fact.answers[0]}.\n" for fact in facts[:4])
    shown = [shots + prompt for prompt in prompts]
    others = random.Random(1)
    choices = [[answer, *others.sample(answers, 3)] for answer in answers]

    kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "world probe (ask)": (
            lambda: [naive_ask(model, p, a) for p, a in zip(prompts, answers, strict=True)],
            lambda: model.ask(prompts, answers),
        ),
        "logprob": (
            lambda: [naive_logprob(model, p, a) for p, a in zip(prompts, answers, strict=True)],
            lambda: model.logprob(prompts, answers),
        ),
        "four examples in front": (
            lambda: [naive_logprob(model, p, a) for p, a in zip(shown, answers, strict=True)],
            lambda: model.logprob(shown, answers),
        ),
        "four choices": (
            lambda: [naive_logprob(model, p, c) for p, cs in zip(prompts, choices, strict=True) for c in cs],
            lambda: model.rank(prompts, choices),
        ),
    }
    model.logprob(prompts[:8], answers[:8])  # warm up
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    results = {
        name: measure(*calls, options.rounds, precision)
        for name, calls in kinds.items()
        if not wanted or any(part in name for part in wanted)
    }
    print(
        json.dumps(
            {
                "facts": len(facts),
                "prompts": len(prompts),
                "rounds": options.rounds,
                "threads": torch.get_num_threads(),
                "precision": precision,
                "device": options.device,
                "target": TARGET,
                "meets_target": all(found["ratio"] >= TARGET for found in results.values()),
                "results": results,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

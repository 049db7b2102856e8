"""Multiple choice: questions a second of keeps against the evaluation harness's own model (lm-eval's HFLM), in one run.

Both get the same prompts and choices, the same weights and the same matmul precision, turn by turn; the medians of the
rounds are reported, by the clock and in processor seconds, which a busy machine distorts less. The harness runs at the
batch size that is fastest for it on this machine. Scores are compared with it as it is, and with its log-softmax in
float64 (its option), since in float32 it is the one that is off by 1e-4. ``short`` are facts of the built-in world with
four choices, ``long`` running text with the sentence that goes on and three others. Peak memory is measured in
processes of their own, at n questions and at four times as many.

    OMP_NUM_THREADS=1 python benchmarks/probe_speed.py --questions 32 --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/probe_speed.py --data questions.jsonl --questions 100
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from keeps.data.select import load_records
from keeps.models import LanguageModel
from keeps.models.tokens import space_before

TARGET = 3.0  # times the questions a second of the harness's model
AGREE = 1e-4  # nats, of a choice's log-probability
FLAT = 1.1  # peak memory at four times the questions, as a multiple
BATCH_SIZES = (1, 4, 16)  # of the harness; the fastest is taken
PASSAGES = 4  # a long context; about 600 tokens

Questions = list[tuple[str, list[str]]]  # a prompt and its choices


def short_questions(count: int, seed: int = 0) -> Questions:
    """Facts of the world in all their wordings, the right answer and three of the same relation."""
    facts = load_records("world").questions()
    found: Questions = []
    generator = random.Random(seed)
    for fact in generator.sample(facts, len(facts)):
        others = sorted({other.answers[0] for other in facts if other.group == fact.group} - set(fact.answers))
        if len(others) >= 3:
            choices = [fact.answers[0], *generator.sample(others, 3)]
            found += [(prompt, choices) for prompt in fact.prompts]
        if len(found) >= count:
            break
    return found[:count]


def long_questions(count: int, seed: int = 0) -> Questions:
    """Several passages of running text, the sentence that follows them and three from elsewhere."""
    texts = [passage.text for passage in load_records("text").passages()]
    sentences = [re.split(r"(?<=[.)])\s+", text) for text in texts]
    generator = random.Random(seed)
    found: Questions = []
    for number in range(count):
        start = generator.randrange(len(texts) - PASSAGES)
        context, (following, *_) = " ".join(texts[start : start + PASSAGES]), sentences[start + PASSAGES]
        others = [generator.choice(sentences[generator.randrange(len(texts))]) for _ in range(3)]
        found.append((f"{context} Question {number + 1}:", [following, *others]))
    return found


def file_questions(path: str, count: int) -> Questions:
    """Records with choices."""
    questions = [question for question in load_records(path).questions() if question.choices]
    return [(prompt, list(question.choices)) for question in questions for prompt in question.prompts][:count]


def with_keeps(model: LanguageModel, questions: Questions) -> list[list[float]]:
    """Log-probabilities of all choices."""
    ranked = model.rank([prompt for prompt, _ in questions], [choices for _, choices in questions])
    return [list(score.logprobs) for score in ranked]


def with_harness(harness: Any, questions: Questions) -> list[list[float]]:
    """The same by the harness's own model."""
    requests = [
        SimpleNamespace(args=(prompt, space_before(prompt, choice) + choice))
        for prompt, choices in questions
        for choice in choices
    ]
    scores = iter(harness.loglikelihood(requests, disable_tqdm=True))
    return [[next(scores)[0] for _ in choices] for _, choices in questions]


def harness_for(model: LanguageModel, batch_size: int, **options: Any) -> Any:
    """lm-eval's HFLM over the same weights."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_size, **options)  # pyright: ignore


def fastest(model: LanguageModel, questions: Questions) -> int:
    """The batch size at which the harness takes least processor time for a few of the questions."""
    few = questions[: max(4, len(questions) // 4)]
    return min(BATCH_SIZES, key=lambda size: timed(lambda: with_harness(harness_for(model, size), few))[1])


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, processor seconds and result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def apart(found: list[list[float]], wanted: list[list[float]]) -> float:
    """The largest difference of a choice's log-probability."""
    pairs = (pair for a, b in zip(found, wanted, strict=True) for pair in zip(a, b, strict=True))
    return max(abs(a - b) for a, b in pairs)


def measure(model: LanguageModel, questions: Questions, rounds: int) -> dict[str, Any]:
    """Both in turns."""
    size = fastest(model, questions)
    harness = harness_for(model, size)
    exact = with_harness(harness_for(model, size, softmax_dtype="float64"), questions)
    theirs, ours = [], []
    found: list[list[float]] = []
    wanted: list[list[float]] = []
    for _ in range(rounds):
        *seconds, wanted = timed(lambda: with_harness(harness, questions))
        theirs.append(seconds)
        *seconds, found = timed(lambda: with_keeps(model, questions))
        ours.append(seconds)
    wall, cpu = ([a[clock] / b[clock] for a, b in zip(theirs, ours, strict=True)] for clock in (0, 1))
    rate = len(questions) / statistics.median(seconds[0] for seconds in ours)
    harness_rate = len(questions) / statistics.median(seconds[0] for seconds in theirs)
    difference = apart(found, exact)
    return {
        "questions": len(questions),
        "median_prompt_tokens": statistics.median(len(model.encode_prompt(prompt)) for prompt, _ in questions),
        "harness_batch_size": size,
        "keeps_questions_per_second": round(rate, 2),
        "harness_questions_per_second": round(harness_rate, 2),
        "ratio": round(statistics.median(wall), 2),
        "cpu_ratio": round(statistics.median(cpu), 2),
        "cpu_ratios": [round(ratio, 2) for ratio in sorted(cpu)],
        "difference": difference,
        "difference_to_float32_softmax": apart(found, wanted),
        "meets_target": min(statistics.median(wall), statistics.median(cpu)) >= TARGET and difference <= AGREE,
    }


class Peak:
    """Peak resident memory from now on, in MiB; where the system cannot forget the peak of loading, with that."""

    def __init__(self) -> None:
        self.status = Path("/proc/self/status")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        except OSError:
            self.status = Path()

    def mib(self) -> float:
        """The peak."""
        if self.status.is_file():
            [line] = [line for line in self.status.read_text().splitlines() if line.startswith("VmHWM")]
            return int(line.split()[1]) / 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak(options: argparse.Namespace, kind: str, count: int) -> float:
    """Peak memory of a process while it answers ``count`` questions with keeps."""
    words = [sys.executable, __file__, "--peak", kind, "--questions", str(count), "--device", options.device]
    words += ["--data", options.data] if options.data else []
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(found.stdout.splitlines()[-1])


def questions_of(kind: str, count: int, data: str | None) -> Questions:
    """The questions of a kind."""
    if kind == "data":
        return file_questions(str(data), count)
    return short_questions(count) if kind == "short" else long_questions(count)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64, help="of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="times that both answer everything")
    parser.add_argument("--data", help="a file of records with choices, in place of the built-in questions")
    parser.add_argument("--only", default="", help="short or long")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="leave the processes that measure memory out")
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(words)

    model = LanguageModel.load(device=options.device)
    if options.peak:
        questions = questions_of(options.peak, options.questions, options.data)
        with_keeps(model, questions[:2])  # warm up
        memory = Peak()
        with_keeps(model, questions)
        print(memory.mib())
        return
    with_keeps(model, short_questions(4))  # warm up
    kinds = ["data"] if options.data else [options.only] if options.only else ["short", "long"]
    results = {
        kind: measure(model, questions_of(kind, options.questions, options.data), options.rounds) for kind in kinds
    }
    for kind in () if options.no_memory else kinds:
        few, many = (peak(options, kind, factor * results[kind]["questions"]) for factor in (1, 4))
        results[kind] |= {"peak_mib": [round(few), round(many)], "memory_flat": many <= FLAT * few}
    document = {
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "device": options.device,
        "target": TARGET,
        "results": results,
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()

"""How fast two streams in step are: against two plain batched streams, and against the loop as it was released.

    OMP_NUM_THREADS=1 python benchmarks/decoding.py --items 8 --rounds 5

All say the same number of tokens to the same questions with contexts; a run in which a text ends early is refused.
``plain`` decodes the questions with contexts and then the questions alone, each with ``LanguageModel.generate``: the
same forward passes without a combination, so what the engine costs above them is its own work. ``released`` is the
published loop in its own terms: one question at a time, two caches and two calls a token, logits of every stream
sorted and filtered over the whole vocabulary, one entropy after the other read as a number. The ways take turns and
the median of the ratios is reported, so that a busy machine slows all alike; once of the seconds that passed, once of
the processor's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.data.select import load_records
from keeps.decoding.combine import CADCombine, CKCombine, Combine
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream
from keeps.models import LanguageModel

PLAIN_TARGET, RELEASED_TARGET = 0.9, 2.0  # of the tokens per second of each
FILLER = "It lies in the middle of the land, and many roads lead there. "


def questions(items: int, sentences: int) -> tuple[list[str], list[str]]:
    """So many questions with contexts of about so many sentences, and alone."""
    facts = load_records(f"world:capital#{items}").questions()
    asked = [fact.prompts[0] for fact in facts]
    return [f"Rome is the new capital. {FILLER * sentences}{question}" for question in asked], asked


def released(model: LanguageModel, read: str, asked: str, tokens: int, alpha: float) -> list[int]:
    """The published loop, batch 1: both prompts through ``forward`` with caches, the filter by two sorts."""
    network: Any = model.model
    fed = [torch.tensor([model.encode_prompt(text)], device=model.device) for text in (read, asked)]
    pasts: list[Any] = [None, None]
    said: list[int] = []
    while len(said) < tokens:
        logits = []
        for stream in (0, 1):
            found = network(input_ids=fed[stream], past_key_values=pasts[stream], use_cache=True)
            pasts[stream] = found.past_key_values
            logits.append(found.logits[:, -1].clone().float())
        said.append(int(_released_scores(logits[0], logits[1], alpha).argmax(-1)))
        fed = [torch.tensor([[said[-1]]], device=model.device)] * 2
    return said


def _released_scores(z_c: Tensor, z_p: Tensor, alpha: float) -> Tensor:
    below = []
    for z in (z_c, z_p):
        log_p = z.log_softmax(-1)
        tenth = log_p.sort(descending=True).values[..., 9]
        below.append(log_p < torch.minimum(tenth, log_p.max(-1).values + torch.log(torch.tensor(0.01)))[..., None])
    dropped = below[0] & below[1]
    z_c, z_p = z_c.masked_fill(dropped, -1e10), z_p.masked_fill(dropped, -1e10)
    entropies = []
    for z in (z_c, z_p):
        p = z.softmax(-1)
        entropies.append(float(-(p * (p + 1e-9).log()).sum(-1)))
    if entropies[1] - entropies[0] >= entropies[0]:
        return z_c
    return alpha * z_p + (1 - alpha) * (z_c - z_p.masked_fill(dropped, -1e3))


def seconds(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds, and seconds of the processor, of each way, round by round, in turns; the first round is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                found[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return found


def ratios(found: dict[str, list[tuple[float, float]]], over: str, clock: int) -> dict[str, float]:
    """Median of each way's speed over another one's, round by round."""
    return {
        name: round(statistics.median(b[clock] / a[clock] for a, b in zip(values, found[over], strict=True)), 2)
        for name, values in found.items()
        if name != over
    }


def measure(model: LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    """All ways on the same questions."""
    read, asked = questions(options.items, options.sentences)
    streams = [Stream.of(model, read), Stream.of(model, asked)]
    combine = CKCombine(options.alpha, "code")

    def engine(way: Combine) -> list[list[int]]:
        return [spoken.tokens for spoken in decode_in_step(streams, way, max_new_tokens=options.tokens)]

    def loop() -> list[list[int]]:
        pairs = zip(read, asked, strict=True)
        return [released(model, *pair, options.tokens, options.alpha) for pair in pairs]

    def plain(texts: Sequence[str]) -> list[str]:
        return model.generate(texts, max_new_tokens=options.tokens, stop=())

    said = engine(combine)
    short = [len(tokens) for texts in (said, engine(CADCombine())) for tokens in texts if len(tokens) < options.tokens]
    if short:
        raise SystemExit(f"{len(short)} texts ended early: choose fewer --tokens")
    with torch.inference_mode():
        same = sum(a == b for a, b in zip(said, loop(), strict=True))
        found = seconds(
            {
                "ck_plug": lambda: engine(combine),
                "cad": lambda: engine(CADCombine()),
                "plain": lambda: (plain(read), plain(asked)),
                "released": loop,
            },
            options.rounds,
        )
    tokens = options.items * options.tokens
    clocks = {"passed": 0, "of the processor": 1}
    over = {clock: {way: ratios(found, way, n) for way in ("plain", "released")} for clock, n in clocks.items()}
    reached = over["passed"]
    return {
        "items": options.items,
        "new tokens": options.tokens,
        "prompt tokens": [max(map(len, stream.prompts)) for stream in streams],
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "tokens a second": {
            name: round(statistics.median(tokens / wall for wall, _ in values), 1) for name, values in found.items()
        },
        "ratios, seconds passed": over["passed"],
        "ratios, seconds of the processor": over["of the processor"],
        "texts equal to the released loop's": same,
        "meets targets": reached["plain"]["ck_plug"] >= PLAIN_TARGET
        and reached["released"]["ck_plug"] >= RELEASED_TARGET,
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=8, help="questions at once")
    parser.add_argument("--tokens", type=int, default=16, help="tokens that are said to each")
    parser.add_argument("--sentences", type=int, default=2, help="length of the contexts, about 14 tokens each")
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5, help="times that all ways are measured")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(json.dumps(measure(LanguageModel.load(device=options.device), options), indent=2))


if __name__ == "__main__":
    main()

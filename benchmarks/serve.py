"""Log-probabilities of prompts from `keeps serve`: read together, read one by one, and without a server.

    python benchmarks/serve.py --requests 32 --rounds 3

All requests come at once, by the official client, for the tokens of a prompt of their own (`echo` and `logprobs`). Both
ways of the server and the model itself take turns in every round; one by one is the same server whose worker reads a
single prompt a turn. Prints JSON: seconds by the clock and of the processor (clients, server and model share a
process), the ratios of each round, and the largest difference of a log-probability from the model's own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import openai

from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.jobs.serving import serving
from keeps.models.language_model import LanguageModel
from keeps.serve import gathering

Found = list[list[float]]  # log-probabilities of each prompt's tokens, without the first


def asked(client: openai.OpenAI, name: str, prompts: Sequence[str]) -> Found:
    """What the server says of every prompt, all asked at once."""

    def one(prompt: str) -> list[float]:
        reply = client.completions.create(model=name, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        logprobs = reply.choices[0].logprobs
        return list((logprobs.token_logprobs or [])[1:]) if logprobs else []

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(one, prompts))


def timed(work: Callable[[], Found]) -> tuple[Found, float, float]:
    """The result, seconds by the clock, and seconds of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - clock, time.process_time() - processor


def compared(requests: int, rounds: int) -> dict[str, Any]:
    """All ways, interleaved."""
    model = LanguageModel.load()
    facts = [record for record in load_records(f"world:capital#{requests}") if isinstance(record, Fact)]
    prompts = [f"{fact.prompts[0]} {fact.answers[0]}." for fact in facts]
    own: Found = [list(item.logprobs) for item in model.token_logprobs([""] * len(prompts), prompts)]
    together = gathering.MOST_TOKENS
    seconds: dict[str, list[tuple[float, float]]] = {"one by one": [], "together": [], "no server": []}
    furthest = 0.0
    with serving(model, limits={"max_concurrency": requests}) as address:
        client = openai.OpenAI(base_url=address.base_url, api_key="none", max_retries=0)
        ways: dict[str, Callable[[], Found]] = {
            "one by one": lambda: asked(client, address.model, prompts),
            "together": lambda: asked(client, address.model, prompts),
            "no server": lambda: [list(i.logprobs) for i in model.token_logprobs([""] * len(prompts), prompts)],
        }
        for number in range(rounds + 1):  # the first is a rehearsal
            for way, work in ways.items():
                gathering.MOST_TOKENS = 1 if way == "one by one" else together
                found, *spent = timed(work)
                values = [(a, b) for x, y in zip(found, own, strict=True) for a, b in zip(x, y, strict=True)]
                furthest = max(furthest, *(abs(a - b) for a, b in values))
                if number:
                    seconds[way].append((spent[0], spent[1]))
    ratios = {
        kind: [
            round(slow[n] / fast[n], 2) for slow, fast in zip(seconds["one by one"], seconds["together"], strict=True)
        ]
        for n, kind in enumerate(("clock", "processor"))
    }
    return {
        "requests": requests,
        "tokens": sum(len(values) + 1 for values in own),
        "seconds by the clock and of the processor": {
            way: [round(median(column), 3) for column in zip(*rows, strict=True)] for way, rows in seconds.items()
        },
        "one by one / together": {kind: [median(found), min(found), max(found)] for kind, found in ratios.items()},
        "largest difference of a log-probability": furthest,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(compared(given.requests, given.rounds), indent=1))

"""Invented dated facts, and made-up models that complete questions about them from a table or from an example."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from keeps.data.dated import DatedElement, state_of
from keeps.probe.base import Measure
from keeps.probe.chronology import ChronologySettings

YEARS = range(2010, 2016)
NAMES = ("Arn", "Bel", "Cor", "Dov", "Eri", "Fen")


def element(name: str, objects: Mapping[int, str], relation: str = "job", **own: Any) -> DatedElement:
    listed = {year: (told,) for year, told in objects.items()}
    return DatedElement(
        f"{relation}/{name}", name, relation, f"{name}, {relation}, [Object]", listed, state_of(listed), **own
    )


def calendar() -> list[DatedElement]:
    """Three facts that change in 2013, three that do not."""
    return [
        element(name, {year: f"{name.lower()}{'new' if n % 2 and year > 2012 else 'old'}" for year in YEARS})
        for n, name in enumerate(NAMES)
    ]


class Memory:
    """Completes the last question from a table of subject and year; ``sampled`` is what sampling gives besides."""

    def __init__(
        self, known: Mapping[tuple[str, int], str], sampled: Mapping[tuple[str, int], str] | None = None
    ) -> None:
        self.known, self.sampled = known, sampled or {}
        self.prompts: list[str] = []

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        self.prompts += prompts
        return [self.say(prompt, self.known) for prompt in prompts]

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, temperature: float, **options: Any) -> list[str]:
        assert temperature == 0.7
        assert len(seeds) == len(prompts)
        return [self.say(prompt, {**self.known, **self.sampled}) for prompt in prompts]

    def say(self, prompt: str, table: Mapping[tuple[str, int], str]) -> str:
        asked = re.findall(r"In (\d{4}), (\w+), ", prompt)[-1]
        return table.get((asked[1], int(asked[0])), "nobody")


def full_memory(facts: Sequence[DatedElement]) -> dict[tuple[str, int], str]:
    return {(fact.subject, year): told[0] for fact in facts for year, told in fact.objects.items()}


def settings(**own: Any) -> ChronologySettings:
    return ChronologySettings(**{"samples": 2, "shots": 2, "shortest_token": 3, "instruct": False, **own})


def by_name(measures: Sequence[Measure]) -> dict[tuple[str, str], Measure]:
    return {(measure.metric, measure.group): measure for measure in measures}


class Neighbour:
    """Repeats the answer of an example, the one that was put in last."""

    def __init__(self, fallback: str = "nobody") -> None:
        self.fallback, self.calls, self.prompts = fallback, 0, []

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        self.calls += len(prompts)
        self.prompts += prompts
        return [self.say(prompt) for prompt in prompts]

    def say(self, prompt: str) -> str:
        blocks = prompt.split("\n\n")[1:]
        place = next(n for n, block in enumerate(blocks) if "Candidate A." in block)
        shot = blocks[-2] if prompt.endswith("\n\nA.") else blocks[0] if place else blocks[-1]
        found = re.search(r"\nA\. (\S+)", shot)
        return f" {found[1]}" if found else self.fallback

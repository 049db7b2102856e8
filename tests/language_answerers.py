"""Answerers that know topics in planted languages, and questions in three languages to ask them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from keeps.contracts import Answer
from keeps.models.scores import ChoiceScore
from keeps.probe.base import Findings, Measure, ModelRows, Selection
from keeps.probe.language_specific import LanguageProbe, LanguageSpecific, LanguageSpecificSettings
from keeps.probe.similarity import TextSimilarity

TOPICS = {"food": "sw", "law": "fr", "sport": "en"}  # the language that knows about each
OPTIONS = ["red", "blue", "green", "grey"]


class Words:
    """An encoder that sees the topic's word and little else."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        rows = [[1.0 if topic in text else 0.0 for topic in TOPICS] + [0.01 * (len(text) % 3)] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def language_of(prompt: str) -> str:
    return "sw" if "Jibu" in prompt else "fr" if "Réponse" in prompt else "en"


class Scorer:
    """Has log-probabilities: picks by a rule of language, topic and number."""

    def __init__(self, right: Callable[[str, str, int], bool]) -> None:
        self.right = right
        self.asked: list[str] = []

    def option(self, prompt: str) -> int:
        number = int(prompt.partition("#")[2].partition("?")[0])
        topic = next(name for name in TOPICS if name in prompt)
        gold = number % 4
        return gold if self.right(language_of(prompt), topic, number) else (gold + 1) % 4

    def rank(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], advance: Any = None) -> list[ChoiceScore]:
        self.asked += prompts
        found = []
        for prompt, options in zip(prompts, choices, strict=True):
            best = self.option(prompt)
            values = tuple(0.0 if n == best else -1.0 for n in range(len(options)))
            found.append(ChoiceScore(best, values, values))
            if advance:
                advance(len(options))
        return found


class Writer(Scorer):
    """Writes its option; has no log-probabilities."""

    rank = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "rank":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        del contexts
        self.asked += questions
        return [Answer(f'{{"final_answer": "{"ABCD"[self.option(prompt)]}"}}') for prompt in questions]


def planted(language: str, topic: str, number: int) -> bool:
    chance = 0.9 if TOPICS[topic] == language else 0.35
    return random.Random(f"{language} {topic} {number}").random() < chance


def nothing(language: str, topic: str, number: int) -> bool:
    return random.Random(f"{language} {topic} {number}").random() < 0.5


def questions(folder: Path, count: int = 60, **change: Any) -> Path:
    """``count`` questions on each topic in three languages."""
    for code in ("en", "fr", "sw"):
        rows = []
        for topic in TOPICS:
            for n in range(count):
                row: dict[str, Any] = {"id": f"{topic}{n}", "input": f"{topic} #{n}?", "choices": OPTIONS}
                row |= {"answer": OPTIONS[n % 4], "country": "Kenya" if topic == "food" else "France"}
                rows.append({**row, **(change if code == "fr" and not rows else {})})
        (folder / f"{code}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def asking(data: Path | str, *, limit: int | None = None, seed: int = 0, **settings: Any) -> LanguageProbe:
    chosen = LanguageSpecificSettings(**{"clusters": 3, "permutations": 199, **settings})
    probe: Any = LanguageSpecific(chosen).probe(Selection(str(data), seed, limit))
    probe.similarity = TextSimilarity(Words(), name=chosen.encoder)
    return probe


def measured(probe: LanguageProbe, answerer: Any, **settings: Any) -> tuple[Findings, dict[tuple[str, str], Measure]]:
    chosen = LanguageSpecificSettings(**{**probe.settings.to_mapping(), **settings})
    found = LanguageSpecific(chosen).measure([ModelRows("it", probe(answerer))])
    return found, {(measure.metric, measure.group): measure for measure in found.measures}

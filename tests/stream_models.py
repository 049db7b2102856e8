"""Prompts for decoding in step, and the same as one writes it down: one item, no cache, everything fed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from pico_models import pico
from torch import Tensor

from keeps.decoding.streams import Stream
from keeps.models import LanguageModel

COUNTRIES = ("France", "Japan", "the Central African Republic", "Peru", "Chad", "Papua New Guinea")
CONTEXTS = tuple(
    f"{'It was moved, and it was moved again. ' * (number % 3)}Rome is the capital city of {country}."
    for number, country in enumerate(COUNTRIES)
)
QUESTIONS = tuple(f"The capital of {country} is" for country in COUNTRIES)
READ = tuple(f"{context} {question}" for context, question in zip(CONTEXTS, QUESTIONS, strict=True))


@cache
def pico_once(kind: str, tokenizer: Any, seed: int = 0) -> LanguageModel:
    """A pico model that tests share and leave as it is."""
    return pico(kind, tokenizer, seed)


def two_streams(model: LanguageModel, items: int = len(READ)) -> list[Stream]:
    """With context and without."""
    return [Stream.of(model, READ[:items]), Stream.of(model, QUESTIONS[:items])]


@torch.no_grad()
def plain_loop(
    streams: Sequence[Stream], item: int, scores: Callable[[Tensor], Tensor], tokens: int, width: int | None = None
) -> list[int]:
    """The greedy tokens of one item; ``scores`` makes scores of ``(streams, 1, vocabulary)``. Ends at end tokens."""
    said: list[int] = []
    while len(said) < tokens:
        logits: list[Any] = []
        for stream in streams:
            ids = torch.tensor([[*stream.prompts[item], *said]])
            logits.append(stream.model.model(input_ids=ids, use_cache=False).logits[:, -1, :width].float())
        said.append(int(scores(torch.stack(logits)).argmax()))
        if said[-1] in streams[0].model.encoder.end_ids:
            break
    return said

"""The next token of each row: the best one, or a draw with the row's own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.errors import SettingsError
from keeps.models.sampling import Softness, drawn, sampling_probabilities


@dataclass(frozen=True)
class Choice:
    """How a token is taken from scores.

    Attributes:
        temperature: 0 takes the best token.
        top_k: draw from so many best tokens; 0 means all.
        top_p: draw from the likeliest tokens that hold this much probability, in (0, 1].

    Raises:
        SettingsError: a value out of range, or one that a temperature of 0 would leave without effect.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        Softness(self.temperature, self.top_p)  # checks both
        if self.top_k < 0:
            raise SettingsError(f"top_k is {self.top_k}", where="sampling", mend="choose 0 (all tokens) or more")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            what = "top_k and top_p do nothing where the best token is taken"
            raise SettingsError(what, where="sampling", mend="choose a temperature above 0, or leave them out")


class Chooser:
    """Takes tokens for the rows of one call; each row's numbers come from its own seed, on the CPU."""

    def __init__(self, choice: Choice, seeds: Sequence[int]) -> None:
        self.choice = choice
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds] if choice.temperature else []

    def __call__(self, items: Sequence[int], scores: Tensor) -> Tensor:
        """The tokens of these items, ``(rows,)`` int64, of scores ``(rows, vocabulary)``."""
        if not self.choice.temperature:
            return scores.argmax(-1)
        draws = [torch.rand((), dtype=torch.float64, generator=self.generators[item]) for item in items]
        softness = Softness(self.choice.temperature, self.choice.top_p)
        p = sampling_probabilities(best_of(scores, self.choice.top_k), softness)
        return drawn(p, torch.stack(draws).to(scores.device))


def best_of(scores: Tensor, top_k: int) -> Tensor:
    """``scores`` with -inf outside the ``top_k`` best of each row (ties stay); 0 leaves them as they are.

    >>> best_of(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist()
    [[3.0, -inf, 2.0]]
    """
    if not top_k or top_k >= scores.shape[-1]:
        return scores
    least = scores.topk(top_k, dim=-1).values[..., -1:]
    return scores.masked_fill(scores < least, -math.inf)

"""Which examples are in which step, and how they become tensors.

The examples of a step depend on the seed and the number of the step alone. So the position in the
data is one number, a resumed run sees what an uninterrupted one would have seen, and each of several
processes knows the whole batch without being told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of one example; the loss is taken on ``input_ids[answer_start:]`` only.

    ``kind`` numbers the kind of data it is (0 where a method makes no difference); the loop only hands it on.
    """

    input_ids: tuple[int, ...]
    answer_start: int
    kind: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.answer_start <= len(self.input_ids):
            raise ValueError(
                f"answer_start {self.answer_start} is outside 1..{len(self.input_ids)}: no token predicts it"
            )

    @property
    def answer_tokens(self) -> int:
        """How many tokens the loss is taken on."""
        return len(self.input_ids) - self.answer_start


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right.

    Attributes:
        input_ids: (batch, time), int64.
        attention_mask: (batch, time), int64, 1 on tokens and 0 on padding.
        predicting: (batch, time), bool, true where the next token belongs to an answer.
        targets: (answer tokens,), int64, those next tokens in row-major order.
        kinds: (batch,), int64, the kind of each example.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    predicting: torch.Tensor
    targets: torch.Tensor
    kinds: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(examples: Sequence[TokenizedExample], pad_token_id: int) -> Batch:
    """Pad ``examples`` on the right to the longest of them.

    >>> batch = collate([TokenizedExample((5, 6, 7), 2), TokenizedExample((8, 9), 1)], pad_token_id=0)
    >>> batch.input_ids.tolist(), batch.targets.tolist()
    ([[5, 6, 7], [8, 9, 0]], [7, 9])
    """
    longest = max(len(example.input_ids) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    predicting = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.tensor(example.input_ids)
        attention_mask[row, :length] = 1
        predicting[row, example.answer_start - 1 : length - 1] = True
    kinds = torch.tensor([example.kind for example in examples])
    return Batch(input_ids, attention_mask, predicting, input_ids[:, 1:][predicting[:, :-1]], kinds)


@dataclass(frozen=True)
class Order:
    """The order in which examples are seen.

    Every epoch is a new shuffle. Within a step the examples are sorted by length before they are cut
    into ``accumulation`` forward passes and dealt to the processes: that saves padding and changes
    nothing else, because the loss is averaged over all answer tokens of the step.
    """

    examples: Sequence[TokenizedExample]
    batch_size: int
    accumulation: int
    seed: int

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; the last one may hold fewer examples."""
        return -(-len(self.examples) // (self.batch_size * self.accumulation))

    def step(self, step: int) -> list[TokenizedExample]:
        """The examples of optimiser step ``step`` (counted from 0), the longest first."""
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self.batch_size * self.accumulation
        chosen = _shuffled(len(self.examples), self.seed, epoch)[within * size : (within + 1) * size]
        picked = [self.examples[index] for index in chosen]
        return sorted(picked, key=lambda example: -len(example.input_ids))  # stable, hence deterministic

    def passes(self, step: int, process: int = 0, processes: int = 1) -> list[list[TokenizedExample]]:
        """The share of one process in each forward pass of a step.

        A process for which nothing is left gets an example without answer tokens, so that all
        processes take part in every pass.
        """
        picked = self.step(step)
        passes = [picked[start : start + self.batch_size] for start in range(0, len(picked), self.batch_size)]
        idle = [TokenizedExample(picked[-1].input_ids, len(picked[-1].input_ids), picked[-1].kind)]
        return [examples[process::processes] or idle for examples in passes]


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any values, the same in every process and version."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(stable_seed("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()

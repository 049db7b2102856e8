"""Batches of sequences of like length, under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def length_batches(lengths: Sequence[int], *, budget: int, past: int = 0, slots: int = 0) -> list[list[int]]:
    """Indices grouped into batches, longest first, so that padding is small and memory peaks at once.

    Args:
        lengths: tokens of each sequence.
        budget: most padded tokens (rows times the longest row) in one batch; one sequence above it
            makes a batch of its own.
        past: cached tokens in front of each row.
        slots: most padded tokens *with* the cached ones; 0 means no such limit.

    >>> length_batches([2, 9, 3, 2], budget=9)
    [[1], [2, 0, 3]]
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        rows = len(batches[-1]) + 1 if batches else 1
        fits = rows * width <= budget and (not slots or rows * (width + past) <= slots)
        if batches and fits:
            batches[-1].append(index)
        else:
            batches.append([index])
            width = lengths[index]
    return batches


def pad_right(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both ``(batch, time)`` int64; the mask is 1 on tokens and 0 on padding.

    >>> pad_right([[5, 6], [7]], 0, torch.device("cpu"))[0].tolist()
    [[5, 6], [7, 0]]
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_token_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids.to(device), mask.to(device)

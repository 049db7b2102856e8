"""One vector for a sequence: the mean of its last hidden states, or the first of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from keeps.models.batching import length_batches, pad_right


def mean_states(
    backbone: Callable[[Tensor, Tensor], Tensor],
    rows: Sequence[Sequence[int]],
    *,
    width: int,
    pad: int,
    budget: int,
    device: torch.device,
    first: bool = False,
) -> Tensor:
    """Means over each row's tokens, padding left out, ``(len(rows), width)`` float32 on the CPU.

    With ``first`` it is the state of each row's first token instead.

    ``backbone`` takes ids and mask ``(batch, time)`` and gives hidden states ``(batch, time, width)``;
    ``pad`` is the id that fills short rows.
    """
    with torch.inference_mode(False):  # an ordinary tensor, which may take part in training later
        means = torch.zeros(len(rows), width)
    for batch in length_batches([len(row) for row in rows], budget=budget):
        ids, mask = pad_right([rows[index] for index in batch], pad, device)
        states, weights = backbone(ids, mask).float(), mask[:, :, None].float()
        means[batch] = (states[:, 0] if first else (states * weights).sum(1) / weights.sum(1)).cpu()
    return means

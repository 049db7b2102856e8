"""The loss on answer tokens, with the vocabulary projection computed only where it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from keeps.models.packing import can_pack, packed_states, worth_packing
from keeps.models.projection import read_positions, unwrapped
from keeps.training.batches import Batch

CHUNK = 1024  # positions projected at a time: 200 MB of float32 logits for a vocabulary of 49,152


class AnswerLoss(nn.Module):
    """A causal language model as a module whose forward gives the summed loss of a batch.

    It is a module, not a function, so that a wrapper around it (DistributedDataParallel, mixed
    precision) sees the forward pass it hooks into.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over the answer tokens: a float32 scalar, 0 if there are none."""
        hidden, head = read_positions(self.model, batch.input_ids, batch.attention_mask, batch.predicting)
        return summed_loss(hidden, head, batch.targets)


class PackedLoss(AnswerLoss):
    """The same loss, with the examples of a batch packed into one row: no layer computes padding.

    What :func:`keeps.training.train` uses unless told otherwise. Inside the model tensors have the shape
    ``(1, tokens, hidden)`` then; a loss whose hooks read rows of examples builds on :class:`AnswerLoss`.
    Where the model does not honour packing, or a batch has next to no padding, it is :class:`AnswerLoss`.
    """

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over the answer tokens: a float32 scalar, 0 if there are none."""
        hidden, head = answer_states(self.model, batch)
        return summed_loss(hidden, head, batch.targets)


def answer_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the vocabulary projection reads where answers are predicted, and the projection; padding is not computed.

    Returns:
        ``(answer tokens, hidden)`` in the row-major order of ``batch.predicting``, and what makes logits of them.
    """
    if not (worth_packing(batch.attention_mask) and can_pack(model)):
        return read_positions(model, batch.input_ids, batch.attention_mask, batch.predicting)
    hidden = packed_states(model, batch.input_ids, batch.attention_mask)
    head = cast(Callable[[Tensor], Tensor], cast(Any, unwrapped(model)).get_output_embeddings())
    return hidden[batch.predicting[batch.attention_mask.bool()]], head


def summed_loss(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Cross-entropy of ``head(hidden)`` against ``targets``, summed, in float32.

    Running text has a target at every position, and its logits would be the largest tensor by far.
    Beyond ``chunk`` positions they are computed a piece at a time and once more in the backward pass,
    so that only one piece is ever in memory.

    Args:
        hidden: (positions, hidden), what the vocabulary projection reads.
        head: the projection, (n, hidden) to (n, vocabulary).
        targets: (positions,), int64.
    """

    def piece(rows: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(head(rows).float(), wanted, reduction="sum")

    if len(targets) <= chunk:
        return piece(hidden, targets)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    losses = [checkpoint(piece, rows, wanted, use_reentrant=False) for rows, wanted in parts]
    return torch.stack(losses).sum()

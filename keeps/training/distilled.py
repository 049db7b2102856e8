"""Next-token loss and distillation from the model's own start, over the same tokens of the same batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from keeps.errors import SettingsError
from keeps.models.projection import evaluating, read_positions
from keeps.numerics.distillation import distillation
from keeps.training.batches import Batch

CHUNK = 512  # positions projected at a time, by student and teacher: 200 MB of logits for a vocabulary of 49,152
DOMAIN, GENERAL = 0, 1  # kinds of examples


class Teacher(Protocol):
    """What the model said before it changed; :class:`keeps.training.reference.Reference` is one."""

    def read(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Vectors ``(answer tokens, width)``, and what makes logits of any rows of them."""
        ...


class LiveTeacher:
    """The unchanged model, run again on every batch: for texts too long to keep their hidden states.

    An adapter is switched off while the teacher reads, which needs no memory; of a whole model a frozen
    copy is kept. Make it before the first step, and only of an adapter whose base is the untouched one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.adapter: Any = model if hasattr(model, "disable_adapter") else None
        self.frozen = None if self.adapter is not None else copy.deepcopy(model).requires_grad_(False).eval()

    def read(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """As :meth:`Teacher.read`."""
        arguments = batch.input_ids, batch.attention_mask, batch.predicting
        with torch.no_grad():
            if self.frozen is not None:
                return read_positions(self.frozen.to(batch.input_ids.device), *arguments)
            with evaluating(self.adapter), self.adapter.disable_adapter():
                return read_positions(self.adapter, *arguments)


class DistilledLoss(nn.Module):
    """L = L_next + alpha * KL(teacher || model), each summed over the answer tokens of a batch.

    The *value* of the forward pass is L_next alone and its *gradient* is that of L, so that training
    curves, and the loss at which training stops, mean the same whatever alpha is.

    Args:
        model: a causal language model.
        teacher: what it said before.
        alpha: weight of the distillation, above 0.
        swap: exchange the teacher's logits of its likeliest and of the true token (LSSD).
        next_token: whether L_next is minimised at all; without it the swapped target alone teaches.
        general_only: distil on examples of the kind :data:`GENERAL` alone.

    Raises:
        SettingsError: alpha or the temperature is not above 0.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher,
        *,
        alpha: float = 1.0,
        temperature: float = 1.0,
        swap: bool = True,
        next_token: bool = True,
        general_only: bool = False,
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        if not (alpha > 0 and temperature > 0):
            what = f"a distillation of weight {alpha:g} at temperature {temperature:g}"
            raise SettingsError(what, mend="choose values above 0, or train without a teacher")
        self.model, self.teacher = model, teacher
        self.alpha, self.temperature, self.swap = alpha, temperature, swap
        self.next_token, self.general_only, self.chunk = next_token, general_only, chunk

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over the answer tokens: a float32 scalar with the gradient of L."""
        next_token, divergence = self.parts(batch)
        value = next_token if self.next_token else next_token.detach()
        return value + self.alpha * (divergence - divergence.detach())

    def parts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_next and the divergence, both summed over the answer tokens; nothing is weighted yet."""
        hidden, head = read_positions(self.model, batch.input_ids, batch.attention_mask, batch.predicting)
        if not len(batch.targets):  # a process for which no example is left
            loss = functional.cross_entropy(head(hidden).float(), batch.targets, reduction="sum")
            return loss, loss
        before, before_head = self.teacher.read(batch)
        rows = batch.predicting.nonzero()[:, 0]  # of the example that each position belongs to
        distilled = batch.kinds[rows] == GENERAL if self.general_only else torch.ones_like(rows, dtype=torch.bool)

        def piece(now: Tensor, then: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
            logits = head(now).float()
            with torch.no_grad():
                wanted = before_head(then[chosen])
            loss = functional.cross_entropy(logits, tokens, reduction="sum")
            found = distillation(
                logits[chosen], wanted, tokens[chosen], temperature=self.temperature, swap=self.swap
            ).sum()
            return torch.stack([loss, found])

        whole = (hidden, before, batch.targets, distilled)
        if len(batch.targets) <= self.chunk:
            total = piece(*whole)
        else:  # only one piece's logits are ever in memory, at the price of computing them twice
            pieces = zip(*(each.split(self.chunk) for each in whole), strict=True)
            total = torch.stack([checkpoint(piece, *each, use_reentrant=False) for each in pieces]).sum(0)  # type: ignore[arg-type]
        return total[0], total[1]

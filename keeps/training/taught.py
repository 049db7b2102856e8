"""Held by a teacher and by the task at once: the retain term of teacher-student unlearning, one reading a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.errors import SettingsError
from keeps.numerics.divergences import kl_divergence
from keeps.training.batches import TokenizedExample, collate
from keeps.training.losses import answer_states
from keeps.training.reference import Reference


class Taught:
    """A regulariser: weight * mean KL(before || now) + task_weight * mean NLL, over the answer tokens of one draw.

    Args:
        reference: what the teacher said about ``examples``.
        batch_size: examples a forward pass, drawn anew each time.

    Raises:
        SettingsError: there is nothing to draw, or no weight.
    """

    def __init__(
        self,
        reference: Reference,
        examples: Sequence[TokenizedExample],
        *,
        weight: float,
        task_weight: float,
        batch_size: int,
        pad_token_id: int,
    ) -> None:
        if not (examples and weight + task_weight > 0 and batch_size > 0):
            raise SettingsError("a retain term without examples or weight would do nothing", mend="give both")
        self.reference, self.examples = reference, list(examples)
        self.weight, self.task_weight = weight, task_weight
        self.batch_size, self.pad_token_id = min(batch_size, len(self.examples)), pad_token_id

    def __call__(self, module: nn.Module) -> Tensor:
        """Both terms on a fresh draw, a float32 scalar."""
        chosen = torch.randperm(len(self.examples))[: self.batch_size].tolist()
        device = next(module.parameters()).device
        batch = collate([self.examples[number] for number in chosen], self.pad_token_id).to(device)
        hidden, head = answer_states(module, batch)
        logits = head(hidden).float()
        divergence = kl_divergence(self.reference.logits(batch), logits).mean()
        return self.weight * divergence + self.task_weight * functional.cross_entropy(logits, batch.targets)

"""What rows have seen so far: their keys and values, and which of those slots hold tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class CacheState:
    """Keys and values of a batch of rows that may differ in length.

    Padding leaves slots that hold no token: ``mask`` hides them for good, and ``lengths`` gives the
    positions of the tokens that follow. So rows of any length go on side by side.

    Attributes:
        keys_values: transformers cache, one layer a block, each ``(batch, heads, slots, head size)``.
        mask: ``(batch, slots)`` int64, 1 where a slot holds a token.
        lengths: ``(batch,)`` int64, tokens seen by each row.
    """

    keys_values: Any
    mask: Tensor
    lengths: Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> CacheState:
        """The state of rows that have seen nothing."""
        from transformers import DynamicCache

        zeros = torch.zeros(rows, dtype=torch.long, device=device)
        return cls(DynamicCache(), zeros.new_zeros(rows, 0), zeros)

    @property
    def slots(self) -> int:
        """Cached positions of each row, padding included."""
        return int(self.mask.shape[1])

    def select(self, rows: Tensor) -> CacheState:
        """A new state whose row *i* is this state's row ``rows[i]``; rows may repeat. This one stays as it is."""
        keys_values = copy.copy(self.keys_values)
        keys_values.layers = [copy.copy(layer) for layer in self.keys_values.layers]
        keys_values.batch_select_indices(rows)  # indexing copies, so the tensors are not shared either
        return CacheState(keys_values, self.mask[rows], self.lengths[rows])

    def extend(self, mask: Tensor) -> Tensor:
        """Count ``mask`` ``(batch, time)`` of new tokens in, and return their position ids."""
        steps = torch.arange(mask.shape[1], device=mask.device)
        position_ids = self.lengths[:, None] + torch.minimum(steps, mask.sum(1, keepdim=True) - 1)
        self.mask = torch.cat([self.mask, mask], dim=1)
        self.lengths = self.lengths + mask.sum(1)
        return position_ids

    def forget(self, counts: Tensor) -> None:
        """Hide the last ``counts[i]`` tokens of each row *i*: they were drafted and turned out wrong."""
        after = self.mask.flip(1).cumsum(1).flip(1)  # tokens at or after each slot
        self.mask = self.mask * (after > counts[:, None]).long()
        self.lengths = self.lengths - counts

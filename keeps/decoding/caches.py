"""What rows have seen before the first token is chosen: computed in batches of like length, kept as one batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from keeps.models.batching import length_batches
from keeps.models.cache import CacheState
from keeps.models.generation import last_logits
from keeps.models.prefix import plan_prefixes
from keeps.models.scoring import Engine, Tokens


def side_by_side(states: Sequence[CacheState]) -> CacheState:
    """The rows of several states in one; shorter ones get slots in front that hold no token."""
    if len(states) == 1:
        return states[0]
    slots = max(state.slots for state in states)
    keys_values = copy.copy(states[0].keys_values)
    keys_values.layers = [copy.copy(layer) for layer in keys_values.layers]
    for number, layer in enumerate(keys_values.layers):
        if not layer.is_initialized:
            continue  # a block that reads the keys of another one
        for name in ("keys", "values"):
            parts = [getattr(state.keys_values.layers[number], name) for state in states]
            setattr(layer, name, torch.cat([_filled(part, slots, 2) for part in parts]))
    mask = torch.cat([_filled(state.mask, slots, 1) for state in states])
    return CacheState(keys_values, mask, torch.cat([state.lengths for state in states]))


def _filled(values: Tensor, slots: int, dimension: int) -> Tensor:
    """``values`` with zeros in front of ``dimension``, up to ``slots``."""
    shape = list(values.shape)
    shape[dimension] = slots - shape[dimension]
    return torch.cat([values.new_zeros(shape), values], dim=dimension) if shape[dimension] else values


def prefill(engine: Engine, contexts: Sequence[Tokens]) -> tuple[Tensor, CacheState]:
    """Feed ``contexts``, common beginnings once, and keep them side by side.

    Returns:
        The logits behind each one's last token, ``(rows, vocabulary)``, and the state of all rows, in their order.
    """
    logits: list[Tensor] = []
    states: list[CacheState] = []
    order: list[int] = []
    for group in plan_prefixes([context[:-1] for context in contexts]):
        prefix = engine.start(contexts[group.members[0]][: group.length])
        rows = [contexts[number][group.length :] for number in group.members]
        lengths = [len(row) for row in rows]
        for batch in length_batches(lengths, budget=engine.budget, past=group.length, slots=engine.slots):
            state = engine.repeat(prefix, len(batch)) or CacheState.empty(len(batch), engine.device)
            logits.append(last_logits(engine, [rows[index] for index in batch], state))
            states.append(state)
            order += [group.members[index] for index in batch]
    state = side_by_side(states)
    if order == list(range(len(order))):
        return torch.cat(logits), state
    places = torch.tensor(order, device=engine.device).argsort()
    return torch.cat(logits)[places], state.select(places)

"""Rows of different lengths as one row without padding: every layer reads tokens, none reads padding.

The tokens of a padded batch are put behind each other, with the positions that they had. Everything but
attention works on single tokens and does not notice. Attention puts the rows side by side again, which
costs little, and needs no mask but the causal one, as padding stands on the right. Whether a model
honours this is tested once by its hidden states; where it does not, the padded batch serves it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.models.projection import evaluating, hidden_states, reading_of, unwrapped

NAME = "keeps_packed"  # of the attention below in transformers' list
SHORT = 128  # tokens up to which plain attention beats the fused one on a CPU
WORTH_IT = 0.02  # share of padding from which packing is done
_FLAG = "_keeps_packing"  # kept on the module itself, so that it lives and dies with it
_REFUSED = ("softcap", "s_aux", "position_bias", "cache", "head_mask")  # of attention: what this one does not know
_active = threading.local()


@dataclass(frozen=True)
class Packing:
    """Where each token of the packed row stands in the padded batch.

    Attributes:
        rows, longest: shape of the padded batch.
        slots: (tokens,), int64, row * longest + position.
    """

    rows: int
    longest: int
    slots: Tensor

    @classmethod
    def of(cls, attention_mask: Tensor) -> Packing:
        """Of a batch that is padded on the right: ``attention_mask`` is (batch, time)."""
        rows, longest = attention_mask.shape
        return cls(rows, longest, attention_mask.reshape(-1).nonzero().squeeze(1))

    def packed(self, values: Tensor) -> Tensor:
        """(batch, time) to (tokens,)."""
        return values.reshape(-1)[self.slots]

    def spread(self, values: Tensor) -> Tensor:
        """(heads, tokens, width) to (heads, batch, time, width), zero on padding."""
        heads, _, width = values.shape
        wide = values.new_zeros(heads, self.rows * self.longest, width)
        return wide.index_copy(1, self.slots, values).view(heads, self.rows, self.longest, width)

    def gathered(self, values: Tensor) -> Tensor:
        """(heads, batch, time, width) back to (heads, tokens, width)."""
        return values.flatten(1, 2).index_select(1, self.slots)


def worth_packing(attention_mask: Tensor) -> bool:
    """Whether enough of a batch is padding."""
    return float(attention_mask.sum()) <= (1 - WORTH_IT) * attention_mask.numel()


def packed_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states ``(tokens, hidden)`` in row-major order, of a model for which :func:`can_pack` is true.

    Args:
        model: transformers causal language model, or a PeftModel over one.
        input_ids: ``(batch, time)`` int64, padded on the right.
        attention_mask: ``(batch, time)``, 1 on tokens and 0 on padding.
    """
    packing = Packing.of(attention_mask)
    positions = torch.arange(packing.longest, device=input_ids.device).expand_as(input_ids)
    backbone = cast(Any, unwrapped(model)).get_decoder()
    with _packed_attention(unwrapped(model), packing):
        result = backbone(
            input_ids=packing.packed(input_ids)[None], position_ids=packing.packed(positions)[None], use_cache=False
        )
    return result.last_hidden_state[0]


def can_pack(model: nn.Module) -> bool:
    """Whether packed rows give the hidden states of padded ones, tested on first use with three short rows.

    Never where activations are computed a second time in the backward pass, outside this file's reach, or
    where the user chose an attention other than transformers' plain and fused ones.
    """
    base = cast(Any, unwrapped(model))
    if not reading_of(model).projection or any(getattr(m, "gradient_checkpointing", False) for m in base.modules()):
        return False
    if getattr(getattr(base, "config", None), "_attn_implementation", None) not in ("eager", "sdpa"):
        return False
    found = getattr(base, _FLAG, None)
    if not isinstance(found, bool):
        with evaluating(model), torch.no_grad():
            found = _agrees(model)
        setattr(base, _FLAG, found)
    return found


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within the rows of the :class:`Packing` under way; transformers' interface.

    Args:
        query: ``(1, heads, tokens, width)``; ``key`` and ``value`` may have fewer heads, each for a group.

    Raises:
        ValueError: the model asks for something that is not done here.
    """
    packing: Packing | None = getattr(_active, "packing", None)
    odd = [name for name in _REFUSED if kwargs.get(name) is not None]
    causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    if packing is None or attention_mask is not None or odd or not causal:
        raise ValueError(f"packed attention knows no {', '.join(odd) or 'mask but the causal one of packed rows'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (packing.spread(each[0]) for each in (query, key, value))  # (heads, batch, time, width)
    window = sliding_window if sliding_window is not None and sliding_window < packing.longest else None
    attend = _plain if query.device.type == "cpu" and packing.longest <= SHORT else _fused
    read = attend(q, k, v, scale, dropout, _hidden(packing.longest, window, query.device))
    return packing.gathered(read).transpose(0, 1)[None], None  # (1, tokens, heads, width)


def _hidden(time: int, window: int | None, device: torch.device) -> Tensor:
    """(time, time) bool, true where a query (row) may not see a key (column): later ones, and those too old."""
    distance = torch.arange(time, device=device)[:, None] - torch.arange(time, device=device)
    return (distance < 0) if window is None else (distance < 0) | (distance >= window)


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, hidden: Tensor) -> Tensor:
    """Products and softmax; queries of a group of heads are read against their one key side by side."""
    heads, rows, time, width = q.shape
    shared = k.shape[0]
    grouped = q.view(shared, heads // shared, rows, time, width).transpose(1, 2)  # (shared, rows, group, time, width)
    scores = grouped.reshape(shared, rows, -1, width) @ (k * scale).transpose(-1, -2)
    scores = scores.view(shared, rows, -1, time, time).masked_fill(hidden, float("-inf"))
    weights = functional.dropout(scores.softmax(-1, dtype=torch.float32).to(q.dtype), dropout)
    read = weights.view(shared, rows, -1, time) @ v
    return read.view(shared, rows, -1, time, width).transpose(1, 2).reshape(heads, rows, time, width)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, hidden: Tensor) -> Tensor:
    group = q.shape[0] // k.shape[0]
    q, k, v = (each.transpose(0, 1) for each in (q, k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)))
    causal = bool(hidden[-1, 0] == 0)  # no window: the kernel knows this mask by itself
    mask = None if causal else ~hidden
    read = functional.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, scale=scale)
    return read.transpose(0, 1)


@contextmanager
def _packed_attention(base: nn.Module, packing: Packing) -> Iterator[None]:
    """The model with this file's attention, its own given back on leaving."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    model = cast(Any, base)
    before = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    _active.packing = packing
    try:
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:  # pyright: ignore[reportPrivateUsage]
            raise ValueError("the model has an attention of its own")
        yield
    finally:
        _active.packing = None
        model.set_attn_implementation(before)


def _agrees(model: nn.Module) -> bool:
    """Packed against padded hidden states of three rows; the first says nothing of what follows it."""
    base = cast(Any, unwrapped(model))
    config = base.config
    if getattr(config, "attention_chunk_size", None) is not None:  # not to be seen in short rows
        return False
    device = next(base.parameters()).device
    ids = (torch.arange(24, device=device).view(3, 8) * 7 + 5) % int(config.vocab_size)
    mask = (torch.arange(8, device=device) < torch.tensor([[8], [3], [5]], device=device)).long()
    try:
        found = packed_states(model, ids, mask).float()
    except (RuntimeError, TypeError, AttributeError, ValueError, KeyError):
        return False
    expected = hidden_states(model, ids, mask)[mask.bool()].float()
    share = 1e-4 if next(base.parameters()).dtype == torch.float32 else 3e-2
    return bool((found - expected).abs().max() <= share * expected.abs().max().clamp_min(1e-6))

"""The vocabulary projection only where it is read.

The projection onto the vocabulary is the widest layer of a small language model (28 of SmolLM2's 135
million parameters), and its result the largest tensor. Scoring reads it at a few positions only, so
the backbone runs over everything and the projection over the chosen positions. Some models do more
than a product at the end (soft caps, scales); whether the short way gives the full model's logits is
therefore tested once per model, and the full forward is used where it does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.models.cache import CacheState

PROBE_LENGTH = 8  # tokens of the test input
CHUNK_ELEMENTS = 1 << 24  # logits computed at a time: 64 MiB in float32
_FLAG = "_keeps_reading"  # kept on the module itself, so that it lives and dies with it
_LOGIT_CHANGERS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True)
class Reading:
    """What the test found for an architecture; it says nothing about weights, which may change."""

    projection: bool  # backbone + output embeddings give the logits of the full forward
    cache: bool  # cached keys and values, with gaps for padding, give the same too


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model itself, with adapter layers in place when ``model`` is a PeftModel."""
    inner = getattr(model, "get_base_model", None)
    return cast(nn.Module, inner()) if callable(inner) else model


def reading_of(model: nn.Module) -> Reading:
    """How ``model`` may be read, tested on first use (a few forward passes over two short rows)."""
    base = unwrapped(model)
    found = getattr(base, _FLAG, None)
    if not isinstance(found, Reading):
        with evaluating(model), torch.no_grad():
            found = _examine(model)
        setattr(base, _FLAG, found)
    return Reading(False, False) if _prompt_tuned(model) else found


def _prompt_tuned(model: nn.Module) -> bool:
    """Whether a PeftModel puts learned tokens in front, which happens outside its base model."""
    return any(getattr(c, "is_prompt_learning", False) for c in (getattr(model, "peft_config", None) or {}).values())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module gets its own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def selected_logits(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    positions: Tensor,
    *,
    past: CacheState | None = None,
) -> Tensor:
    """Logits at chosen positions; differentiable, and in the training mode that the model is in.

    Args:
        model: transformers causal language model, or a PeftModel over one.
        input_ids: ``(batch, time)`` int64, padded on the right.
        attention_mask: ``(batch, time)``, 1 on tokens and 0 on padding.
        positions: ``(batch, time)`` bool, true where the logits are wanted.
        past: what the rows have seen already; extended in place.

    Returns:
        ``(positions.sum(), vocabulary)`` in row-major order of ``positions``, in the model's dtype.
    """
    hidden, head = read_positions(model, input_ids, attention_mask, positions, past=past)
    return head(hidden)


def last_logits(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits of the token behind each row, ``(batch, vocabulary)``; rows without a mask have no padding."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1] = True
    return selected_logits(model, input_ids, mask, last)


def read_positions(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    positions: Tensor,
    *,
    past: CacheState | None = None,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """As :func:`selected_logits`, but in two steps, so that the caller may project a piece at a time.

    Returns:
        Vectors ``(positions.sum(), width)`` and the function that makes logits of any rows of them.
    """
    own = getattr(model, "read_positions", None)  # several models read as one
    if own is not None:
        return cast(Any, own)(input_ids, attention_mask, positions, past=past)
    reading = reading_of(model)
    if not reading.projection:
        logits = _full_logits(model, input_ids, attention_mask, positions, past)
        return logits, lambda rows: rows
    head = cast(Callable[[Tensor], Tensor], cast(Any, unwrapped(model)).get_output_embeddings())
    return hidden_states(model, input_ids, attention_mask, past=past)[positions], head


def hidden_states(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, *, past: CacheState | None = None
) -> Tensor:
    """Last hidden states ``(batch, time, hidden)`` of the backbone, after its final norm."""
    backbone = cast(Any, unwrapped(model)).get_decoder()
    arguments = _arguments(model, input_ids, attention_mask, past)
    return backbone(**arguments).last_hidden_state


def chunks(count: int, vocabulary: int) -> Iterator[slice]:
    """Slices of ``range(count)`` whose logits fit into a fixed amount of memory."""
    step = max(16, CHUNK_ELEMENTS // max(vocabulary, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _arguments(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, past: CacheState | None) -> dict[str, Any]:
    if past is None:
        return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    position_ids = past.extend(attention_mask)
    return {
        "input_ids": input_ids,
        "attention_mask": past.mask,
        "position_ids": position_ids,
        _cache_name(model): past.keys_values,
        "use_cache": True,
    }


def _cache_name(model: nn.Module) -> str:
    """What the forward pass calls its keys and values: newer transformers say ``cache`` and warn of the other."""
    return "cache" if _takes(type(unwrapped(model)), "cache") else "past_key_values"


@lru_cache(maxsize=64)
def _takes(kind: type[nn.Module], name: str) -> bool:
    """Whether its forward pass has such a parameter; looked up once, since every token that is generated asks."""
    return name in inspect.signature(kind.forward).parameters


def _full_logits(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, past: CacheState | None
) -> Tensor:
    arguments = _arguments(model, input_ids, attention_mask, past)
    columns = positions.any(0).nonzero().squeeze(1)  # time steps that some row is read at
    takes_columns = _takes(type(unwrapped(model)), "logits_to_keep")
    if takes_columns and not _prompt_tuned(model):
        return model(**arguments, logits_to_keep=columns).logits[positions[:, columns]]
    logits = model(**arguments).logits
    return logits[:, -positions.shape[1] :][positions]  # without the learned tokens in front, if there are any


def _examine(model: nn.Module) -> Reading:
    """Compare both short ways with the full forward on two rows, the second one shorter."""
    base = cast(Any, unwrapped(model))
    weight = next(base.parameters())
    ids = (torch.arange(2 * PROBE_LENGTH, device=weight.device).view(2, -1) * 7 + 5) % int(base.config.vocab_size)
    ids[1, :3] = ids[0, :3]  # a common prefix
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    wanted = mask.bool()
    full = base(input_ids=ids, attention_mask=mask, use_cache=False).logits[wanted].float()
    projection = _projection_agrees(base, ids, mask, wanted, full)
    return Reading(projection, _cache_agrees(base, ids, mask, full))


def _projection_agrees(base: Any, ids: Tensor, mask: Tensor, wanted: Tensor, full: Tensor) -> bool:
    if any(getattr(base.config, name, None) not in (None, 1, 1.0) for name in _LOGIT_CHANGERS):
        return False  # the effect may be too small to see in a model that has not been trained yet
    head = getattr(base, "get_output_embeddings", lambda: None)()
    decoder = getattr(base, "get_decoder", lambda: None)()
    if head is None or decoder is None or decoder is base:
        return False
    try:
        return _close(head(hidden_states(base, ids, mask)[wanted]), full)
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return False  # a backbone of another shape: the full forward serves it


def _cache_agrees(base: Any, ids: Tensor, mask: Tensor, full: Tensor) -> bool:
    """A cached prefix, then padded rows, then one token after the padding's gap."""
    try:
        state = CacheState.empty(1, ids.device)
        base(**_arguments(base, ids[:1, :3], mask[:1, :3], state))
        state = state.select(torch.zeros(2, dtype=torch.long, device=ids.device))
        step = mask[:, 3:-1].clone()
        step[1, -2:] = 0  # row 1 is fed two tokens fewer than row 0, so that its next one follows a gap
        base(**_arguments(base, ids[:, 3:-1], step, state))
        rows = torch.stack([ids[0, -1:], ids[1, PROBE_LENGTH - 3 : PROBE_LENGTH - 2]])
        last = base(**_arguments(base, rows, torch.ones_like(rows), state)).logits[:, 0]
    except (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError, IndexError):
        return False
    expected = torch.stack([full[PROBE_LENGTH - 1], full[PROBE_LENGTH + PROBE_LENGTH - 3]])
    return _close(last, expected)


def _close(left: Tensor, right: Tensor) -> bool:
    share = 1e-4 if left.dtype == torch.float32 else 3e-2  # half precision rounds by the shape of the batch
    difference = (left.float() - right.float()).abs().max()
    return bool(difference <= share * right.float().abs().max().clamp_min(1e-6))

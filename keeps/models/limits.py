"""How much a model takes at once: its context, and what a forward pass may hold on its device."""

from __future__ import annotations

from typing import Any

from torch import nn

from keeps.models.scoring import Engine, text_config

TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}  # padded tokens a forward pass
SLOTS_PER_BATCH = {"cpu": 8192, "cuda": 131072}  # with cached tokens: 46 kB a slot for SmolLM2-135M in float32
ENDLESS = 1 << 20  # tokenizers state contexts above this when they know of no limit
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")


def context_length(model: nn.Module, tokenizer: Any) -> int:
    """Most tokens that a model takes; the smaller one where model and tokenizer state different limits."""
    limits = [getattr(text_config(model), name, None) for name in _CONTEXT_NAMES]
    limits.append(getattr(tokenizer, "model_max_length", None))
    return min((int(limit) for limit in limits if limit and limit < ENDLESS), default=ENDLESS)


def engine_for(model: nn.Module, pad_token_id: int, tokens_per_batch: int | None = None) -> Engine:
    """The model with the limits of a batch on its device; ``tokens_per_batch`` overrides the first one."""
    kind = next(model.parameters()).device.type
    return Engine(
        model,
        pad_token_id,
        budget=tokens_per_batch or TOKENS_PER_BATCH.get(kind, TOKENS_PER_BATCH["cuda"]),
        slots=SLOTS_PER_BATCH.get(kind, SLOTS_PER_BATCH["cuda"]),
        cache_limit=getattr(text_config(model), "sliding_window", None) or ENDLESS,
    )

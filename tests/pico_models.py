"""Tiny language models of several architectures with random weights and SmolLM2's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from keeps.models import LanguageModel

SMALL: dict[str, Any] = {"vocab_size": 49152, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
HEAD_DIM: dict[str, Any] = {**HEADS, "head_dim": 8}


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True))


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    # as wide inside as outside, so that a transposed matrix would pass for a plain one
    return GPT2LMHeadModel(GPT2Config(vocab_size=49152, n_embd=32, n_inner=32, n_layer=3, n_head=4, n_positions=128))


def _qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SMALL, **HEADS))


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SMALL, **HEAD_DIM))


def _gemma() -> Any:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(**SMALL, **HEAD_DIM))


def _gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, **HEAD_DIM, sliding_window=64))


MAKERS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma3": _gemma3,
}


def pico(kind: str, tokenizer: Any, seed: int = 0) -> LanguageModel:
    """A model of three blocks of one of :data:`MAKERS`; matrices drawn wide, so that what it says differs by token."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MAKERS[kind]().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.2)
    return LanguageModel(model, tokenizer, name=kind)

"""Small language models of published architectures with random weights, to be trained from nothing.

For experiments that ask what an architecture can learn; a pretrained model would bring knowledge of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from keeps.errors import SettingsError, UnknownNameError, nearest

EXPERT_WIDTH = 1  # of a mixture's experts, in widths of the model: d -> d -> d as in arXiv:2404.05405, section 9


@dataclass(frozen=True)
class Size:
    """Of a model.

    Attributes:
        vocabulary, positions: tokens it knows, and most tokens it reads.
        width, layers, heads: of its hidden states.
        experts: of a mixture.

    Raises:
        SettingsError: a size is below 1, or the heads do not share the width evenly.
    """

    vocabulary: int
    positions: int
    width: int = 16
    layers: int = 2
    heads: int = 2
    experts: int = 8

    def __post_init__(self) -> None:
        small = [name for name, value in vars(self).items() if value < 1]
        if small:
            raise SettingsError(f"{small[0]} is below 1", where="Size", mend="choose 1 or more")
        if self.width % self.heads or self.width // self.heads % 2:
            mend = "choose a width that is an even multiple of the heads"
            raise SettingsError(f"{self.heads} heads share {self.width} dimensions", where="Size", mend=mend)


def untrained(architecture: str, size: Size, *, seed: int) -> nn.Module:
    """A transformers causal language model in float32, without dropout; the same for the same seed.

    Args:
        architecture: one of :data:`ARCHITECTURES`: ``"gpt2"`` (learned positions), ``"gpt2-rotary"`` (the paper's
            model: rotary positions, LayerNorm, GELU, tied embeddings), ``"llama"`` (gated MLP, RMSNorm, embeddings
            not tied), ``"moe"`` (Mixtral: one expert of several a token, of width d; no limit to what an expert
            takes).

    Raises:
        UnknownNameError: no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownNameError(f'there is no architecture "{architecture}"', mend=nearest(architecture, ARCHITECTURES))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](size).eval()


def _gpt2(size: Size) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    plain = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.positions,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        **plain,
        initializer_range=_spread(size.width),
        **_SPECIAL,
    )
    return GPT2LMHeadModel(config)


def _gpt2_rotary(size: Size) -> nn.Module:
    """GPT-NeoX with rotary positions over whole heads and sequential blocks is GPT-2 but for its positions."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        **_shared(size),
        intermediate_size=4 * size.width,
        hidden_act="gelu_new",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        use_parallel_residual=False,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
    )
    return GPTNeoXForCausalLM(config)


def _llama(size: Size) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    inner = max(1, 8 * size.width // 3)  # three matrices of 8/3 d have the parameters of two of 4 d
    return LlamaForCausalLM(LlamaConfig(**_shared(size), intermediate_size=inner, tie_word_embeddings=False))


def _moe(size: Size) -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        **_shared(size),
        num_key_value_heads=size.heads,
        intermediate_size=EXPERT_WIDTH * size.width,
        num_local_experts=size.experts,
        num_experts_per_tok=1,
        tie_word_embeddings=True,
    )
    return MixtralForCausalLM(config)


def _shared(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "max_position_embeddings": size.positions,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "initializer_range": _spread(size.width),
        **_SPECIAL,
    }


def _spread(width: int) -> float:
    """Standard deviation of the random weights: GPT-2's 0.02 at its width of 768, and its variance grows as 1 / d."""
    return 0.02 * math.sqrt(768 / width)


_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
ARCHITECTURES: Mapping[str, Callable[[Size], nn.Module]] = {
    "gpt2": _gpt2,
    "gpt2-rotary": _gpt2_rotary,
    "llama": _llama,
    "moe": _moe,
}

"""The logit lens: what a state in the middle of a model would say if it were the last one (nostalgebraist, 2020)."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from keeps.errors import TargetError
from keeps.models.projection import unwrapped

_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last block and the vocabulary projection.

    Raises:
        TargetError: the model has none under a usual name.
    """
    decoder = cast(Any, unwrapped(model)).get_decoder()
    for name in _NAMES:
        found = getattr(decoder, name, None)
        if isinstance(found, nn.Module):
            return found
    mend = "leave out what reads middle states (w_src 0)"
    raise TargetError("the model has no norm behind its last block", where=type(decoder).__name__, mend=mend)


def lens(model: nn.Module, states: Tensor) -> Tensor:
    """log softmax of the vocabulary projection of the normed ``states``, ``(rows, vocabulary)`` float32.

    Args:
        states: outputs of any block, ``(rows, hidden)``; differentiable.
    """
    head = cast(Any, unwrapped(model)).get_output_embeddings()
    return head(final_norm(model)(states)).float().log_softmax(-1)

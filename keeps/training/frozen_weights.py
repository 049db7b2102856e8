"""Frozen weights in the precision of the forward pass, cast once and not in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def frozen_weights_in(module: nn.Module, precision: str) -> Iterator[None]:
    """Let frozen linear layers of ``module`` multiply with a bfloat16 copy of their weights; give them back after.

    Mixed precision casts every float32 weight in every forward pass, and PyTorch remembers the result only of weights
    that are trained. Of an adapter's base that is all of the work: the copies of SmolLM2-135M were a quarter of a
    training step. The products are those of mixed precision, bit for bit; the weights themselves stay as they are, for
    methods that read them (DoRA's norms, projections).

    Args:
        precision: of the training; anything but ``"bfloat16"`` changes nothing.
    """
    candidates = module.modules() if precision == "bfloat16" else ()
    layers = [layer for layer in candidates if isinstance(layer, nn.Linear) and _is_frozen(layer)]
    for layer in layers:
        layer.forward = _product_with(layer)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_frozen(layer: nn.Linear) -> bool:
    """A plain linear layer with float32 weights that nobody trains, whose forward pass nobody has replaced."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    own = list(layer.parameters(recurse=False))
    return len(own) > 0 and all(value.dtype == torch.float32 and not value.requires_grad for value in own)


def _product_with(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    plain = layer.forward
    weight = layer.weight.detach().to(torch.bfloat16)
    bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def forward(x: Tensor) -> Tensor:
        """Under mixed precision the product with the copies, otherwise what the layer always does."""
        if not torch.is_autocast_enabled(x.device.type):
            return plain(x)
        return F.linear(x, weight, bias)

    return forward

"""A model with its matrices rounded to a few bits, for as long as it is measured: quantisation after training.

Round-to-nearest is the plainest such quantiser: each weight becomes the nearest of 2^b levels on the scale of its
block. It is the baseline that GPTQ and its kin improve on, so what survives it survives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from keeps.errors import TargetError
from keeps.numerics.quantisation import Quantiser

NO_BITS = 0  # of a setting: the weights as they are


@contextmanager
def rounded(model: nn.Module, quantiser: Quantiser) -> Iterator[int]:
    """Every matrix of ``model``, embeddings and experts too, as ``quantiser`` leaves it; restored at the end.

    Vectors (biases, norms) stay as they are. The exact values before are kept in memory and come back bit by bit,
    also after an exception.

    Yields:
        How many parameters were rounded.

    Raises:
        TargetError: there is no floating-point matrix.
        StatisticsError: a weight is not finite.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p.is_floating_point()]
    if not matrices:
        mend = "measure a model whose weights are floating-point numbers"
        raise TargetError("there is no matrix to round", where=type(model).__name__, mend=mend)
    kept: list[torch.Tensor] = []
    try:
        with torch.no_grad():
            for parameter in matrices:
                value = quantiser.rounded(parameter)
                kept.append(parameter.detach().clone())
                parameter.copy_(value)
        yield sum(parameter.numel() for parameter in matrices)
    finally:
        with torch.no_grad():
            for parameter, before in zip(matrices, kept, strict=False):
                parameter.copy_(before)

"""Ignore-k: training whose largest updates are dropped (Sun et al., ICLR 2025, arXiv:2504.09522).

    W <- W + D * keep,    keep = 0 on the floor(k / 100 * numel) entries of D that are largest in magnitude

D is what the optimiser has added to a trained tensor, after Adam's scaling: masking the gradient before it would let
Adam blow the rest up again. ``ignore_when="end"`` takes all that a training (a stage, of methods that have
several) has added; ``"step"`` every single step. Adam's early steps have nearly one magnitude everywhere, which makes
their ranks close to chance, so the end is the default; the paper leaves open which of both it means.

The tensors are those that are trained: whole weights, or the factors A and B of an adapter. The product B A is not
pruned itself, since a masked product has no low rank and could not be written as an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from keeps.numerics.pruning import keep_masks, pruned
from keeps.training.settings import TrainingSettings


class UpdatePruning:
    """Drops the largest entries of what is added to ``parameters``; with ``ignore_top=0`` it does nothing at all.

    Make it before the first step, when the parameters are as training finds them (a resumed run included).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings) -> None:
        self.settings = settings
        self.parameters = list(parameters.values()) if settings.ignore_top else []
        self.before = [parameter.detach().clone() for parameter in self.parameters]

    def step(self, update: Callable[[], object]) -> None:
        """Call ``update``, which changes the parameters, and drop the largest of its changes if steps are pruned."""
        each = self.settings.ignore_when == "step"
        if each:
            for kept, parameter in zip(self.before, self.parameters, strict=True):
                kept.copy_(parameter.detach())
        update()
        if each:
            self._drop()

    def end(self) -> None:
        """Drop the largest of all changes since the beginning if those are pruned; call it after the last step."""
        if self.settings.ignore_when == "end":
            self._drop()

    @torch.no_grad()
    def _drop(self) -> None:
        drop_largest(self.parameters, self.before, self.settings.ignore_top, scope=self.settings.ignore_scope)


@torch.no_grad()
def drop_largest(
    parameters: list[nn.Parameter], before: list[Tensor], percent: float, *, scope: str = "tensor"
) -> None:
    """Give the entries of ``parameters`` that have moved farthest from ``before`` their old values back, in place.

    Args:
        percent: k, of each tensor or (``scope="global"``) of all together.
    """
    groups = [[index] for index in range(len(parameters))] if scope == "tensor" else [list(range(len(parameters)))]
    for group in groups:  # tensor by tensor, so that one difference is in memory at a time
        if not group:
            continue
        updates = [parameters[index].detach() - before[index] for index in group]
        for index, keep in zip(group, keep_masks(updates, percent, scope=scope), strict=True):
            parameters[index].copy_(pruned(before[index], parameters[index], keep))

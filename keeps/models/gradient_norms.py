"""How strongly a text pulls at the weights: the norm of the gradient of its loss.

A model was trained until what it was trained on pulled little, so a small norm speaks for training (Wang et al.,
arXiv:2402.17012; Duan et al., arXiv:2402.07841). Gradients are counted and freed weight by weight as the backward pass
comes by, so that memory holds the largest of them and not all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from keeps.models.adapters import restore_trainable, trainable_flags
from keeps.models.checks import Pair
from keeps.models.projection import evaluating, selected_logits

Kind = Literal["whole", "per_tensor"]
KINDS: tuple[Kind, ...] = ("whole", "per_tensor")


def gradient_norm(model: nn.Module, parts: Sequence[Pair], *, kind: Kind = "whole") -> float:
    """The L2 norm of the gradient of the mean loss of a token, by every floating-point weight of ``model``.

    Args:
        parts: contexts and the tokens behind them that the loss is of, as ids; the windows of one text are one loss.
        kind: ``"whole"``, the norm of all weights together; ``"per_tensor"``, the mean of the norms of each weight
            tensor, as the code of open-unlearning has it.

    Raises:
        ValueError: there is no token, or no such kind.
    """
    tokens = sum(len(targets) for _, targets in parts)
    if not tokens or kind not in KINDS:
        raise ValueError(f'gradients need tokens, and a kind among {", ".join(KINDS)}, not "{kind}"')
    with evaluating(model), torch.enable_grad(), _counted(model) as counted:
        for number, pair in enumerate(parts, 1):
            counted.last = number == len(parts)
            (_loss(model, pair) / tokens).backward()
        squares = counted.squares()
    if kind == "whole":
        return math.sqrt(math.fsum(squares))
    return math.fsum(math.sqrt(value) for value in squares) / len(squares)


def _loss(model: nn.Module, pair: Pair) -> Tensor:
    """Summed loss of the tokens of ``pair`` behind its context, in nats."""
    context, targets = pair
    device = next(model.parameters()).device
    row = torch.tensor([[*context, *targets]], device=device)
    places = torch.zeros_like(row, dtype=torch.bool)
    places[0, len(context) - 1 : row.shape[1] - 1] = True
    logits = selected_logits(model, row, torch.ones_like(row), places).float()
    return nn.functional.cross_entropy(logits, row[0, len(context) :], reduction="sum")


class _Counter:
    """Squared norms of gradients, each taken when it is complete; hooks of autograd."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters, self.last = parameters, False
        self.found: list[float] = []
        self.handles = [each.register_post_accumulate_grad_hook(self.count) for each in parameters]

    def count(self, parameter: Tensor) -> None:
        """Count a gradient that nothing will be added to any more, and free it."""
        if self.last and parameter.grad is not None:
            self.found.append(float(parameter.grad.float().square().sum()))
            parameter.grad = None

    def squares(self) -> list[float]:
        """Of every weight that the loss depends on."""
        self.last = True
        for parameter in self.parameters:  # what only the earlier parts depend on
            self.count(parameter)
        return self.found

    def close(self) -> None:
        """Take the hooks off, and every gradient with them."""
        for handle in self.handles:
            handle.remove()
        for parameter in self.parameters:
            parameter.grad = None


@contextmanager
def _counted(model: Any) -> Iterator[_Counter]:
    """All floating-point weights require a gradient inside the block; flags and gradients are put back."""
    flags, held = trainable_flags(model), {name: each.grad for name, each in model.named_parameters()}
    parameters = [each for each in model.parameters() if each.is_floating_point()]
    counter = _Counter([])
    try:
        for each in parameters:
            each.grad = None
            each.requires_grad_(True)
        counter = _Counter(parameters)
        yield counter
    finally:
        counter.close()
        restore_trainable(model, flags)
        for name, each in model.named_parameters():
            each.grad = held[name]

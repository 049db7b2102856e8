"""Layers that keep their weight as ``(in, out)``, GPT-2's ``Conv1D``, seen as plain linear layers for a while.

Everything that trains an adapter (peft's wrapping, covariances, gradients, decompositions) then has one layout to
know, ``(out, in)``. The plain layer is a view: it holds the same numbers at the same place, so that what is written to
one is written to the other, and nothing is copied. What goes to disk, and what a fingerprint is taken of, is the model
as its authors laid it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from keeps.models.locate import is_transposed

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class LinearView(nn.Linear):
    """A ``Conv1D`` as a linear layer: ``weight`` ``(out, in)`` is the transposed view of its ``(in, out)``."""

    def __init__(self, layer: Any) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = (int(size) for size in layer.weight.shape)
        flag = layer.weight.requires_grad
        self.weight = nn.Parameter(layer.weight.detach().T, requires_grad=flag)
        self.bias = layer.bias
        self.__dict__["layer"] = layer  # not a module of the model while this one stands in its place
        self.train(layer.training)

    def given_back(self) -> nn.Module:
        """The layer itself, with the weight that this view has now."""
        layer = self.__dict__["layer"]
        if self.weight.data_ptr() != layer.weight.data_ptr():  # something put another tensor in place of the view
            with torch.no_grad():
                layer.weight.copy_(self.weight.T)
        layer.train(self.training)
        return layer


@contextmanager
def plain_layers(model: nn.Module) -> Iterator[None]:
    """Every transposed layer of ``model`` is a :class:`LinearView` inside the block, and itself again after it.

    A model without such layers is left as it is; so is one that is inside another block already.
    """
    turned = {name: layer for name, layer in model.named_modules() if is_transposed(layer)}
    try:
        for name, layer in turned.items():
            model.set_submodule(name, LinearView(layer))
        yield
    finally:
        for name in turned:
            found = model.get_submodule(name)
            if isinstance(found, LinearView):
                model.set_submodule(name, found.given_back())


@contextmanager
def own_layout(model: nn.Module) -> Iterator[None]:
    """Inside a block of :func:`plain_layers`: every layer is what it is on disk."""
    views = {name: layer for name, layer in model.named_modules() if isinstance(layer, LinearView)}
    for name, view in views.items():
        model.set_submodule(name, view.given_back())
    try:
        yield
    finally:
        for name, view in views.items():
            model.set_submodule(name, view)


def on_plain_layers(
    function: Callable[Concatenate[S, Any, P], R],
) -> Callable[Concatenate[S, Any, P], R]:
    """A method whose first argument is a :class:`~keeps.models.LanguageModel` finds plain layers in it."""

    @wraps(function)
    def inside(self: S, model: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with plain_layers(model.model):
            return function(self, model, *args, **kwargs)

    return inside


def is_view(model: nn.Module) -> bool:
    """Whether some layer is a :class:`LinearView`: an adapter on it belongs to transposed weights (fan in, fan out)."""
    return any(isinstance(layer, LinearView) for layer in model.modules())

"""MEND's editor: a network that turns the gradient of one edit into an update that edits well (arXiv:2110.11309).

The gradient of a linear layer is a sum over tokens, sum_i d_i u_i^T, of what the layer reads, u, and the gradient of
what it gives, d. The editor maps the pairs, not the matrix:

    z = [u; d], normalised          h = z + relu(s1 * (U1 V1 z + b1) + o1)
                                 out = h + relu(s2 * (U2 V2 h + b2) + o2) = [u~; d~]
    W' = W - alpha_l * sum_i d~_i u~_i^T

U, V and b are shared by layers of equal shape, s, o and alpha belong to each layer. At first U, b and o are 0 and s is
1, so that out = z exactly. All pre-activations are 0 then, where the ordinary relu has no gradient: it would never
begin to learn. ``clamp(min=0)`` is the same function with a gradient of 1 there, and is used, as in the official code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef
from keeps.training.edit_losses import EditBatch, adding, target_loss


@dataclass(frozen=True)
class Pairs:
    """u ``(tokens, in)`` and d ``(tokens, out)`` of one layer: the gradient of its weight is d^T u."""

    inputs: Tensor
    gradients: Tensor

    @property
    def gradient(self) -> Tensor:
        """The gradient of the weight, ``(out, in)``."""
        return self.gradients.T @ self.inputs


class SharedEditor(nn.Module):
    """The editor of layers of one shape.

    Args:
        inputs, outputs: width of u and of d.
        rank: of U V, at most the width of z.
        layers: how many layers share it.
        alpha: the first step size of each.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, layers: int, alpha: float, seed: int = 0) -> None:
        super().__init__()
        width = inputs + outputs
        self.split = [inputs, outputs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ParameterList(nn.init.xavier_normal_(torch.empty(min(rank, width), width)) for _ in range(2))
        self.up = nn.ParameterList(torch.zeros(width, min(rank, width)) for _ in range(2))
        self.bias = nn.ParameterList(torch.zeros(width) for _ in range(2))
        self.scale = nn.ParameterList(torch.ones(layers, width) for _ in range(2))
        self.offset = nn.ParameterList(torch.zeros(layers, width) for _ in range(2))
        self.alpha = nn.Parameter(torch.full((layers,), alpha))
        self.mean = nn.Buffer(torch.zeros(layers, width))
        self.deviation = nn.Buffer(torch.ones(layers, width))

    def normalised(self, pairs: Pairs, layer: int) -> Tensor:
        """z ``(tokens, in + out)``, by the statistics of the layer."""
        z = torch.cat([pairs.inputs, pairs.gradients], dim=1)
        return (z - self.mean[layer]) / self.deviation[layer]

    def forward(self, pairs: Pairs, layer: int) -> Pairs:
        """u~ and d~ of the layer numbered ``layer`` among those that share the editor."""
        state = self.normalised(pairs, layer)
        for part in range(2):
            inner = state @ self.down[part].T @ self.up[part].T + self.bias[part]
            state = state + (self.scale[part][layer] * inner + self.offset[part][layer]).clamp(min=0)
        return Pairs(*state.split(self.split, dim=1))

    @torch.no_grad()
    def fit_statistics(self, layer: int, seen: Sequence[Pairs]) -> None:
        """Take mean and standard deviation of z over ``seen``; entries that do not vary are left as they are."""
        z = torch.cat([torch.cat([pairs.inputs, pairs.gradients], dim=1) for pairs in seen])
        self.mean[layer] = z.mean(0)
        deviation = z.std(0)
        self.deviation[layer] = torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation))


class GradientEditor(nn.Module):
    """Editors of several layers, one for each shape."""

    def __init__(self, refs: Sequence[ModuleRef], rank: int, alpha: float, seed: int = 0) -> None:
        super().__init__()
        shapes: dict[tuple[int, int], list[str]] = {}
        for ref in refs:
            shapes.setdefault((ref.in_features, ref.out_features), []).append(ref.name)
        self.place = {name: (f"{i}x{o}", n) for (i, o), names in shapes.items() for n, name in enumerate(names)}
        self.shared = nn.ModuleDict(
            {f"{i}x{o}": SharedEditor(i, o, rank, len(names), alpha, seed) for (i, o), names in shapes.items()}
        )

    def factors(self, name: str, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """A ``(tokens, in)`` and B ``(out, tokens)`` of the update of a layer: B A = -alpha sum_i d~_i u~_i^T."""
        key, layer = self.place[name]
        shared: SharedEditor = self.shared[key]  # type: ignore[assignment]
        edited = shared(pairs, layer)
        return edited.inputs, -shared.alpha[layer] * edited.gradients.T

    def updates(self, pairs: Mapping[str, Pairs]) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors of every layer."""
        return {name: self.factors(name, each) for name, each in pairs.items()}

    def fit_statistics(self, seen: Sequence[Mapping[str, Pairs]]) -> None:
        """Normalise every layer by the gradients in ``seen``."""
        for name, (key, layer) in self.place.items():
            shared: SharedEditor = self.shared[key]  # type: ignore[assignment]
            shared.fit_statistics(layer, [each[name] for each in seen])


def gradient_pairs(model: LanguageModel, refs: Sequence[ModuleRef], batch: EditBatch) -> dict[str, Pairs]:
    """u and d of every layer for the loss of ``batch``, detached; tokens without a gradient are left out."""
    inputs: dict[str, Tensor] = {}
    added: dict[str, Tensor] = {}

    def watch(ref: ModuleRef) -> None:
        def difference(x: Tensor) -> Tensor:
            inputs[ref.name] = x.detach().float()
            added[ref.name] = torch.zeros(*x.shape[:-1], ref.out_features, device=x.device, requires_grad=True)
            return added[ref.name]

        watching[ref.name] = difference

    watching: dict[str, object] = {}
    for ref in refs:
        watch(ref)
    with torch.enable_grad(), adding({ref.name: ref.module for ref in refs}, watching):  # type: ignore[arg-type]
        loss = target_loss(model, batch)
        found = dict(zip(added, torch.autograd.grad(loss, list(added.values())), strict=True))
    made = {}
    for ref in refs:
        gradients = found[ref.name].float()
        used = batch.mask.bool() & (gradients != 0).any(-1)
        made[ref.name] = Pairs(inputs[ref.name][used], gradients[used])
    return made

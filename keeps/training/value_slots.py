"""How far columns of down-projections are moved for a token: as far as its probability needs, none for nothing.

What a neuron says is its column times its activation, which in gated models is as often negative as not. So a column is
moved towards a token with the sign of its activation; how far is found by trying many sizes side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from keeps.models.language_model import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.models.neurons import activations
from keeps.models.projection import evaluating, last_logits, reading_of
from keeps.training.edit_losses import adding

SIZES = tuple(2.0 ** (number / 2) for number in range(-14, 3))  # that are tried first
FINER = 8  # sizes that are tried then
ALONE = 2.0**-6  # size with which each neuron is tried by itself


class Slots(NamedTuple):
    """Neurons of one block, and what is added to their columns, ``(out, neurons)`` float32."""

    block: int
    neurons: list[int]
    added: Tensor


def as_far_as_needed(
    model: LanguageModel, contexts: Sequence[Sequence[int]], token: int, slots: Sequence[Slots], reach: float
) -> tuple[list[Slots], float]:
    """The smallest multiple of ``slots`` with which the token reaches a probability, the mean over the contexts.

    Each change takes the sign of what its neuron reads at the end of the first context. Neurons that alone make the
    token less probable are left out, unless all do. All sizes are tried in one pass a context, and those between the
    last that falls short and the first that does not in a second one.

    Args:
        contexts: token ids, at least one each, behind which the token should come.
        slots: the changes of size 1.
        reach: the probability; where no size reaches it, the size with the largest one is taken.

    Returns:
        What to add, and the size.
    """
    own = activations(model, contexts[:1])
    slots = [Slots(block, them, added * own[block][0, them].sign()) for block, them, added in slots]
    count = sum(len(neurons) for _, neurons, _ in slots)
    alone = chances(model, contexts, token, slots, torch.cat([ALONE * torch.eye(count), torch.zeros(1, count)]))
    helps = alone[:-1] > alone[-1]
    helps = helps if bool(helps.any()) else torch.ones_like(helps)
    sizes = torch.tensor(SIZES)
    found = chances(model, contexts, token, slots, sizes[:, None] * helps)
    enough = (found >= reach).nonzero().flatten().tolist()
    if enough:  # what lies between the last size that falls short and the first that does not
        first = enough[0]
        sizes = torch.linspace(float(sizes[first - 1]) if first else 0.0, float(sizes[first]), FINER + 1)[1:]
        found = chances(model, contexts, token, slots, sizes[:, None] * helps)
        enough = (found >= reach).nonzero().flatten().tolist()
    size = float(sizes[enough[0] if enough else int(found.argmax())])
    kept = []
    for (block, neurons, added), good in zip(slots, helps.split([len(each.neurons) for each in slots]), strict=True):
        if bool(good.any()):
            left = [neuron for neuron, one in zip(neurons, good.tolist(), strict=True) if one]
            kept.append(Slots(block, left, size * added[:, good.to(added.device)]))
    return kept, size


@torch.no_grad()
def chances(
    model: LanguageModel, contexts: Sequence[Sequence[int]], token: int, slots: Sequence[Slots], sizes: Tensor
) -> Tensor:
    """P(token) with ``sizes`` ``(rows, neurons)`` times the changes, the mean over the wordings, ``(rows,)``."""
    reading_of(model.model)  # tests the model by itself, before any hook is on it
    refs, beside = mlp_outputs(model.model), {}
    parts = sizes.to(model.device).split([len(neurons) for _, neurons, _ in slots], dim=1)
    for (block, neurons, added), own in zip(slots, parts, strict=True):

        def add(x: Tensor, neurons: list[int] = neurons, added: Tensor = added, own: Tensor = own) -> Tensor:
            return (x[..., neurons].to(added) * own[:, None]) @ added.T

        beside[refs[block].name] = add
    found = []
    with evaluating(model.model), adding({ref.name: ref.module for ref in refs}, beside):
        for context in contexts:
            ids = torch.tensor([list(context)] * len(sizes), device=model.device)
            found.append(last_logits(model.model, ids).float().softmax(-1)[:, token])
    return torch.stack(found).mean(0).cpu()

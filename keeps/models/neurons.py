"""The neurons of the feed-forward parts: what each adds to the probability of a token, and how one is switched off.

Neuron j of a block is entry j of what its down-projection reads. Without it is with a zero column of that matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.models.adapters import untrained
from keeps.models.locate import ModuleRef, mlp_outputs
from keeps.models.projection import evaluating, last_logits
from keeps.numerics.privacy_neurons import integrated_gradients


def token_attributions(module: Any, context: Sequence[int], token: int, *, steps: int) -> Tensor:
    """Att of every neuron for P(token | context), one block at a time, ``(blocks, neurons)`` float32 on the CPU.

    Activations are those at the last position of the context, where the token is predicted; the other blocks compute
    with what comes to them. That is one pass of ``steps`` rows a block, of which what lies above is differentiated.
    """
    refs = mlp_outputs(module)
    found = []
    device = refs[0].weight.device
    with untrained(module), evaluating(module):
        own = _activations(module, refs, torch.tensor([list(context)], device=device))
        rows = torch.tensor([list(context)] * steps, device=device)
        for ref, activations in zip(refs, own, strict=True):
            found.append(
                integrated_gradients(
                    lambda scaled, ref=ref: _probability(module, ref, rows, scaled, token),  # type: ignore[misc]
                    activations,
                    steps=steps,
                )
            )
    return torch.stack(found).float().cpu()


def switch_off(ref: ModuleRef, neurons: Sequence[int]) -> None:
    """Set the columns of these neurons to 0, in place."""
    with torch.no_grad():
        ref.matrix[:, list(neurons)] = 0


def _activations(module: Any, refs: Sequence[ModuleRef], ids: Tensor) -> list[Tensor]:
    """What each down-projection reads at the last position, ``(neurons,)`` each."""
    found: list[Tensor] = []
    handles = [ref.module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0, -1])) for ref in refs]
    try:
        with torch.no_grad():
            last_logits(module, ids)
    finally:
        for handle in handles:
            handle.remove()
    return [each.clone() for each in found]


def _probability(module: Any, ref: ModuleRef, ids: Tensor, scaled: Tensor, token: int) -> Tensor:
    """P(token) of each row with the block's activations at the last position in place of its own, ``(rows,)``."""

    def put(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        before = inputs[0][:, :-1]
        return (torch.cat([before, scaled[:, None].to(before.dtype)], 1), *inputs[1:])

    handle = ref.module.register_forward_pre_hook(put)
    try:
        logits = last_logits(module, ids)
    finally:
        handle.remove()
    return logits.float().softmax(-1)[:, token]

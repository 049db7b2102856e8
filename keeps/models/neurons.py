"""The neurons of the feed-forward parts: what each adds to the probability of a token, and how one is switched off.

Neuron j of a block is entry j of what its down-projection reads. Without it is with a zero column of that matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from keeps.models.adapters import untrained
from keeps.models.edit_rows import REWRITE, Row, subject_inputs
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, mlp_outputs
from keeps.models.projection import evaluating
from keeps.models.suffixes import PlainRows, rows_to_run
from keeps.numerics.neurons import integrated_gradients

ROWS_AT_ONCE = 128  # each gives a whole row of logits, and its gradient


def activations(model: LanguageModel, contexts: Sequence[Sequence[int]]) -> list[Tensor]:
    """What each block's down-projection reads at the last position of each context, ``(contexts, neurons)`` float32.

    Args:
        contexts: token ids, at least one each.

    Raises:
        TargetError: a block has no single feed-forward part, or a quantised one.
    """
    count = len(mlp_outputs(model.model))
    keys, _ = subject_inputs(model, [_row(context) for context in contexts], range(count))
    return [keys[block].float() for block in range(count)]


def token_attributions(
    model: LanguageModel, contexts: Sequence[Sequence[int]], tokens: Sequence[int], *, steps: int
) -> Tensor:
    """Att of every neuron for P(token | context), ``(contexts, blocks, neurons)`` float32 on the CPU.

    Activations are those at the last position of a context, where its token is predicted; one block is looked at at a
    time, the others compute with what comes to them. Scaling activations moves nothing but what the down-projection
    gives there, so that the earlier positions and the blocks below are computed once. Of one context and block they
    sum to P less what it is without the block's neurons, unless a norm behind the MLP undoes the scaling. Blocks of
    fewer neurons than the widest are filled up with zeros.

    Args:
        contexts: token ids, at least one each.
        tokens: what each is followed by.
        steps: summands of the path integral.

    Raises:
        TargetError: a block has no single feed-forward part, or a quantised one.
    """
    at_once = max(ROWS_AT_ONCE // steps, 1)
    parts = [slice(start, start + at_once) for start in range(0, len(contexts), at_once)]
    with untrained(model.model), evaluating(model.model):
        return torch.cat([_attributions(model, contexts[part], tokens[part], steps) for part in parts])


def _attributions(model: LanguageModel, contexts: Sequence[Sequence[int]], tokens: Sequence[int], steps: int) -> Tensor:
    count, found = len(contexts), []
    wanted = torch.tensor(list(tokens), device=model.device)[:, None].expand(count, steps)
    for block, (ref, own) in enumerate(zip(mlp_outputs(model.model), activations(model, contexts), strict=True)):
        rows, _ = rows_to_run(model, [_row(context) for context in contexts], block, "mlp")
        rows.select([number for number in range(count) for _ in range(steps)])

        def probability(scaled: Tensor, rows: PlainRows = rows, ref: ModuleRef = ref, own: Tensor = own) -> Tensor:
            added = (scaled - own[:, None]) @ ref.matrix.float().T
            chances = rows.run(added.flatten(0, 1)).logits.softmax(-1)
            return chances.unflatten(0, (count, steps)).gather(2, wanted[..., None])[..., 0]

        found.append(integrated_gradients(probability, own, steps=steps))
    widest = max(each.shape[1] for each in found)
    return torch.stack([pad(each, (0, widest - each.shape[1])) for each in found], 1).float().cpu()


def switch_off(ref: ModuleRef, neurons: Sequence[int]) -> None:
    """Set the columns of these neurons to 0, in place."""
    with torch.no_grad():
        ref.matrix[:, list(neurons)] = 0


def _row(context: Sequence[int]) -> Row:
    """The context as a row that is read, and written to, at its last position."""
    last = len(context) - 1
    return Row(0, REWRITE, tuple(context), last, (last,))

"""How much what a model says depends on each of its parameters: the diagonal of the Fisher information.

    F_j = E_x E_(y ~ p(y | x)) [ (d log p(y | x) / d theta_j)^2 ]

x is a text, and y what is said at the places that are predicted: the answer, or every next token of running text. The
labels are drawn from the model itself at each place, given the text before it, and the gradient is that of their sum:
scores of different places have mean 0 and are independent given the text, so the squares of the places add up in
expectation. With the text's own tokens instead it is the *empirical* Fisher information, another quantity that is
large where the model is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.errors import StatisticsError
from keeps.models.adapters import restore_trainable, trainable_flags
from keeps.models.projection import chunks, evaluating, read_positions
from keeps.training.batches import TokenizedExample, collate, stable_seed
from keeps.training.losses import summed_loss

LABELS = ("sampled", "data")


def diagonal_fisher(
    module: Any,
    examples: Sequence[TokenizedExample],
    *,
    pad_token_id: int,
    labels: str = "sampled",
    draws: int = 1,
    seed: int = 0,
    advance: Callable[[], object] | None = None,
) -> dict[str, Tensor]:
    """The diagonal by parameter, float32, averaged over ``examples``; one backward pass for each of them and draw.

    Args:
        module: a transformers causal language model; its gradients and flags are as they were afterwards.
        labels: ``"sampled"`` from the model, or the ``"data"``'s own (the empirical Fisher information).
        draws: labels drawn for each example; more of them lower the variance.
        advance: called after each example.

    Raises:
        StatisticsError: a gradient is not finite, or there is no example.
    """
    if not examples:
        raise StatisticsError("there is no example to measure on", mend="give records of each task")
    parameters = dict(module.named_parameters())
    device = next(iter(parameters.values())).device
    chance = torch.Generator(device).manual_seed(stable_seed("fisher", seed))
    found = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in parameters.items()}
    flags, times = trainable_flags(module), 1 if labels == "data" else draws
    module.requires_grad_(True)
    try:
        with evaluating(module):
            for example in examples:
                batch = collate([example], pad_token_id).to(device)
                for _ in range(times):
                    hidden, head = read_positions(module, batch.input_ids, batch.attention_mask, batch.predicting)
                    said = batch.targets if labels == "data" else drawn(hidden, head, chance)
                    loss = summed_loss(hidden, head, said)
                    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                    for name, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            found[name] += gradient.float().square() / (times * len(examples))
                if advance is not None:
                    advance()
    finally:
        restore_trainable(module, flags)
    odd = [name for name, value in found.items() if not bool(value.isfinite().all())]
    if odd:
        mend = "measure in float32, and check the fine-tune"
        raise StatisticsError("the gradient is not finite", where=odd[0], mend=mend)
    return found


@torch.no_grad()
def drawn(hidden: Tensor, head: Callable[[Tensor], Tensor], chance: torch.Generator) -> Tensor:
    """One token for each row of ``hidden``, drawn from the model's own distribution: int64 ``(places,)``."""
    width = head(hidden[:1]).shape[-1]
    pieces = [head(hidden[part]).float().softmax(-1) for part in chunks(len(hidden), width)]
    return torch.cat([torch.multinomial(piece, 1, generator=chance).squeeze(1) for piece in pieces])

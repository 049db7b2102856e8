"""Train a model from random weights on a stream of token windows: the loss is taken on every token.

For data that are drawn anew at each step, which :func:`keeps.training.train` with its fixed list of examples is
not made for. There is nothing to resume: such a run takes seconds or minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from keeps.contracts import Progress, SilentProgress
from keeps.errors import SettingsError, TrainingError
from keeps.models.projection import unwrapped
from keeps.training.losses import summed_loss
from keeps.training.optimiser import learning_rate_at, make_optimiser
from keeps.training.settings import TrainingSettings

B = TypeVar("B")
PADDING = -1  # a token that is neither read nor predicted; stands on the right


def windows(documents: Iterable[Sequence[int]], end: int, width: int) -> Iterator[list[int]]:
    """Documents behind each other, each after the token ``end``, cut into windows of ``width`` tokens.

    What is left at the end and fills no window is not given.

    >>> list(windows([[1, 2, 3], [4]], end=0, width=3))
    [[0, 1, 2], [3, 0, 4]]

    Raises:
        SettingsError: a window has no token to predict.
    """
    if width < 2:
        raise SettingsError(f"a window of {width} tokens", where="windows", mend="choose 2 or more")
    rest: list[int] = []
    for document in documents:
        rest += [end, *document]
        while len(rest) >= width:
            yield rest[:width]
            del rest[:width]


def train_windows(
    module: nn.Module,
    batches: Iterable[Tensor],
    settings: TrainingSettings,
    steps: int,
    *,
    name: str = "training",
    progress: Progress | None = None,
) -> list[float]:
    """Take one AdamW step a batch, ``steps`` of them at most; ``module`` is trained in place.

    Args:
        module: a transformers causal language model in float32, without dropout.
        batches: ``(batch, time)`` int64; :data:`PADDING` on the right of shorter rows. Every token but the first of
            a row is predicted.
        settings: learning rate, schedule, warm-up, decay, beta2 and clip; nothing else of it is used.

    Returns:
        The mean loss of each step, in nats a token.

    Raises:
        TrainingError: the loss or the gradient is no number.
    """
    return train_batches(
        module, batches, lambda batch: mean_loss(module, batch), settings, steps, name=name, progress=progress
    )


def train_batches(
    module: nn.Module,
    batches: Iterable[B],
    loss_of: Callable[[B], Tensor],
    settings: TrainingSettings,
    steps: int,
    *,
    name: str = "training",
    progress: Progress | None = None,
) -> list[float]:
    """Take one AdamW step a batch of any kind, ``steps`` of them at most; see :func:`train_windows`.

    Args:
        loss_of: the mean loss of a batch, a scalar with its gradient.

    Returns:
        The loss of each step.

    Raises:
        TrainingError: the loss or the gradient is no number.
    """
    parameters = {key: value for key, value in module.named_parameters() if value.requires_grad}
    optimiser = make_optimiser(parameters, settings)
    losses: list[float] = []
    was_training = module.training
    module.train()
    try:
        with (progress or SilentProgress()).task(name, steps) as task:
            for step, batch in zip(range(steps), batches, strict=False):
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate_at(step, steps, settings)
                loss = loss_of(batch)
                loss.backward()
                norm = float(nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip))
                losses.append(float(loss.detach()))
                if not (math.isfinite(norm) and math.isfinite(losses[-1])):
                    what = f"the loss or the gradient of step {step + 1} is not a finite number"
                    raise TrainingError(what, where=name, mend="lower the learning rate")
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                task.advance(1)
                task.note(f"loss {losses[-1]:.3f}")
    finally:
        module.train(was_training)
        module.zero_grad(set_to_none=True)
    return losses


def mean_loss(module: nn.Module, batch: Tensor) -> Tensor:
    """Cross-entropy in nats over all tokens but the first of each row, a scalar; no attention mask is needed."""
    inner = cast(Any, unwrapped(module))
    targets = batch[:, 1:]
    wanted = targets != PADDING
    states = inner.get_decoder()(input_ids=batch[:, :-1].clamp_min(0), use_cache=False).last_hidden_state
    chosen = targets[wanted]
    # one piece: windows are short, and computing the logits of pieces twice would cost more than their memory
    return summed_loss(states[wanted], inner.get_output_embeddings(), chosen, chunk=len(chosen)) / len(chosen)

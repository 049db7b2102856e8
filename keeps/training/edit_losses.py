"""What an edit is trained on by gradients: its target behind its prompt, and differences added beside linear layers.

A change of a layer's weight is trained as a difference D beside it, y = W x + D x, so that the base is never touched
and D is the change itself, whatever layout the layer stores its weight in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.data.edits import Edit, check_agreement, check_edits
from keeps.errors import TrainingError
from keeps.models.adapters import untrained
from keeps.models.batching import pad_right
from keeps.models.checks import check_context
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating, selected_logits

Difference = Callable[[Tensor], Tensor]  # a layer's input (batch, time, in) -> what is added to its output


@dataclass(frozen=True)
class EditBatch:
    """Prompts with their targets.

    Attributes:
        ids, mask: ``(rows, time)`` int64, padded on the right.
        reads: ``(rows, time)`` bool, where the next token is predicted.
        targets: the tokens that belong there, ``(targets,)``; ``source`` is the number of the read that each is
            looked up at, in row-major order.
    """

    ids: Tensor
    mask: Tensor
    reads: Tensor
    targets: Tensor
    source: Tensor


def edit_batch(
    model: LanguageModel, prompts: Sequence[str], targets: Sequence[str], *, at_last_token: bool = False
) -> EditBatch:
    """The targets behind their prompts.

    Args:
        at_last_token: look every token of a target up where the prompt ends, without the tokens before it.

    Raises:
        RecordError: a prompt or a target is empty.
        ContextLengthError: both together are longer than the context.
    """
    rows, reads, wanted, source = [], [], [], []
    for number, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        start, goal = model.encode_pair(prompt, target)
        check_context(number, prompt, len(start) + len(goal), model.context_length, model.name)
        first = sum(map(len, reads))
        rows.append(start if at_last_token else [*start, *goal[:-1]])
        reads.append(range(len(start) - 1, len(start) + (0 if at_last_token else len(goal) - 1)))
        source += [first] * len(goal) if at_last_token else range(first, first + len(goal))
        wanted += goal
    ids, mask = pad_right(rows, model.encoder.pad_token_id, model.device)
    positions = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    for row, places in enumerate(reads):
        positions[row, list(places)] = True
    return EditBatch(
        ids, mask, positions, torch.tensor(wanted, device=ids.device), torch.tensor(source, device=ids.device)
    )


def target_loss(model: LanguageModel, batch: EditBatch) -> Tensor:
    """-(mean over all target tokens of log p), a differentiable scalar in nats."""
    logprobs = selected_logits(model.model, batch.ids, batch.mask, batch.reads).float().log_softmax(-1)
    return -logprobs[batch.source, batch.targets].mean()


@contextmanager
def adding(modules: Mapping[str, nn.Module], differences: Mapping[str, Difference]) -> Iterator[None]:
    """The model with something added to the output of each named layer that ``differences`` has."""

    def hook(difference: Difference) -> Any:
        def add(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
            del module
            return output + difference(given[0]).to(output.dtype)

        return add

    with ExitStack() as stack:
        for name, difference in differences.items():
            stack.callback(modules[name].register_forward_hook(hook(difference)).remove)
        yield


@contextmanager
def frozen(model: LanguageModel) -> Iterator[None]:
    """No weight takes a gradient and dropout is off; as it was afterwards."""
    with untrained(model.model), evaluating(model.model):
        yield


def descend(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    steps: int,
    learning_rate: float,
    stop_loss: float,
    after: Callable[[], object] | None = None,
    where: str = "edit",
) -> tuple[float, int]:
    """Adam on ``parameters``, until the loss is below ``stop_loss``; returns the last loss and the steps taken.

    Args:
        after: called after each step without gradients, such as to keep the parameters in a box.

    Raises:
        TrainingError: the loss is no number.
    """
    optimiser = torch.optim.Adam(list(parameters), lr=learning_rate)
    for step in range(steps + 1):
        value = loss()
        found = float(value.detach())
        if not torch.isfinite(value):
            raise TrainingError("the loss of an edit is no number", where=where, mend="lower the learning rate")
        if found < stop_loss or step == steps:
            return found, step
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        if after is not None:
            with torch.no_grad():
                after()
    raise AssertionError("unreachable")


def probabilities(model: LanguageModel, edits: Sequence[Edit]) -> list[float]:
    """exp(mean log p) of the tokens of each edit's target, as the model now is."""
    scores = model.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    return [float(torch.tensor(score.logprob / score.tokens).exp()) for score in scores]


def check_targets(edits: Sequence[Edit]) -> None:
    """Refuse edits that cannot be trained.

    Raises:
        EmptySetError: there is none.
        RecordError: one contradicts itself, or two want different targets of one prompt.
    """
    check_edits(edits, "edits")
    check_agreement(edits)

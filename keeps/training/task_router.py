"""Teach a router which task a prompt belongs to; the epoch is chosen on prompts that it was not trained on.

(The published code chooses it on the test set, and computes the weights of every test item beforehand.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.errors import SettingsError
from keeps.models.language_model import LanguageModel
from keeps.models.task_router import StoredRouter, TaskRouter
from keeps.training.circumstances import own_random_numbers

FEWEST = 4  # prompts of a task: one at least is held out, and batch normalisation needs company


@dataclass(frozen=True)
class RouterReport:
    """How the training went: accuracies in [0, 1] on held-out prompts, of the epoch that was kept."""

    accuracy: float
    loss: float
    epoch: int
    trained: int
    held_out: int


def router_of(
    model: LanguageModel, prompts: Mapping[str, Sequence[str]], **options: Any
) -> tuple[StoredRouter, RouterReport]:
    """A router on the model's own states that tells the prompts of tasks apart.

    Args:
        prompts: by task.
        options: of :func:`fit_router`.

    Raises:
        SettingsError: a task has too few prompts.
    """
    features = model.embed([prompt for asked in prompts.values() for prompt in asked])
    labels = [task for task, asked in enumerate(prompts.values()) for _ in asked]
    router, report = fit_router(features, labels, list(prompts), **options)
    return StoredRouter(router, tuple(prompts)), report


def fit_router(
    features: Tensor,
    labels: Sequence[int],
    names: Sequence[str],
    *,
    hidden: int | None = None,
    epochs: int = 50,
    learning_rate: float = 5e-4,
    batch_size: int = 1024,
    dropout: float = 0.5,
    held_out: float = 0.2,
    seed: int = 0,
) -> tuple[TaskRouter, RouterReport]:
    """Train a router with cross-entropy and keep the epoch of the highest held-out accuracy (then lowest loss).

    Args:
        features: ``(n, width)``.
        labels: task of each row.
        hidden: width of the hidden layers; default: twice that of the features.
        held_out: share of each task's prompts that choose the epoch, one at least.

    Raises:
        SettingsError: a task has too few prompts.
    """
    targets = torch.tensor(labels)
    counts = torch.bincount(targets, minlength=len(names))
    if int(counts.min()) < FEWEST:
        few = int(counts.argmin())
        what = f'the router has {int(counts[few])} prompts of the task "{names[few]}", and needs {FEWEST} or more'
        raise SettingsError(what, where="prompts", mend="give more prompts of it; a few hundred are better")
    with own_random_numbers(features.device), torch.inference_mode(False):
        torch.manual_seed(seed)
        train, rest = _parted(targets, held_out)
        router = TaskRouter(features.shape[1], len(names), hidden or 2 * features.shape[1], dropout)
        best: tuple[float, float] = (-1.0, 0.0)
        state, report = router.state_dict(), RouterReport(0.0, 0.0, 0, len(train), len(rest))
        optimiser = torch.optim.Adam(router.parameters(), lr=learning_rate)
        for epoch in range(1, epochs + 1):
            _epoch(router, optimiser, features[train], targets[train], batch_size)
            with torch.no_grad():
                logits = router.eval()(features[rest])
            accuracy = float((logits.argmax(1) == targets[rest]).float().mean())
            loss = float(nn.functional.cross_entropy(logits, targets[rest]))
            if (accuracy, -loss) > best:
                best = (accuracy, -loss)
                state = {name: value.clone() for name, value in router.state_dict().items()}
                report = RouterReport(accuracy, loss, epoch, len(train), len(rest))
        router.load_state_dict(state)
    return router.eval(), report


def _epoch(router: TaskRouter, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, batch_size: int) -> None:
    router.train()
    for batch in torch.randperm(len(y)).split(batch_size):
        if len(batch) == 1:  # batch normalisation of a single row is no number
            continue
        loss = nn.functional.cross_entropy(router(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _parted(targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Indices to train on and to hold out, task by task."""
    train, rest = [], []
    for task in targets.unique():
        mine = (targets == task).nonzero().squeeze(1)
        mine = mine[torch.randperm(len(mine))]
        cut = min(max(1, round(share * len(mine))), len(mine) - 2)
        rest.append(mine[:cut])
        train.append(mine[cut:])
    return torch.cat(train), torch.cat(rest)

"""Which task a prompt belongs to: a small network on the model's own mean hidden state (arXiv:2406.15479).

d -> h -> h -> T with batch normalisation, leaky ReLU and dropout behind each hidden layer, and a softmax.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from keeps.errors import StorageError
from keeps.weights.files import load_metadata, load_tensors, save_tensors

ROUTER_FILE = "router.safetensors"


class TaskRouter(nn.Module):
    """``(n, width)`` features to ``(n, tasks)`` logits, float32."""

    def __init__(self, width: int, tasks: int, hidden: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.width, self.tasks, self.hidden = width, tasks, hidden
        layers: list[nn.Module] = []
        for before in (width, hidden):
            layers += [nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(hidden, tasks))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(n, tasks)`` of features ``(n, width)``."""
        return self.network(features.float())

    @torch.no_grad()
    def weights(self, features: Tensor, *, top: bool = False) -> Tensor:
        """Rows ``(n, tasks)`` that sum to 1; with ``top`` the most likely task alone. In evaluation mode.

        Evaluation mode, because batch normalisation would make a prompt's weights depend on what else is asked.
        """
        training = self.training
        try:
            probabilities = self.eval()(features).softmax(1)
        finally:
            self.train(training)
        if not top:
            return probabilities
        return nn.functional.one_hot(probabilities.argmax(1), self.tasks).float()


@dataclass(frozen=True)
class StoredRouter:
    """A router and the names of its tasks, in the order of its outputs."""

    router: TaskRouter
    names: tuple[str, ...]


def write_router(folder: Path, router: TaskRouter, names: Sequence[str]) -> None:
    """Write ``router.safetensors``.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    metadata = {"names": json.dumps(list(names)), "hidden": str(router.hidden), "format": "pt"}
    save_tensors(folder / ROUTER_FILE, dict(router.state_dict()), metadata)


def read_router(folder: Path) -> StoredRouter:
    """The router in ``folder``, in evaluation mode.

    Raises:
        StorageError: the file is missing, damaged, or not that of a router.
    """
    path = folder / ROUTER_FILE
    tensors, metadata = load_tensors(path), load_metadata(path)
    try:
        names, hidden = tuple(str(name) for name in json.loads(metadata["names"])), int(metadata["hidden"])
        with torch.random.fork_rng(devices=[]):  # its start is drawn, and overwritten
            router = TaskRouter(tensors["network.0.weight"].shape[1], len(names), hidden)
        router.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise StorageError(
            f"the file is not that of a router ({reason})", where=str(path), mend="make it again"
        ) from None
    return StoredRouter(router.eval(), names)

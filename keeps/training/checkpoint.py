"""Where a training run stands, on disk: one safetensors file that is whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from keeps.errors import StorageError
from keeps.training.batches import TokenizedExample
from keeps.training.settings import TrainingSettings
from keeps.weights import fingerprint_tensors, load_metadata, load_tensors, save_tensors
from keeps.weights.files import remove_leftovers

FORMAT = 1  # raise it when an older loop would misread a newer checkpoint
_FREE = ("checkpoint_every",)  # settings that may differ between a run and its continuation


@dataclass
class Position:
    """Everything about a run's progress that is not a tensor.

    The scheduler, the order of the data and the random numbers are functions of ``step`` and the
    seed, so ``step`` stands for all three.
    """

    step: int = 0  # optimiser steps done
    seconds: float = 0.0
    tokens: int = 0  # tokens seen, padding not counted
    epoch_loss: float = 0.0  # sum of the loss over the answer tokens of the epoch under way, in nats
    epoch_tokens: int = 0
    losses: list[float] = field(default_factory=list)  # mean loss of each step
    epoch_losses: list[float] = field(default_factory=list)
    curves: list[tuple[str, int, float]] = field(default_factory=list)
    stopped_early: bool = False

    def add(self, loss: float, tokens: int, answer_tokens: int) -> None:
        """Count one step with the mean ``loss`` over its ``answer_tokens``."""
        self.losses.append(loss)
        self.tokens += tokens
        self.epoch_loss += loss * answer_tokens
        self.epoch_tokens += answer_tokens

    def end_epoch(self) -> float:
        """Close the epoch under way; return its mean loss per answer token."""
        self.epoch_losses.append(self.epoch_loss / max(1, self.epoch_tokens))
        self.epoch_loss, self.epoch_tokens = 0.0, 0
        return self.epoch_losses[-1]


def job_fingerprint(
    settings: TrainingSettings,
    seed: int,
    examples: Sequence[TokenizedExample],
    parameters: Mapping[str, torch.Tensor],
) -> str:
    """Hash of what decides the outcome: settings, seed, examples, names and shapes of what is trained."""
    digest = hashlib.sha256()
    values = {name: value for name, value in settings.to_mapping().items() if name not in _FREE}
    shapes = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in parameters.items()}
    digest.update(json.dumps([FORMAT, type(settings).__name__, values, seed, shapes], sort_keys=True).encode())
    for example in examples:
        digest.update(json.dumps([example.kind, example.answer_start, *example.input_ids]).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one job in ``folder``: the newest complete one, seldom an older one beside it."""

    folder: Path
    job: str

    def save(self, tensors: Mapping[str, torch.Tensor], position: Position) -> None:
        """Write a checkpoint; older ones are removed only when it is complete.

        Raises:
            StorageError: the disk is full or the folder is not writable; older checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{position.step:08d}.safetensors"
        facts = {"job": self.job, "content": fingerprint_tensors(tensors), "position": dataclasses.asdict(position)}
        save_tensors(path, tensors, {"format": str(FORMAT), "checkpoint": json.dumps(facts)})
        self._remove_but(path, newer=True)

    def load(self) -> tuple[dict[str, torch.Tensor], Position] | None:
        """The newest undamaged checkpoint, or None if none was ever written; older ones are removed.

        A run that was killed between writing its last checkpoint and removing the one before would keep both.

        Raises:
            StorageError: all are damaged, or the newest belongs to another job or version.
        """
        problem: StorageError | None = None
        for path in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                metadata, tensors = load_metadata(path), load_tensors(path)
                self._check_format(path, metadata.get("format"))
                facts = json.loads(metadata["checkpoint"])
                if fingerprint_tensors(tensors) != facts["content"]:
                    raise StorageError("the checkpoint is damaged", where=str(path))
                position = _position(facts["position"])
            except _OtherVersionError:
                raise
            except (StorageError, KeyError, TypeError, ValueError) as error:
                problem = problem or _damaged(path, error)
                continue
            if facts["job"] != self.job:
                mend = "repeat the settings, seed, data and model of that run, or start a new one without --resume"
                raise StorageError("the checkpoint is of another job", where=str(path), mend=mend)
            self._remove_but(path, newer=False)
            return tensors, position
        if problem is not None:
            raise problem
        return None

    def remove(self) -> None:
        """Remove all checkpoints; call it when what was trained is safely written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_but(self, path: Path, *, newer: bool) -> None:
        remove_leftovers(self.folder)
        for other in self.folder.glob("*.safetensors"):
            if other != path and (newer or other.name < path.name):
                other.unlink(missing_ok=True)

    @staticmethod
    def _check_format(path: Path, found: str | None) -> None:
        if found != str(FORMAT):
            mend = "continue with the version of keeps that wrote it, or start without --resume"
            what = f"the checkpoint has format {found}, this version of keeps reads format {FORMAT}"
            raise _OtherVersionError(what, where=str(path), mend=mend)


class _OtherVersionError(StorageError):
    """Apart from damage, because an older file beside it must not be used in its place."""


def _damaged(path: Path, error: Exception) -> StorageError:
    reason = error.what if isinstance(error, StorageError) else "the checkpoint is damaged"
    mend = "start the run again without --resume"
    return StorageError(f"no checkpoint can be continued: {reason}", where=str(path), mend=mend)


def _position(values: Mapping[str, Any]) -> Position:
    position = Position(**values)
    position.curves = [(name, step, value) for name, step, value in position.curves]
    return position

"""Training in several stages, each with its own curves and checkpoint, and one result on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from keeps.contracts import Run
from keeps.models.adapters import copy_into, restore_trainable, trainable_flags
from keeps.models.changes import CheckpointChange
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.training.adapter import finished_record
from keeps.training.settings import TrainingSettings

SUMMED = ("train_seconds", "tokens", "steps")  # costs of a run that are those of its stages together


@contextmanager
def stage(run: Run, name: str) -> Iterator[Run]:
    """A run for a later stage: its curves bear the stage's name, its costs are added to those of ``run``."""
    part = replace(run, curves=[], measures={})
    yield part
    run.curves += [(f"{name}_{curve}", step, value) for curve, step, value in part.curves]
    costs = {key: run.measures.get(key, 0) + part.measures[key] for key in SUMMED}
    speed = costs["tokens"] / costs["train_seconds"] if costs["train_seconds"] else 0.0
    run.measures |= {**part.measures, **costs, "tokens_per_second": speed}


def write_whole(
    model: LanguageModel,
    training: Callable[[Any], object],
    settings: TrainingSettings,
    run: Run,
    *,
    method: str,
    data: Mapping[str, str],
) -> CheckpointChange:
    """Call ``training`` with the model, all of whose weights may be trained; write it, and give it back as it was.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    module: Any = model.model
    parameters = dict(module.named_parameters())
    originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    trainable = trainable_flags(module)
    module.requires_grad_(True)
    try:
        training(module)
        if run.is_main:
            save_checkpoint(module, model.tokenizer, run.folder)
    finally:
        copy_into(parameters, originals)
        restore_trainable(module, trainable)
    return CheckpointChange(run.folder, finished_record("checkpoint", method, settings, model, data, run))

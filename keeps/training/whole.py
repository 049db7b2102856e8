"""Train every weight of a model and leave a transformers checkpoint on disk; the model gets its weights back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.adapters import copy_into, restore_trainable, trainable_flags
from keeps.models.changes import CheckpointChange
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.settings import Settings
from keeps.training.adapter import finished_record
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.settings import TrainingSettings
from keeps.training.steps import Regulariser


def train_whole(
    model: LanguageModel,
    learn: RecordSet,
    settings: TrainingSettings,
    run: Run,
    *,
    method: str,
    data: Mapping[str, str],
    regulariser: Callable[[Mapping[str, Tensor]], Regulariser] | None = None,
) -> CheckpointChange:
    """Train all parameters on ``learn`` and write ``run.folder``; ``model`` is restored bit by bit.

    Args:
        regulariser: makes the regulariser of :func:`keeps.training.train` of the weights before training,
            by the name of the parameter.
    """

    def training(module: Any, originals: Mapping[str, Tensor]) -> None:
        pull = regulariser(originals) if regulariser is not None else None
        examples = tokenise(model, learn)
        train(module, examples, settings, run, pad_token_id=model.encoder.pad_token_id, regulariser=pull)

    return write_whole(model, training, settings, run, method=method, data=data)


def write_whole(
    model: LanguageModel,
    training: Callable[[Any, Mapping[str, Tensor]], object],
    settings: Settings,
    run: Run,
    *,
    method: str,
    data: Mapping[str, str],
) -> CheckpointChange:
    """Call ``training`` with the module and its weights as they were; write it, and give it back as it was.

    Every parameter requires a gradient while ``training`` runs.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    module: Any = model.model
    parameters = dict(module.named_parameters())
    originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    trainable = trainable_flags(module)
    module.requires_grad_(True)
    try:
        training(module, originals)
        if run.is_main:
            save_checkpoint(module, model.tokenizer, run.folder)
    finally:
        copy_into(parameters, originals)
        restore_trainable(module, trainable)
    return CheckpointChange(run.folder, finished_record("checkpoint", method, settings, model, data, run))

"""What a static merge that needs a running model leaves: an ordinary transformers checkpoint, with its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.models.adapters import overwritten
from keeps.models.change_records import write_record
from keeps.models.changes import CheckpointChange
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.fine_tunes import Deltas, FineTune
from keeps.models.language_model import LanguageModel
from keeps.settings import Settings


def moved_names(model: LanguageModel, tuned: Sequence[Deltas]) -> list[str]:
    """The parameters that some fine-tune moved, in the model's order.

    Raises:
        SettingsError: there is none.
    """
    moved = {name for deltas in tuned for name in deltas.names}
    names = [name for name, _ in model.model.named_parameters() if name in moved]
    if not names:
        raise SettingsError("no fine-tune moved anything", where="merge", mend="check that the base is their base")
    return names


def tuned_values(model: LanguageModel, deltas: Deltas) -> Iterator[tuple[str, Tensor]]:
    """The parameters of one fine-tune, one after the other, for :func:`keeps.models.adapters.overwritten`."""
    parameters = dict(model.model.named_parameters())
    for name in deltas.names:
        yield name, parameters[name].detach().float() + deltas.of(name)


def coefficients_of(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """A positive number for each model; 1 each where none is given.

    Raises:
        SettingsError: they are not as many as the models, or one is not above 0.
    """
    if not weights:
        return (1.0,) * count
    if len(weights) != count or min(weights) <= 0:
        what = f"{len(weights)} weights for {count} models" if len(weights) != count else "a weight is not above 0"
        raise SettingsError(what, where="weights", mend="give one number above 0 for each model, or none")
    return tuple(weights)


def write_merged(
    model: LanguageModel,
    values: Mapping[str, Tensor],
    learn: Sequence[FineTune],
    *,
    method: str,
    settings: Settings,
    run: Run,
) -> CheckpointChange:
    """Write ``model`` with ``values`` in place into ``run.folder``, and give it back as it was bit for bit.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    module: Any = model.model
    before = model.fingerprint
    with overwritten(dict(module.named_parameters()), values.items()):
        save_checkpoint(module, model.tokenizer, run.folder)
    data = {item.name: item.fingerprint for item in learn}
    data |= {f"{item.name}: texts": item.records.fingerprint for item in learn if item.records is not None}
    record = write_record("checkpoint", method, settings, model, data, run, fingerprint=before)
    return CheckpointChange(run.folder, record)


def moved_by(base: Tensor, update: Tensor) -> Tensor:
    """``base + update`` in the dtype of ``base``, added in float32; the very bits of ``base`` where nothing moves."""
    return base.where(update == 0, (base.float() + update).to(base.dtype))

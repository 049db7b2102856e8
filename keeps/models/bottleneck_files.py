"""Unlearning layers on disk, and the change that they make: ``unlearning_layers.safetensors``, ``grams.safetensors``.

No other library has a layout for a nonlinear bottleneck behind a feed-forward part, so this one is our own: by the
name of the layer ``NAME.down`` (width, rank) and ``NAME.up`` (rank, width); peft cannot load it, ``keeps.load`` does.
The second file holds the Gram matrices of their inputs on what was forgotten, ``(width, width)`` and ``(rank, rank)``,
with which they can be fused with others; the model does without it.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from keeps.contracts import ChangeRecord
from keeps.errors import SettingsError, StorageError
from keeps.models.bottlenecks import PARTS, Bottlenecked, put_bottlenecks
from keeps.models.changes import ChangedModel, StoredChange, check_base, copy_files
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.weights.files import load_metadata, load_tensors, save_tensors

FILE = "unlearning_layers.safetensors"
GRAMS_FILE = "grams.safetensors"
FORMAT = "1"  # raise it when an older reader would misread a newer file
MEND = "run the job again"


def write_layers(folder: Path, tensors: dict[str, Tensor], start: str, grams: dict[str, Tensor] | None) -> None:
    """Write the layers, and the Gram matrices where they are kept.

    Args:
        start: names the random numbers that the layers started from: only those of one start can be fused.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    if grams is not None:
        wide = {name: each.double() for name, each in grams.items()}  # float32 would invent directions of the inputs
        save_tensors(folder / GRAMS_FILE, wide, {"format": FORMAT})
    save_tensors(folder / FILE, tensors, {"format": f"{FORMAT}; {start}"})  # one entry: the order of two is not fixed


def read_layers(folder: Path) -> dict[str, Tensor]:
    """``NAME.down`` and ``NAME.up`` of every layer.

    Raises:
        StorageError: the file is missing, damaged, of another version, or lacks a tensor.
    """
    found = load_tensors(folder / FILE)
    version = load_metadata(folder / FILE).get("format", "").partition(";")[0]
    if version != FORMAT:
        what = f"{FILE} has format {version}, this version of keeps reads format {FORMAT}"
        raise StorageError(what, where=str(folder), mend="use the version of keeps that wrote it, or run the job again")
    names = {name.rpartition(".")[0] for name in found}
    if not found or found.keys() != {f"{name}.{part}" for name in names for part in PARTS}:
        raise StorageError("a layer lacks its tensor down or up", where=str(folder / FILE), mend=MEND)
    if any(tensor.ndim != 2 or not tensor.is_floating_point() for tensor in found.values()):
        raise StorageError("a tensor is no matrix of numbers", where=str(folder / FILE), mend=MEND)
    return found


def read_fusable(folder: Path, fingerprint: str, start: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The layers in ``folder`` and their Gram matrices, checked to be fused with layers of this base and start.

    Raises:
        StorageError: there is no such change, or it is damaged.
        SettingsError: it belongs to another base, started from other numbers, or was written without Gram matrices.
    """
    record, where = ChangeRecord.read(folder), str(folder)
    tensors = read_layers(folder)
    if record.base_fingerprint != fingerprint:
        mend = "fuse what was made for one base"
        raise SettingsError("its unlearning layers belong to another base model", where=where, mend=mend)
    if load_metadata(folder / FILE)["format"] != f"{FORMAT}; {start}":
        what = "its unlearning layers started from other numbers, so that their units do not correspond"
        raise SettingsError(what, where=where, mend="train both with the same seed and rank")
    if not (folder / GRAMS_FILE).exists():
        what = f"it has no {GRAMS_FILE}, which fusing needs"
        raise SettingsError(what, where=where, mend="train it again without --no-fusable")
    grams = load_tensors(folder / GRAMS_FILE)
    wanted = {name: (tensor.shape[0], tensor.shape[0]) for name, tensor in tensors.items()}
    if wanted != {name: tuple(matrix.shape) for name, matrix in grams.items()}:
        what = "its Gram matrices are not those of its layers"
        raise StorageError(what, where=str(folder / GRAMS_FILE), mend=MEND)
    return tensors, grams


def attach_layers(model: LanguageModel, folder: Path) -> Bottlenecked:
    """Put the unlearning layers in ``folder`` behind those of ``model``.

    Raises:
        StorageError: a file is missing or damaged, or does not fit; the model is as it was then.
    """
    tensors = read_layers(folder)
    rank = min(next(iter(tensors.values())).shape)
    wrapped = put_bottlenecks(model.model, int(rank))
    try:
        wrapped.set(tensors)
    except SettingsError as error:
        wrapped.unwrap()
        raise StorageError(error.what, where=str(folder), mend="load the base that change.json names") from None
    return wrapped


class BottleneckChange(StoredChange):
    """Unlearning layers for the untouched base; nonlinear, hence neither mergeable nor an adapter of peft."""

    forms: ClassVar[tuple[str, ...]] = ("memory",)
    reason: ClassVar[str] = "a relu stands inside an unlearning layer, so no weight can hold it"

    def apply(self, model: LanguageModel) -> ChangedModel:
        """A LanguageModel over ``model``'s base with the layers in place; ``undo()`` takes them out.

        Raises:
            StorageError: the base is not the one that they were made for, or a file is damaged.
        """
        check_base(self.record, model, self.folder)
        wrapped = attach_layers(model, self.folder)
        undo = partial(wrapped.unwrap)
        return ChangedModel(model, model.model, name=self.folder.name, fingerprint=self.fingerprint, undo=undo)

    @property
    def fingerprint(self) -> str:
        """Identity of the changed model: its base and the layers; the Gram matrices change no answer."""
        digest = hashlib.sha256(json.dumps([self.record.base_fingerprint, self.record.method]).encode())
        digest.update((self.folder / FILE).read_bytes())
        return digest.hexdigest()[:16]

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del form, final, model
        copy_files(self.folder, folder, FILE, GRAMS_FILE, "change.json", "README.md")

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        del form
        wrapped = attach_layers(model, folder)
        try:
            return check_logits(model.model, model.tokenizer)
        finally:
            wrapped.unwrap()

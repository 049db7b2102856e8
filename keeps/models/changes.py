"""The kinds of change that lie on disk: a PEFT adapter folder, a transformers checkpoint, and those of other files.

The first two are plain folders that peft and transformers load without keeps; ``change.json`` beside the
tensors says where they came from.
"""

from __future__ import annotations

import hashlib
import shutil
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeps.contracts import Change, ChangeRecord
from keeps.errors import SettingsError, StorageError, UnknownNameError, nearest
from keeps.models.adapter_files import (
    ADAPTER_FILE,
    CONFIG_FILE,
    check_fits,
    read_config,
    read_factors,
    read_magnitudes,
    scaling_of,
    write_halved,
)
from keeps.models.adapters import Factors, added, copy_into, halved, restore_trainable, trainable_flags
from keeps.models.checkpoint_files import load_checkpoint, save_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.registry import find_method
from keeps.weights.files import atomic_folder, atomic_write_bytes

Undo = Callable[[], Any]
PLAIN = ("lora", "residual", "merged")  # forms that peft and transformers load
RESIDUAL_NOTE = """This adapter belongs to the reduced weights in `base/`. On any other base it gives a wrong model.

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{folder}/base"), "{folder}")
"""


class ChangedModel(LanguageModel):
    """A base model with a change applied to it; :meth:`undo` gives the base back as it was."""

    def __init__(self, base: LanguageModel, module: Any, *, name: str, fingerprint: str, undo: Undo) -> None:
        super().__init__(module, base.tokenizer, name=name)
        self.encoder = base.encoder
        self.tokens_per_batch = base.tokens_per_batch
        self._fingerprint = fingerprint
        self._undo: Undo | None = undo

    @property
    def fingerprint(self) -> str:
        """Identity of the changed model: its base and the bytes of the change."""
        return self._fingerprint

    def undo(self) -> None:
        """Take the change out of the base model, bit by bit; a second call does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def source_of(model: LanguageModel) -> str:
    """What ``AutoModelForCausalLM.from_pretrained`` loads this model from."""
    return str(getattr(model.model.config, "_name_or_path", "") or model.name)


def load_change(folder: Path) -> StoredChange:
    """The change in ``folder``, by the kind that its ``change.json`` names.

    Raises:
        StorageError: the folder holds no change, or one of another version or kind.
        UnknownNameError: there is no such method.
    """
    from keeps.models.expert_files import ExpertsChange  # which builds on this file

    record = ChangeRecord.read(folder)
    kinds = {"adapter": AdapterChange, "checkpoint": CheckpointChange, "experts": ExpertsChange}
    if record.kind in kinds:
        return kinds[record.kind](folder, record)
    info = find_method(record.method)  # any other kind is a form of the method that made it, which knows how to load it
    own = info.forms if hasattr(info.implementation, "load") else ()
    if record.kind not in own:
        mend = nearest(record.kind, (*kinds, *own))
        raise StorageError(f'change.json names the kind "{record.kind}"', where=str(folder), mend=mend)
    return info.implementation.load(folder, record)


def changed_fingerprint(record: ChangeRecord, folder: Path) -> str:
    """Identity of the changed model: its base and the bytes of its tensors."""
    digest = hashlib.sha256(record.base_fingerprint.encode())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def check_base(record: ChangeRecord, model: LanguageModel, folder: Path) -> None:
    """Refuse a base other than the one the change was made for: the result would be a wrong model.

    Raises:
        StorageError: the fingerprints differ.
    """
    found = model.fingerprint
    if found != record.base_fingerprint:
        raise StorageError(
            f"this change was made for a base with fingerprint {record.base_fingerprint}, {model.name} has {found}",
            where=str(folder),
            mend=f"load the base that it names ({record.base_model})",
        )


class StoredChange(Change):
    """What all kinds share: identity, and export by writing, loading as a user would, and comparing."""

    reason: ClassVar[str] = ""  # why a plain form that is not among ``forms`` cannot be

    @property
    def fingerprint(self) -> str:
        """Identity of the changed model."""
        return changed_fingerprint(self.record, self.folder)

    def export(self, form: str, folder: Path, *, model: LanguageModel | None = None) -> float:
        """Write the change in another form and say what the conversion cost.

        Args:
            form: one of ``forms``. ``"lora"`` copies the adapter; ``"residual"`` writes a rank-r adapter
                and, in ``base/``, the reduced weights it belongs to; ``"merged"`` a plain checkpoint.
            folder: must not exist yet.
            model: the base, loaded; needed by every form, since the logits are compared.

        Returns:
            The largest absolute difference of logits between the change as stored and as exported.

        Raises:
            UnknownNameError: the change has no such form.
            SettingsError: there is no model, or the form would do nothing for this change.
            StorageError: the base is another one, ``folder`` exists, or files cannot be read or written.
        """
        self.check_form(form)
        if model is None:
            raise SettingsError("the base model is needed to export", mend="pass model=LanguageModel.load(...)")
        folder = Path(folder)
        with atomic_folder(folder) as temporary:
            changed = self.apply(model)
            try:
                wanted = check_logits(changed.model, model.tokenizer)
            finally:
                changed.undo()
            self._write(form, temporary, folder, model)
            return largest_difference(wanted, self._logits_of(form, temporary, model))

    def check_form(self, form: str) -> None:
        """Refuse a form that this change does not have, or that would do nothing for it; see :meth:`export`."""
        if form in self.forms:
            return
        if self.reason and form in PLAIN:
            mend = f'use form "{self.forms[0]}", and load it with keeps'
            raise SettingsError(f'form "{form}" is not possible: {self.reason}', where=self.record.method, mend=mend)
        mend = nearest(form, self.forms)
        raise UnknownNameError(f'the method {self.record.method} has no form "{form}" to export', mend=mend)

    @abstractmethod
    def apply(self, model: LanguageModel) -> ChangedModel:
        """``model``'s base with the change in place; ``undo()`` takes it out."""

    @abstractmethod
    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        """Write ``form`` into ``folder``, which will be called ``final``."""

    @abstractmethod
    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        """Logits of the exported files, loaded as a user would load them."""


class AdapterChange(StoredChange):
    """A LoRA adapter for the untouched base, rank doubled where training started from its own weights."""

    forms: ClassVar[tuple[str, ...]] = ("lora", "residual", "merged")

    def apply(self, model: LanguageModel) -> ChangedModel:
        """A LanguageModel over ``model``'s base with the adapter in place; ``undo()`` takes it out.

        Raises:
            StorageError: the base is not the one that the adapter was made for, or a file is damaged.
        """
        check_base(self.record, model, self.folder)
        peft_model, undo = _attached(model.model, self.folder)
        return ChangedModel(model, peft_model, name=self.folder.name, fingerprint=self.fingerprint, undo=undo)

    @property
    def scaling(self) -> float:
        """s of W + s B A."""
        return scaling_of(read_config(self.folder))

    def factors(self) -> Factors:
        """A and B of every layer as they lie on disk; with DoRA they are not all of the change."""
        return read_factors(self.folder)

    def check_form(self, form: str) -> None:
        """As for every change; ``"residual"`` needs a base that was reduced."""
        super().check_form(form)
        if form == "residual" and not self.record.measures.get("reduced_base"):
            raise SettingsError(
                f'form "residual" would change nothing: {self.record.method} trains on the untouched base',
                mend='use form "lora" or "merged"',
            )

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        if form == "lora":
            copy_files(self.folder, folder, CONFIG_FILE, ADAPTER_FILE, "change.json", "README.md")
        elif form == "merged":
            with added(model.model, self.factors(), self.scaling, read_magnitudes(self.folder)):
                save_checkpoint(model.model, model.tokenizer, folder)
        else:
            self._write_residual(folder, final, model)

    def _write_residual(self, folder: Path, final: Path, model: LanguageModel) -> None:
        """The trained factors, the weights W - s B0 A0 that they belong to, and a record that names these as base."""
        trained, start = halved(self.factors())
        base = str(final / "base")
        with added(model.model, start, -self.scaling):
            save_checkpoint(model.model, model.tokenizer, folder / "base")
            reduced = model.fingerprint
        write_halved(folder, read_config(self.folder), trained, base=base)
        measures = {**self.record.measures, "reduced_base": False}
        replace(self.record, base_model=base, base_fingerprint=reduced, measures=measures).write(folder)
        atomic_write_bytes(folder / "README.md", RESIDUAL_NOTE.format(folder=final).encode())

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        if form == "merged":
            return check_logits(load_checkpoint(folder, model.model), model.tokenizer)
        base = model.model if form == "lora" else load_checkpoint(folder / "base", model.model)
        peft_model, undo = _attached(base, folder)
        try:
            return check_logits(peft_model, model.tokenizer)
        finally:
            undo()


class CheckpointChange(StoredChange):
    """A whole transformers checkpoint: every weight may differ from the base."""

    forms: ClassVar[tuple[str, ...]] = ("merged",)

    def apply(self, model: LanguageModel) -> ChangedModel:
        """A LanguageModel over the same module with the checkpoint's weights; ``undo()`` restores them.

        Raises:
            StorageError: the base is not the one that the change was made for, or a file is damaged.
        """
        check_base(self.record, model, self.folder)
        loaded = load_checkpoint(self.folder, model.model)
        parameters = dict(model.model.named_parameters())
        originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        copy_into(parameters, dict(loaded.named_parameters()))
        undo = partial(copy_into, parameters, originals)
        return ChangedModel(model, model.model, name=self.folder.name, fingerprint=self.fingerprint, undo=undo)

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del form, final, model
        kept = [path.name for path in self.folder.iterdir() if path.is_file() and path.name != "curves.json"]
        copy_files(self.folder, folder, *kept)

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        del form
        return check_logits(load_checkpoint(folder, model.model), model.tokenizer)


def _attached(module: Any, folder: Path) -> tuple[Any, Undo]:
    """peft's model of ``module`` with the adapter in ``folder``, and the function that takes it out again."""
    from peft import PeftModel

    read_config(folder)  # damage is refused before peft has touched the module
    check_fits(module, read_factors(folder), folder)
    trainable, training = trainable_flags(module), module.training
    with torch.random.fork_rng(devices=[]):  # peft draws factors before it reads the stored ones
        peft_model = PeftModel.from_pretrained(module, str(folder)).eval()

    def undo() -> None:
        base = peft_model.unload()
        restore_trainable(base, trainable)
        base.train(training)

    return peft_model, undo


def copy_files(source: Path, target: Path, *names: str) -> None:
    """Copy those of the named files that are there."""
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)

"""Changes that lie beside the weights: a list of edits, tensors in safetensors, and what looks them up.

Kind ``"memory"`` of ``change.json``. A method's change is a subclass of :class:`MemoryChange` that says what router
stands before the model; its method is a subclass of :class:`MemoryMethod`, which finds the change again on disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from keeps.contracts import ChangeRecord, Run
from keeps.data.edits import Edit
from keeps.errors import SettingsError
from keeps.models.changes import StoredChange, check_base
from keeps.models.edit_files import EditEntry, finish, read_entries
from keeps.models.language_model import LanguageModel
from keeps.models.notebook import Notebook
from keeps.models.routed import RoutedModel, Router
from keeps.settings import Settings
from keeps.weights.files import atomic_folder

COMPARED = 8  # edits whose probabilities are compared after an export


class MemoryChange(StoredChange):
    """A memory beside the untouched base."""

    forms: ClassVar[tuple[str, ...]] = ("memory",)

    def apply(self, model: LanguageModel) -> Any:
        """``model`` with the memory before it; ``undo()`` takes it away.

        Raises:
            StorageError: the base is not the one that the edits were made for, or a file is damaged.
        """
        check_base(self.record, model, self.folder)
        router = self.router(model)
        return RoutedModel(model, router, name=self.folder.name, fingerprint=self.fingerprint)

    @abstractmethod
    def router(self, model: LanguageModel) -> Router:
        """What stands before ``model``, read from the folder."""

    def without(self, ids: Sequence[str], target: Path) -> None:
        """Write the memory without the entries ``ids`` into the folder ``target``: by default a notebook."""
        copy_memory(self.folder, target)
        notebook = Notebook.load(target)
        have = {note.id for note in notebook.notes}  # a note that a newer one replaced is gone already
        notebook.remove(*(name for name in ids if name in have))
        notebook.save(target)

    @property
    def fingerprint(self) -> str:
        """Identity of the changed model: its base, the settings, and the bytes of the memory."""
        digest = hashlib.sha256(self.record.base_fingerprint.encode())
        digest.update(json.dumps([self.record.method, self.record.settings], sort_keys=True).encode())
        for path in sorted((*self.folder.glob("*.safetensors"), *self.folder.glob("*.jsonl"))):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def export(self, form: str, folder: Path, *, model: LanguageModel | None = None) -> float:
        """Copy the memory, load the copy, and give the largest difference of an edit's log-probability.

        Raises:
            UnknownNameError, SettingsError, StorageError: as :meth:`StoredChange.export`.
        """
        self.check_form(form)
        if model is None:
            raise SettingsError("the base model is needed to export", mend="pass model=LanguageModel.load(...)")
        with atomic_folder(folder) as temporary:
            copy_memory(self.folder, temporary)
            ours, theirs = (self._scores(change, model) for change in (self, type(self)(temporary, self.record)))
        return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)

    def _scores(self, change: MemoryChange, model: LanguageModel) -> list[float]:
        """Log-probabilities of the first edits' targets; of an answerer without probabilities a number for its text."""
        entries = read_entries(change.folder)[:COMPARED]
        prompts, targets = [entry.prompt for entry in entries], [entry.target_new for entry in entries]
        changed = change.apply(model)
        try:
            if hasattr(changed, "logprob"):
                return [score.logprob for score in changed.logprob(prompts, targets)]
            texts = [answer.text for answer in changed.answer(prompts)]
        finally:
            changed.undo()
        return [float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")) for text in texts]

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del form, final, model
        copy_memory(self.folder, folder)

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        del form, folder, model
        return []  # :meth:`export` compares answers instead: a memory has no logits of its own


class MemoryMethod:
    """A method whose changes are memories; ``change`` is their class."""

    change: ClassVar[type[MemoryChange]]

    @classmethod
    def load(cls, folder: Path, record: ChangeRecord) -> MemoryChange:
        """The change in ``folder``."""
        return cls.change(folder, record)

    @classmethod
    def without(cls, folder: Path, record: ChangeRecord, ids: Sequence[str], target: Path) -> None:
        """Write what is left of the memory in ``folder`` without the edits ``ids`` into ``target``."""
        cls.change(folder, record).without(ids, target)


def finish_memory(
    method: str,
    settings: Settings,
    model: LanguageModel,
    edits: Sequence[Edit],
    run: Run,
    measured: Sequence[Mapping[str, Any]] = (),
) -> ChangeRecord:
    """Write ``edits.jsonl`` and ``change.json``; an edit's share of the memory is the entry that bears its id."""
    found = measured or [{} for _ in edits]
    entries = [EditEntry.of(edit, {"entries": [edit.id]}, **more) for edit, more in zip(edits, found, strict=True)]
    return finish("memory", method, settings, model, edits, entries, run)


def copy_memory(source: Path, target: Path) -> None:
    """Copy the files of a memory."""
    for path in source.iterdir():
        if path.is_file() and path.name != "curves.json":
            shutil.copyfile(path, target / path.name)

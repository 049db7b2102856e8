"""Fine-tunes of one base, as merging reads them: what each moved, tensor by tensor.

A fine-tune is a transformers folder, a peft folder, or the folder of a run of ``keeps adapt`` or ``keeps edit`` (whole
weights, or an adapter, whose product s B A is the change: sums of A and sums of B are not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import ChangeRecord
from keeps.data.records import RecordSet
from keeps.errors import ModelLoadError, SettingsError
from keeps.models.adapter_files import (
    ADAPTER_FILE,
    check_fits,
    read_config,
    read_factors,
    read_magnitudes,
)
from keeps.models.adapters import Factors, added
from keeps.models.changes import check_base
from keeps.models.checkpoint_files import load_checkpoint
from keeps.models.language_model import LanguageModel
from keeps.models.locate import is_transposed
from keeps.weights.fingerprints import fingerprint_file
from keeps.weights.low_rank_inputs import scaling_in

KINDS = ("adapter", "checkpoint")  # of change.json: those that move weights


@dataclass(frozen=True)
class FineTune:
    """One fine-tune to be merged.

    Attributes:
        name: of its task; in file names, so letters, digits, ``-``, ``_`` and ``.`` only.
        folder: a transformers folder, a peft folder, or a run's folder.
        prompts: what is typically asked of it, from which a router learns; none where no router is wanted.
        records: examples of its task, or running text, for merges that measure the model on them.
    """

    name: str
    folder: Path
    prompts: tuple[str, ...] = ()
    records: RecordSet | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The prompts; without any, those of the records (running text stands for itself)."""
        if self.prompts or self.records is None:
            return self.prompts
        asked = [prompt for question in self.records.questions() for prompt in question.prompts]
        return tuple(asked + [passage.text for passage in self.records.passages()])

    @property
    def fingerprint(self) -> str:
        """Of the files that hold its weights."""
        return "+".join(fingerprint_file(file) for file in sorted(Path(self.folder).glob("*.safetensors")))


def check_fine_tunes(tuned: Sequence[FineTune]) -> None:
    """Refuse an empty list, names that are no file names or come twice, and folders that are not there.

    Raises:
        SettingsError, ModelLoadError: one of these.
    """
    if not tuned:
        raise SettingsError("there is no fine-tune to work with", mend="name at least one")
    names = [item.name for item in tuned]
    for item in tuned:
        if not item.name or not all(letter.isalnum() or letter in "-_." for letter in item.name):
            mend = "use letters, digits, -, _ and ."
            raise SettingsError(f'"{item.name}" cannot be the name of a task', mend=mend)
        if names.count(item.name) > 1:
            raise SettingsError(f'two fine-tunes are called "{item.name}"', mend="give each a name of its own")
        if not Path(item.folder).is_dir():
            raise ModelLoadError("there is no such folder", where=str(item.folder), mend="check the path")


def check_records(tuned: Sequence[FineTune], method: str) -> None:
    """Refuse fine-tunes without records, for a method that measures on them.

    Raises:
        SettingsError: one has none.
    """
    for item in tuned:
        if item.records is None or not len(item.records):
            what = f'{method} measures each model on texts of its task, and "{item.name}" has none'
            raise SettingsError(what, where="texts", mend=f"give some, as in --texts {item.name}=FILE")


def check_prompts(tuned: Sequence[FineTune], method: str) -> None:
    """Refuse fine-tunes without prompts, for a method that asks them.

    Raises:
        SettingsError: one has none.
    """
    for item in tuned:
        if not item.asked:
            what = f'{method} asks prompts of each task, and "{item.name}" has none'
            raise SettingsError(what, where="texts", mend=f"give some, as in --texts {item.name}=FILE")


class Deltas:
    """theta_t - theta_0 of one fine-tune, read when asked for.

    >>> Deltas(model, FineTune("math", Path("runs/math"))).of("model.norm.weight")  # doctest: +SKIP
    """

    def __init__(self, model: LanguageModel, tuned: FineTune) -> None:
        """Open the fine-tune and compare it with ``model``, its base.

        Raises:
            StorageError: it was made for another base, does not fit it, or a file is damaged.
            ModelLoadError: the folder holds no weights that could be merged.
        """
        self.name, self.folder = tuned.name, Path(tuned.folder)
        self._base: dict[str, Tensor] = dict(model.model.named_parameters())
        self._products: Factors = {}  # with the scaling in B
        self._transposed = set[str]()
        self._whole: dict[str, Tensor] = {}
        if (self.folder / "change.json").is_file():
            record = ChangeRecord.read(self.folder)
            if record.kind not in KINDS:
                what = (
                    f"what {record.method} made lies beside the weights ({record.kind}), and cannot be merged into them"
                )
                raise ModelLoadError(what, where=str(self.folder), mend="give a change of kind adapter or checkpoint")
            check_base(record, model, self.folder)
        if (self.folder / ADAPTER_FILE).is_file():
            self._open_adapter(model.model)
        else:
            self._take(load_checkpoint(self.folder, model.model))

    def _open_adapter(self, module: Any) -> None:
        config, stored = read_config(self.folder), read_factors(self.folder)
        check_fits(module, stored, self.folder)
        factors = {layer: (a, scaling_in(config, layer, len(a)) * b.double()) for layer, (a, b) in stored.items()}
        magnitudes = read_magnitudes(self.folder)
        if magnitudes:  # rows are scaled as well: no product of two factors
            with added(module, factors, 1.0, magnitudes):
                names = [f"{layer}.weight" for layer in factors]
                self._whole = {name: self._base[name].detach().clone() for name in names}
            return
        for layer, pair in factors.items():
            self._products[f"{layer}.weight"] = pair
            if is_transposed(module.get_submodule(layer)):
                self._transposed.add(f"{layer}.weight")

    def _take(self, loaded: nn.Module) -> None:
        found = dict(loaded.named_parameters())
        for name in self._base:
            if not torch.equal(found[name], self._base[name]):
                self._whole[name] = found[name].detach()

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it moved."""
        return tuple(name for name in self._base if name in self._products or name in self._whole)

    def of(self, name: str) -> Tensor:
        """The difference of one parameter, float32 on its device; zeros where nothing was moved.

        Raises:
            ModelLoadError: it is not finite.
        """
        base = self._base[name].detach()
        if name in self._products:
            a, b = (factor.to(base.device).double() for factor in self._products[name])
            delta = (b @ a).float()
            delta = delta.T.contiguous() if name in self._transposed else delta
        elif name in self._whole:
            delta = self._whole[name].to(base.device).float() - base.float()
        else:
            return torch.zeros_like(base, dtype=torch.float32)
        if not bool(delta.isfinite().all()):
            mend = "train it again, with a lower learning rate"
            raise ModelLoadError(f"{name} of the fine-tune holds NaN or infinity", where=str(self.folder), mend=mend)
        return delta

"""Experts on disk, and the change that they make: ``experts.safetensors`` and ``experts_config.json``.

No other library has a layout for experts with a router trained in place, so this one is our own: per
layer the stacked ``NAME.A`` (experts, rank, in), ``NAME.B`` (experts, out, rank) and ``NAME.router``
(experts, in), and one file with what they have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from keeps.errors import SettingsError, StorageError
from keeps.models.changes import ChangedModel, StoredChange, check_base, copy_files
from keeps.models.experts import ExpertsConfig, WrappedExperts, put_experts
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, is_linear
from keeps.models.logits import check_logits
from keeps.models.settings_files import load_by_layer, write_settings
from keeps.weights.files import save_tensors

EXPERTS_FILE = "experts.safetensors"
CONFIG_FILE = "experts_config.json"
PARTS = ("A", "B", "router")
FORMAT = 1  # raise it when an older reader would misread a newer file
MEND = "run the job again"


def write_experts(folder: Path, wrapped: WrappedExperts, *, base: str) -> None:
    """Write the experts of a wrapped model for the base called ``base``.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    values = {**asdict(wrapped.config), "base_model_name_or_path": base}
    write_settings(folder / CONFIG_FILE, values, number=FORMAT)
    save_tensors(folder / EXPERTS_FILE, wrapped.tensors(), {"format": "pt"})


def read_experts(folder: Path) -> tuple[ExpertsConfig, dict[str, dict[str, Tensor]]]:
    """The configuration, and by layer the tensors ``A``, ``B`` and ``router``.

    Raises:
        StorageError: a file is missing, damaged, of another version, or lacks a tensor.
    """
    config = _read_config(folder / CONFIG_FILE)
    layers = load_by_layer(folder / EXPERTS_FILE)
    for name, parts in layers.items():
        if set(parts) != set(PARTS):
            what = f"layer {name} has the tensors {', '.join(sorted(parts))} and needs {', '.join(PARTS)}"
            raise StorageError(what, where=str(folder / EXPERTS_FILE), mend=MEND)
    return config, layers


def attach_experts(model: Any, folder: Path) -> WrappedExperts:
    """Put the experts in ``folder`` beside the layers of ``model``.

    Raises:
        StorageError: a file is missing or damaged, or a layer is not there or of another size. The model
            is as it was then.
    """
    config, stored = read_experts(folder)
    modules = dict(model.named_modules())
    layers: dict[str, Any] = {}
    for name, parts in stored.items():
        layer: Any = modules.get(name)
        if not (is_linear(layer) and _shapes(name, layer, config) == _shapes_of(parts)):
            mend = "load the base that change.json names, or run the job again"
            raise StorageError(f"the experts do not fit the model's layer {name}", where=str(folder), mend=mend)
        layers[name] = layer
    wrapped = put_experts(model, config, layers)
    with torch.no_grad():
        for name, layer in wrapped.layers.items():
            for part, value in stored[name].items():
                getattr(layer, part).copy_(value)
    return wrapped


class ExpertsChange(StoredChange):
    """Experts with a router, for the untouched base. The gate depends on the token: they cannot be merged."""

    forms: ClassVar[tuple[str, ...]] = ("experts",)
    reason: ClassVar[str] = "which expert a token goes to depends on the token, so no fixed weight holds them all"

    def apply(self, model: LanguageModel) -> ChangedModel:
        """A LanguageModel over ``model``'s base with the experts in place; ``undo()`` takes them out.

        Raises:
            StorageError: the base is not the one that the experts were made for, or a file is damaged.
        """
        check_base(self.record, model, self.folder)
        wrapped = attach_experts(model.model, self.folder)
        undo = partial(wrapped.unwrap)
        return ChangedModel(model, model.model, name=self.folder.name, fingerprint=self.fingerprint, undo=undo)

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del form, final, model
        copy_files(self.folder, folder, EXPERTS_FILE, CONFIG_FILE, "change.json", "README.md")

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        del form
        wrapped = attach_experts(model.model, folder)
        try:
            return check_logits(model.model, model.tokenizer)
        finally:
            wrapped.unwrap()


def _shapes(name: str, layer: nn.Module, config: ExpertsConfig) -> dict[str, tuple[int, ...]]:
    count, ref = len(config.types), ModuleRef.of(name, layer)
    return {
        "A": (count, config.rank, ref.in_features),
        "B": (count, ref.out_features, config.rank),
        "router": (count, ref.in_features),
    }


def _shapes_of(parts: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {part: tuple(tensor.shape) for part, tensor in parts.items()}


def _read_config(path: Path) -> ExpertsConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"there is no {path.name}", where=str(path.parent), mend=MEND) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path.name} cannot be read ({error})", where=str(path), mend=MEND) from None
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        what = f"{path.name} has format {found}, this version of keeps reads format {FORMAT}"
        raise StorageError(what, where=str(path), mend="use the version of keeps that wrote it, or run the job again")
    try:
        fields = {name: values[name] for name in ExpertsConfig.__dataclass_fields__}
        return ExpertsConfig(**{**fields, "types": tuple(int(kind) for kind in fields["types"])})
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        raise StorageError(f"{path.name} is not that of experts ({error})", where=str(path), mend=MEND) from None

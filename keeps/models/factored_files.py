"""Feed-forward layers in pieces on disk, and the change that they make: ``factored.safetensors``, ``factored.json``.

By layer: ``NAME.router`` (experts, width), ``NAME.router_bias`` (experts,), ``NAME.order`` (channels,) where channels
do not keep their order, and where pieces were trained ``NAME.gate``, ``.up``, ``.up_bias`` and ``.down`` in the order
of the pieces. Where they were not the pieces are the base's own numbers, and the file is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from keeps.errors import SettingsError, StorageError, TargetError
from keeps.models.adapters import overwritten
from keeps.models.changes import StoredChange, check_base, copy_files
from keeps.models.checkpoint_files import load_checkpoint, save_checkpoint
from keeps.models.factored_layers import FactorConfig, FactoredFeedForward, WrappedFactored, put_factored
from keeps.models.factored_model import FactoredModel
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.models.settings_files import load_by_layer, read_settings, write_settings
from keeps.weights.files import save_tensors

FACTORED_FILE, CONFIG_FILE = "factored.safetensors", "factored.json"
ROUTER = ("router", "router_bias")
FORMAT = 1  # raise it when an older reader would misread a newer file
MEND = "factorise the model again"


def write_factored(folder: Path, wrapped: WrappedFactored) -> None:
    """Write the pieces of a wrapped model.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in wrapped.layers.items():
        parts = (*ROUTER, *(layer.parts.names if layer.own else ()))
        tensors |= {f"{name}.{part}": getattr(layer, part).detach() for part in parts}
        if layer.order is not None:
            tensors[f"{name}.order"] = layer.order.int()
    save_tensors(folder / FACTORED_FILE, tensors, {"format": "pt"})
    write_settings(folder / CONFIG_FILE, asdict(wrapped.config), number=FORMAT)


def read_factored(folder: Path) -> tuple[FactorConfig, dict[str, dict[str, Tensor]]]:
    """The configuration, and by layer its tensors.

    Raises:
        StorageError: a file is missing, damaged, of another version, or lacks a tensor.
    """
    config = read_settings(folder / CONFIG_FILE, lambda values: FactorConfig(**values), number=FORMAT, mend=MEND)
    layers = load_by_layer(folder / FACTORED_FILE)
    own = {("up" in parts, "down" in parts) for parts in layers.values()}
    whole = all(set(ROUTER) <= parts.keys() for parts in layers.values())
    if not whole or own not in ({(True, True)}, {(False, False)}):
        raise StorageError("a layer lacks some of its tensors", where=str(folder / FACTORED_FILE), mend=MEND)
    return config, layers


def attach_factored(module: Any, folder: Path) -> WrappedFactored:
    """Cut the feed-forward layers of ``module`` into the pieces in ``folder``.

    Raises:
        StorageError: a file is missing or damaged, or a layer is not there or of another size. The model is as it
            was then.
    """
    config, stored = read_factored(folder)
    own = "up" in next(iter(stored.values()))
    orders = {name: parts["order"].long() if "order" in parts else None for name, parts in stored.items()}
    try:
        _check_orders(orders, folder)
        wrapped = put_factored(module, config, orders, own=own, pad=True)
    except (TargetError, IndexError) as error:
        raise _unfit(str(error), folder) from None
    try:
        with torch.no_grad():
            for name, layer in wrapped.layers.items():
                for part in (*ROUTER, *(layer.parts.names if own else ())):
                    target, value = getattr(layer, part), stored[name].get(part)
                    if value is None or value.shape != target.shape:
                        raise _unfit(f"{name}.{part}", folder)
                    target.copy_(value)
                order = orders[name]
                if order is not None and len(order) != layer.parts.channels:
                    raise _unfit(f"{name}.order", folder)
    except BaseException:
        wrapped.unwrap()
        raise
    return wrapped


class FactoredChange(StoredChange):
    """Feed-forward layers in pieces with routers, for the untouched base; merged, all pieces are active."""

    forms: ClassVar[tuple[str, ...]] = ("factored", "merged")
    reason: ClassVar[str] = "which pieces a token uses depends on the token"

    @property
    def trained(self) -> bool:
        """Whether the pieces have weights of their own."""
        return "up" in next(iter(read_factored(self.folder)[1].values()))

    def apply(self, model: LanguageModel) -> FactoredModel:
        """``model`` with its feed-forward layers in pieces; ``undo()`` puts them together bit for bit.

        Raises:
            StorageError: the base is not the one that the pieces were made of, or a file is damaged. The model is as
                it was then.
        """
        check_base(self.record, model, self.folder)
        wrapped = attach_factored(model.model, self.folder)
        name, fingerprint = self.folder.name, self.fingerprint
        return FactoredModel(model, wrapped, name=name, fingerprint=fingerprint, undo=wrapped.unwrap)

    def check_form(self, form: str) -> None:
        """As for every change; ``"merged"`` needs pieces that were trained: others make the base again."""
        super().check_form(form)
        if form == "merged" and not self.trained:
            what = 'form "merged" would write the base again: the pieces were not trained'
            raise SettingsError(what, where=self.record.method, mend='train "router+experts", or use form "factored"')

    def _write(self, form: str, folder: Path, final: Path, model: LanguageModel) -> None:
        del final
        if form == "factored":
            copy_files(self.folder, folder, FACTORED_FILE, CONFIG_FILE, "change.json", "README.md")
            return
        wrapped = attach_factored(model.model, self.folder)
        values = dict(dense_weights(wrapped))
        wrapped.unwrap()
        with overwritten(dict(model.model.named_parameters()), values.items()):
            save_checkpoint(model.model, model.tokenizer, folder)

    def _logits_of(self, form: str, folder: Path, model: LanguageModel) -> list[Tensor]:
        if form == "merged":  # all pieces are active: the difference is what routing costs or gains
            return check_logits(load_checkpoint(folder, model.model), model.tokenizer)
        wrapped = attach_factored(model.model, folder)
        try:
            return check_logits(model.model, model.tokenizer)
        finally:
            wrapped.unwrap()


def dense_weights(wrapped: WrappedFactored) -> Iterator[tuple[str, Tensor]]:
    """Parameters of the base by name, as the pieces make them: blocks in a row, channels in their own order."""
    for layer in wrapped.layers.values():
        parts = layer.parts
        refs = {"gate": parts.gate_ref, "up": parts.up_ref, "up_bias": parts.up_ref, "down": parts.down_ref}
        for part, tensor in unordered(layer).items():
            ref = refs[part]
            assert ref is not None
            if part == "up_bias":
                yield f"{ref.name}.bias", tensor
            else:
                yield f"{ref.name}.weight", tensor.T if ref.transposed else tensor


def unordered(layer: FactoredFeedForward) -> dict[str, Tensor]:
    """The pieces' tensors with their channels in the base's order, padding left out."""
    channels = layer.parts.up_ref.out_features
    back = torch.arange(layer.parts.channels) if layer.order is None else layer.order.cpu().argsort()
    found: Mapping[str, Tensor] = layer.pieces()
    cut = back[:channels]
    return {
        name: (tensor[:, cut.to(tensor.device)] if name == "down" else tensor[cut.to(tensor.device)]).detach()
        for name, tensor in found.items()
    }


def _check_orders(orders: Mapping[str, Tensor | None], folder: Path) -> None:
    for name, order in orders.items():
        if order is not None and not torch.equal(order.sort().values, torch.arange(order.numel())):
            raise _unfit(f"{name}.order, which is no order", folder)


def _unfit(what: str, folder: Path) -> StorageError:
    mend = f"load the base that change.json names, or {MEND}"
    return StorageError(f"the pieces do not fit the model ({what})", where=str(folder), mend=mend)

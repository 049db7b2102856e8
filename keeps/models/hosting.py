"""Several adapters on one base in memory, one of them on at a time: switched without reading anything again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from keeps.models.adapter_files import check_fits, read_config, read_factors
from keeps.models.adapters import restore_trainable, trainable_flags
from keeps.models.language_model import LanguageModel
from keeps.models.tokens import TextEncoder


class AdapterHost:
    """Adapters that hang on a base; none is on but inside :meth:`using`."""

    def __init__(self, model: LanguageModel, peft_model: Any, names: Mapping[str, str]) -> None:
        self._model, self._peft, self._names = model, peft_model, names

    @contextmanager
    def using(self, name: str) -> Iterator[LanguageModel]:
        """The base with the adapter called ``name`` on, as a model that completes texts."""
        self._peft.base_model.enable_adapter_layers()
        try:
            self._peft.set_adapter(self._names[name])
            yield completing(self._model, name)
        finally:
            self._peft.base_model.disable_adapter_layers()


@contextmanager
def hosted(model: LanguageModel, folders: Mapping[str, Path]) -> Iterator[AdapterHost]:
    """Hang the adapters in ``folders`` (plain peft folders) on ``model``, and take them off on leaving.

    Inside the block ``model`` itself answers as it did, bit by bit: all adapters are off. Whether they were made for
    this base is for the caller to check (:func:`keeps.models.changes.check_base`).

    Args:
        folders: at least one, by name.

    Raises:
        StorageError: a folder is damaged, or its layers are not those of ``model``; the model is as it was then.
    """
    from peft import PeftModel

    module = model.model
    for folder in folders.values():  # before peft has touched the module
        read_config(folder)
        check_fits(module, read_factors(folder), folder)
    trainable, training = trainable_flags(module), module.training
    names = {name: f"adapter_{number}" for number, name in enumerate(folders)}  # peft takes no name with a full stop
    (first, *others) = folders
    peft_model: Any = None
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws factors before it reads the stored ones
            peft_model = PeftModel.from_pretrained(module, str(folders[first]), adapter_name=names[first])
            for name in others:
                peft_model.load_adapter(str(folders[name]), adapter_name=names[name])
        peft_model.eval()
        peft_model.base_model.disable_adapter_layers()
        yield AdapterHost(model, peft_model, names)
    finally:
        if peft_model is not None:
            base = peft_model.unload()
            restore_trainable(base, trainable)
            base.train(training)


def completing(model: LanguageModel, name: str) -> LanguageModel:
    """``model`` as one that goes on from a text, whatever its own ``chat`` mode; the weights are the same ones."""
    plain = copy.copy(model)  # of its own kind, since some kinds of change answer in a way of their own
    plain.encoder, plain.name = TextEncoder(model.tokenizer, "never"), name
    return plain

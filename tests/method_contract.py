"""What the contracts of the verbs share: tensors of a folder, forms of a change, a model that is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from keeps.errors import KeepsError
from keeps.models import LanguageModel
from keeps.weights import load_tensors


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a run's folder."""
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_tensors(path).items()}


def has_form(change: Any, form: str) -> bool:
    """Whether a change can be written in a form."""
    try:
        change.check_form(form)
    except KeepsError:
        return False
    return True


@contextmanager
def left_alone(model: LanguageModel) -> Iterator[None]:
    """``model`` must be bit by bit the same afterwards, and train as little as before."""
    module = model.model
    before, flags = model.fingerprint, [parameter.requires_grad for parameter in module.parameters()]
    yield
    assert model.fingerprint == before
    assert [parameter.requires_grad for parameter in module.parameters()] == flags
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not module.training

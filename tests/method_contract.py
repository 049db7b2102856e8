"""What the contracts of the verbs share: short runs, tensors of a folder, forms of a change, a model left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from keeps.contracts import Run
from keeps.errors import KeepsError
from keeps.models import LanguageModel
from keeps.registry import find_method
from keeps.weights import load_tensors

QUICK: Mapping[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}


@dataclass
class Runs(ABC):
    """Runs methods of one verb on a model, each in a folder of its own, and few steps long."""

    verb: ClassVar[str]
    model: LanguageModel
    folder: Path
    count: int = 0

    @abstractmethod
    def data(self) -> tuple[Any, Any]:
        """The two sets of records that a method of the verb is called with."""

    def run(
        self, method: str, *, seed: int = 0, folder: Path | None = None, resume: bool = False, **settings: Any
    ) -> tuple[Any, Run]:
        """The change that ``method`` makes, and its run; in a new folder unless one is given."""
        if folder is None:
            self.count += 1
            folder = self.folder / f"run{self.count}"
            folder.mkdir()
        info = find_method(method, self.verb)
        run = Run(folder, seed=seed, resume=resume)
        quick = {key: value for key, value in QUICK.items() if key in {field.name for field in info.settings.fields()}}
        implementation = info.implementation(info.settings.from_mapping({**quick, **settings}))
        return implementation(self.model, *self.data(), run=run), run


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

"""LoRA adapters that differ only in where A and B start: one base class, on which a method is one function.

A subclass says the start of every target layer. Two kinds are told apart by B0 alone. Where B0 is not zero
the frozen weight becomes W - s B0 A0, and what is written is a LoRA of rank 2r for the untouched base; where
B0 = 0 the weight stays as it is and the rank is r. Either way step 0 equals the base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.adapters import WrappedModel
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import check_dense, find_targets, layer_ranks
from keeps.numerics.oriented import AdapterStart
from keeps.training.adapter import AdapterSettings, set_starts, stored_starts, train_and_write, wrap

if TYPE_CHECKING:
    from keeps.registry import MethodInfo


class InitialisedAdapter(ABC):
    """A method whose subclasses say where A and B start, and nothing else.

    >>> class Mine(InitialisedAdapter):
    ...     def starts(self, model, learn, keep, run):
    ...         return {}  # layer name -> AdapterStart
    """

    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings
    info: ClassVar[MethodInfo]  # set by the decorator ``method``

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings = settings

    @abstractmethod
    def starts(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None, run: Run
    ) -> dict[str, AdapterStart]:
        """A0 and B0 of every layer that gets an adapter, by the layer's name; ``model`` is left as it is.

        Must depend on its arguments and ``run.seed`` alone. It is not called again when a run is resumed.
        """

    def check(self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None) -> None:
        """Refuse what cannot work before any long work; subclasses add their own.

        Raises:
            TargetError: a target matches nothing, a rank does not fit, or a weight is quantised.
        """
        del learn, keep
        check_dense(find_targets(model.model, self.settings.targets))
        self.settings.check_model(model)

    def layout(self, model: LanguageModel, starts: Mapping[str, AdapterStart], run: Run) -> AdapterSettings:
        """The settings to wrap with; for methods whose starts bring ranks and layers of their own."""
        del model, starts, run
        return self.settings

    def data(self, learn: RecordSet, keep: RecordSet | None) -> dict[str, str]:
        """The fingerprints of the data that the result depends on."""
        del keep
        return {"learn": learn.fingerprint}

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Find the starts (or take those of the interrupted run), train, and write a peft folder.

        Raises:
            TargetError: a target matches nothing, a rank does not fit, or a weight is quantised.
            StorageError: the folder is not writable, or holds the starts of another job.
        """
        self.check(model, learn, keep)
        starts = stored_starts(run) or self.starts(model, learn, keep, run)
        wrapped: WrappedModel = wrap(model, self.layout(model, starts, run), seed=run.seed)
        set_starts(wrapped, starts, run)
        data = self.data(learn, keep)
        return train_and_write(model, wrapped, learn, self.settings, run, method=self.info.name, data=data)


class WeightStart(InitialisedAdapter):
    """A method that starts from each weight alone, without data."""

    def starts(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None, run: Run
    ) -> dict[str, AdapterStart]:
        """The start of every target layer, one after the other."""
        del learn, keep
        layers = find_targets(model.model, self.settings.targets)
        ranks = layer_ranks(layers, self.settings.rank, self.settings.rank_pattern)
        found = {}
        with run.progress.task("decompose", len(layers)) as task:
            for name, layer in layers.items():
                found[name] = self.start(layer.weight.detach(), ranks[name])
                task.advance()
        return found

    @abstractmethod
    def start(self, weight: Tensor, rank: int) -> AdapterStart:
        """A0 and B0 of one layer from its weight, (out, in)."""

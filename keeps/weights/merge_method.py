"""What a way to merge models is: a function of one piece of a tensor, and what must be known of the whole before.

The engine reads a piece of every model, hands it over as a :class:`Chunk`, and writes what comes back; no tensor is
ever whole in memory. A method is one file in ``keeps/merge`` with a settings dataclass and a class::

    @method("halfway", verb="merge", paper="", summary="Halfway from the base to the mean.", card="mergekit_peer",
            needs=())
    class Halfway(MergeMethod):
        Settings = MergeSettings
        needs_base = True

        def merge(self, chunk: Chunk) -> Merged:
            return Merged(added(chunk.base, 0.5 * chunk.deltas.mean(axis=0)))

Whatever it needs of a whole tensor (norms, products, thresholds), or of all tensors together, it declares as
:class:`Stage` objects, which the engine runs over the same pieces first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from keeps.errors import SettingsError
from keeps.settings import Settings, setting
from keeps.weights.halves import Floats, rounded_to
from keeps.weights.random_masks import bernoulli

BLOCK = 4096  # elements that are summed together; pieces are cut at multiples, so that sums do not depend on them
FLUSH = np.float32(0)


@dataclass(frozen=True)
class TensorInfo:
    """The tensor that a piece belongs to, and the settings that hold for it.

    Attributes:
        numel: elements of the tensor; in a stage over the whole model, of all tensors that are merged.
        values: name -> one value a model (of settings that differ by model), or one value.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    models: int
    values: Mapping[str, Any]

    def of_each(self, name: str) -> NDArray[np.float64]:
        """A setting by model, float64 ``(models,)``."""
        return np.broadcast_to(np.asarray(self.values[name], dtype=np.float64), (self.models,))


@dataclass
class Chunk:
    """A piece of one tensor of every model.

    Attributes:
        start: position of its first element in the flattened tensor.
        tuned: float32 ``(models, n)``.
        base: float32 ``(n,)``; None where the method takes no base model.
        stats: what the stages before found, by their names.
        delta_kind: element type that differences are rounded to ("F32": not at all).
    """

    tensor: TensorInfo
    start: int
    tuned: Floats
    base: Floats | None
    seed: int = 0
    stats: Mapping[str, Any] = field(default_factory=dict)
    delta_kind: str = "F32"

    @cached_property
    def deltas(self) -> Floats:
        """The models less the base, float32 ``(models, n)``: pieces of the task vectors."""
        assert self.base is not None, "a method that uses deltas says needs_base"
        if self.delta_kind == "F32":
            return self.tuned - self.base
        return rounded_to(
            rounded_to(self.tuned, self.delta_kind) - rounded_to(self.base, self.delta_kind), self.delta_kind
        )

    def of_each(self, name: str) -> Floats:
        """A setting by model as a float32 column ``(models, 1)``."""
        return self.tensor.of_each(name).astype(np.float32)[:, None]

    def one(self, name: str) -> Any:
        """A setting that is the same for all models."""
        return self.tensor.values[name]

    def random_mask(self, shares: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Independent masks ``(models, n)``, true with the probability of each model in ``shares`` ``(models,)``.

        An element's draw depends on seed, model, tensor and place only.
        """
        count = self.tuned.shape[1]
        rows = [bernoulli(self.seed, m, self.tensor.name, self.start, count, s) for m, s in enumerate(shares)]
        return np.stack(rows)


@dataclass(frozen=True)
class Merged:
    """A merged piece.

    Attributes:
        values: float32 ``(n,)``.
        surviving: bool ``(models, n)``: entries of the task vectors that the method did not drop; None: all of them.
    """

    values: Floats
    surviving: NDArray[np.bool_] | None = None


class Stage(ABC):
    """A measurement of whole tensors, or of the whole model, made piece by piece before anything is merged.

    Attributes:
        name: under which its finding stands in ``Chunk.stats``.
        whole_model: over all tensors together instead of each alone; these come first.
        sampled: it sees some pieces of a tensor only, spread evenly.
    """

    name: ClassVar[str]
    whole_model: bool = False
    sampled: ClassVar[bool] = False

    def needed(self, stats: Mapping[str, Any]) -> bool:
        """Whether it has to be made, by what was found before."""
        del stats
        return True

    @abstractmethod
    def measure(self, chunk: Chunk) -> Any:
        """Of one piece, to be put together by :func:`total_of`.

        Counts (whole numbers, or what has a ``+=`` of its own) are added up; :func:`block_sums` ``(k, blocks)`` are
        summed exactly.
        """

    @abstractmethod
    def finish(self, total: Any, tensor: TensorInfo, stats: Mapping[str, Any]) -> Any:
        """The finding, from the added counts or the sums ``(k,)`` float64; ``stats`` are those of earlier stages."""


def block_sums(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Sums ``(k, blocks)`` of every :data:`BLOCK` elements of ``rows`` ``(k, n)``, in float64.

    The engine adds them up without rounding, so that a sum does not depend on where a tensor was cut.
    """
    count = rows.shape[1]
    whole = count - count % BLOCK
    parts = [np.add.reduce(rows[:, :whole].reshape(len(rows), -1, BLOCK), axis=2, dtype=np.float64)]
    if whole < count:
        parts.append(np.add.reduce(rows[:, whole:], axis=1, dtype=np.float64)[:, None])
    return np.concatenate(parts, axis=1)


def total_of(pieces: Iterable[Any]) -> Any:
    """All pieces of a stage together: block sums summed exactly, anything else added up as it comes."""
    counts, sums = None, []
    for piece in pieces:
        if isinstance(piece, np.ndarray) and piece.dtype.kind == "f":
            sums.append(piece)
        elif counts is None:
            counts = piece
        else:
            counts += piece
    if counts is not None:
        return counts
    return np.array([math.fsum(row) for row in np.concatenate(sums, axis=1)])


def added(base: Floats, update: Floats) -> Floats:
    """``base + update``; where nothing is added the very bits of ``base`` stay, the sign of a zero included."""
    result = base + update
    if (base == FLUSH).any():  # a base that is not zero stays as it is when a zero is added
        np.copyto(result, base, where=update == FLUSH)
    return result


def weighted_sum(weights: Floats, rows: Floats) -> Floats:
    """``sum_m weights[m] rows[m]``, float32 ``(n,)``, added in the order of the models.

    Args:
        weights: float32 ``(models, 1)``.
        rows: float32 ``(models, n)``.
    """
    total = weights[0] * rows[0]
    for weight, row in zip(weights[1:], rows[1:], strict=True):
        total += weight * row
    return total


@dataclass(frozen=True, kw_only=True)
class MergeSettings(Settings):
    """Settings of every merge: none."""


@dataclass(frozen=True, kw_only=True)
class WeightedSettings(MergeSettings):
    """Settings of merges that can favour a model."""

    weights: tuple[float, ...] = setting((), "Weight of each model, in their order; none: 1 each")

    def check(self) -> None:
        """Weights are finite."""
        if not all(math.isfinite(weight) for weight in self.weights):
            raise SettingsError("a weight is not finite", where="weights", mend="give one number for each model")


@dataclass(frozen=True, kw_only=True)
class DeltaSettings(WeightedSettings):
    """Settings of merges that add task vectors to a base."""

    scale: float = setting(0.3, "Factor of what is added to the base", ge=-10, le=10)


class MergeMethod(ABC):
    """Base of the classes in ``keeps/merge``; see the top of this file.

    Attributes:
        needs_base: the method works on differences from a base model.
        by_model: settings that may differ by model, as mergekit's YAML names them; ``weight`` always may.
        implied: what mergekit does where a YAML file says nothing, in our settings.
    """

    Settings: ClassVar[type[MergeSettings]] = MergeSettings
    needs_base: ClassVar[bool] = False
    fewest: ClassVar[int] = 1
    most: ClassVar[int | None] = None
    by_model: ClassVar[tuple[str, ...]] = ()
    implied: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, settings: MergeSettings) -> None:
        self.settings = settings

    def stages(self) -> Sequence[Stage]:
        """What must be measured first, in order; those over the whole model come first."""
        return ()

    @abstractmethod
    def merge(self, chunk: Chunk) -> Merged:
        """The merged piece. A pure function of ``chunk``: the same whatever else is computed, and where."""

    def values(self, models: int) -> dict[str, Any]:
        """The settings as values of a tensor: one ``weight`` a model, the others as they are.

        Raises:
            SettingsError: the weights are not as many as the models.
        """
        found = {info.name: getattr(self.settings, info.name) for info in self.settings.fields()}
        weights = found.pop("weights", ()) or (1.0,) * models
        if len(weights) != models:
            what = f"{len(weights)} weights for {models} models"
            raise SettingsError(what, where="weights", mend="give one weight for each model, or none")
        return {"weight": weights, **found}

    @classmethod
    def from_yaml(cls, key: str, value: Any) -> tuple[str, Any] | None:
        """A parameter of mergekit's YAML as a setting of ours; None where there is no such thing.

        >>> MergeMethod.from_yaml("weight", 0.5)
        ('weight', 0.5)
        """
        known = {"weight", *(info.name for info in cls.Settings.fields())} - {"weights"}
        name = {"lambda": "scale"}.get(key, key)
        return (name, value) if name in known else None

    def check_models(self, name: str, models: int, base: bool) -> None:
        """Refuse a number of models that the method does not take.

        Raises:
            SettingsError: too few, too many, or a base is missing.
        """
        if self.needs_base and not base:
            mend = "name the model that all of them started from with --base"
            raise SettingsError(f"{name} adds task vectors, and needs a base model", where="base", mend=mend)
        if models < self.fewest or (self.most is not None and models > self.most):
            wanted = f"{self.fewest}" if self.most == self.fewest else f"{self.fewest} or more"
            what = f"{name} takes {wanted} models beside the base, not {models}"
            raise SettingsError(what, where="models", mend="name another number of models, or another method")

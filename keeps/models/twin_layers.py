"""A model whose weights depend on the row: theta_s + sum_t w_t v_t, with another w for every row of a batch.

Nothing is materialised. Beside a linear layer with the task parts U_t diag(s_t) V_t^T runs

    y = W_s x + sum_t w_t U_t (s_t * (V_t^T x))

with all tasks in one product, and every row's own w multiplied in between (Twin-Merging, arXiv:2406.15479, whose
published code takes one row at a time). Norms are affine in their vectors, so they are computed once a task and mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.errors import TargetError
from keeps.models import projection
from keeps.models.adapters import put_back
from keeps.models.locate import is_linear, is_transposed
from keeps.models.projection import Reading, reading_of
from keeps.numerics.twin import LowRank

Part = LowRank | Tensor  # of a matrix, or a vector kept exactly
NO_CACHE = "_keeps_reading"


class Mixture:
    """The weights of the rows under way: ``(rows, tasks)``, ``(1, tasks)`` for all rows alike, or None: all zero."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.rows: Tensor | None = None

    @contextmanager
    def of(self, rows: Tensor) -> Iterator[None]:
        """Use ``rows`` inside the block.

        Raises:
            TargetError: they are not one weight a task.
        """
        if rows.dim() != 2 or rows.shape[1] != self.tasks:
            raise TargetError(f"weights of shape {tuple(rows.shape)} for {self.tasks} tasks", mend="give (rows, tasks)")
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before

    def like(self, x: Tensor, *, spread: bool = False) -> Tensor:
        """The weights in the dtype of ``x`` ``(rows, ..., width)``, as ``(rows or 1, 1, ..., tasks)``.

        Args:
            spread: one row of ``x`` may stand for all, as the vectors of positions do.

        Raises:
            TargetError: they are for another number of rows.
        """
        assert self.rows is not None
        if self.rows.shape[0] not in (1, x.shape[0]) and not (spread and x.shape[0] == 1):
            what = f"weights for {self.rows.shape[0]} rows, and the layer sees {x.shape[0]}"
            raise TargetError(what, mend="feed whole rows, one for each row of weights")
        weights = self.rows.to(x.device, x.dtype)
        return weights.reshape(weights.shape[0], *(1,) * (x.dim() - 2), self.tasks)


class TwinModule(nn.Module):
    """A layer of the shared expert with the exclusive parts of all tasks beside it; one of the three below."""

    def __init__(self, base: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.base_layer, self.mixture = base, mixture
        self.train(base.training)

    def _low_rank(self, parts: Mapping[int, LowRank], tasks: int, like: Tensor) -> None:
        """Stack the parts: ``left (rows, R)``, ``right (R, columns)`` with s in it, and who owns each of the R."""
        empty = LowRank(like.new_zeros(like.shape[0], 0), like.new_zeros(0), like.new_zeros(like.shape[1], 0))
        every = [parts.get(task, empty) for task in range(tasks)]
        for part in every:
            if (part.u.shape[0], part.v.shape[0]) != tuple(like.shape):
                raise TargetError(f"a part of {part.u.shape[0]} x {part.v.shape[0]} for {tuple(like.shape)}")
        owner = torch.tensor([task for task, part in enumerate(every) for _ in range(part.rank)], dtype=torch.long)
        self.register_buffer("left", torch.cat([part.u.to(like) for part in every], 1), persistent=False)
        right = torch.cat([(part.v * part.s).T.to(like) for part in every])
        self.register_buffer("right", right, persistent=False)
        self.register_buffer("owner", owner.to(like.device), persistent=False)


class TwinLinear(TwinModule):
    """Beside a linear layer (either layout). ``x`` is ``(rows, ..., in)``."""

    left: Tensor
    right: Tensor
    owner: Tensor
    shifts: Tensor | None

    def __init__(
        self, base: nn.Module, mixture: Mixture, parts: Mapping[int, LowRank], shifts: Mapping[int, Tensor]
    ) -> None:
        super().__init__(base, mixture)
        weight = cast(Tensor, base.weight).detach()
        if is_transposed(base):  # stored as (in, out), and computed as x W
            weight, parts = weight.T, {task: LowRank(part.v, part.s, part.u) for task, part in parts.items()}
        self._low_rank(parts, mixture.tasks, weight)
        rows = [shifts.get(task, weight.new_zeros(weight.shape[0])).to(weight) for task in range(mixture.tasks)]
        self.register_buffer("shifts", torch.stack(rows) if shifts else None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The shared expert's weight, for code that asks a linear layer for its dtype or device."""
        return cast(Tensor, self.base_layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The shared expert's bias."""
        return cast("Tensor | None", self.base_layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, ..., in)`` to ``(rows, ..., out)``."""
        y = self.base_layer(x)
        if self.mixture.rows is None:
            return y
        weights = self.mixture.like(x)
        low = nn.functional.linear(x, self.right) * weights[..., self.owner]
        y = y + nn.functional.linear(low, self.left)
        return y if self.shifts is None else y + weights @ self.shifts.to(weights)


class TwinEmbedding(TwinModule):
    """Beside an embedding. ``ids`` is ``(rows, time)``."""

    left: Tensor
    right: Tensor
    owner: Tensor

    def __init__(self, base: nn.Embedding, mixture: Mixture, parts: Mapping[int, LowRank]) -> None:
        super().__init__(base, mixture)
        self._low_rank(parts, mixture.tasks, base.weight.detach())

    @property
    def weight(self) -> Tensor:
        """The shared expert's table."""
        return cast(Tensor, self.base_layer.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """``(rows, time)`` to ``(rows, time, width)``."""
        y = self.base_layer(ids)
        if self.mixture.rows is None:
            return y
        low = nn.functional.embedding(ids, self.left)
        scale = getattr(self.base_layer, "embed_scale", 1.0)  # Gemma multiplies what it looks up
        return y + scale * ((low * self.mixture.like(low, spread=True)[..., self.owner]) @ self.right)


class TwinNorm(TwinModule):
    """Beside a norm, whose output is affine in its vectors: sum_t w_t (f(theta_s + v_t) - f(theta_s)) is added."""

    def __init__(self, base: nn.Module, mixture: Mixture, vectors: Mapping[str, Mapping[int, Tensor]]) -> None:
        super().__init__(base, mixture)
        self.vectors: dict[int, dict[str, Tensor]] = {}
        for name, by_task in vectors.items():
            shared = cast(Tensor, getattr(base, name)).detach()
            for task, vector in by_task.items():
                self.vectors.setdefault(task, {})[name] = (shared.float() + vector.to(shared.device)).to(shared.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, ..., width)`` to the same."""
        y = self.base_layer(x)
        if self.mixture.rows is None:
            return y
        weights, total = self.mixture.like(x), y
        for task, vectors in self.vectors.items():
            own = torch.func.functional_call(self.base_layer, vectors, (x,))
            total = total + weights[..., task : task + 1] * (own - y)
        return total


@dataclass
class Twin:
    """A model with exclusive parts beside its layers, and the means to take them out again."""

    module: Any
    mixture: Mixture
    layers: dict[str, TwinModule] = field(default_factory=dict)

    @contextmanager
    def mixed(self) -> Iterator[None]:
        """Rows with weights of their own may be fed: no beginning is shared between them, nothing is cached."""
        found = reading_of(self.module)
        base: Any = projection.unwrapped(self.module)
        head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        setattr(base, NO_CACHE, Reading(found.projection and not isinstance(head, TwinModule), cache=False))
        try:
            yield
        finally:
            setattr(base, NO_CACHE, found)

    def unwrap(self) -> Any:
        """Put the layers back, which nothing has touched; a second call does nothing."""
        put_back(self.module, self.layers)
        self.layers = {}
        return self.module


def wrap_twin(module: Any, parts: Sequence[Mapping[str, Part]]) -> Twin:
    """Put the exclusive parts of each task beside the layers of ``module``, which holds the shared expert.

    Args:
        parts: a mapping for each task, from the parameter's name to its part; a tied parameter counts once and
            acts in every layer that has it.

    Raises:
        TargetError: a part belongs to no linear layer, embedding or norm, or is of another shape. The module is as
            it was then.
    """
    twin = Twin(module, Mixture(len(parts)))
    canonical = {id(parameter): name for name, parameter in module.named_parameters()}
    wanted = {name for task in parts for name in task}
    found: dict[str, dict[str, dict[int, Part]]] = {}  # layer -> its own parameter -> task -> part
    for layer, owner in list(module.named_modules()):
        for own, parameter in owner.named_parameters(recurse=False):
            name = canonical[id(parameter)]
            here = {task: mapping[name] for task, mapping in enumerate(parts) if name in mapping}
            if here:
                found.setdefault(layer, {})[own] = here
    covered = {
        canonical[id(getattr(module.get_submodule(layer), own))] for layer, all_of in found.items() for own in all_of
    }
    if covered != wanted:
        odd = sorted(wanted - covered)[0]
        raise TargetError(f"the model has no parameter {odd}", mend="load the base that change.json names")
    try:
        for layer, by_parameter in found.items():
            wrapped = _wrapped(layer, module.get_submodule(layer), twin.mixture, by_parameter)
            module.set_submodule(layer, wrapped)
            twin.layers[layer] = wrapped
    except BaseException:
        twin.unwrap()
        raise
    return twin


def _wrapped(layer: str, owner: nn.Module, mixture: Mixture, parts: Mapping[str, Mapping[int, Part]]) -> TwinModule:
    low = {own: {t: p for t, p in by.items() if isinstance(p, LowRank)} for own, by in parts.items()}
    vectors = {own: {t: p for t, p in by.items() if isinstance(p, Tensor)} for own, by in parts.items()}
    low = {own: by for own, by in low.items() if by}
    vectors = {own: by for own, by in vectors.items() if by}
    if is_linear(owner) and not low.keys() - {"weight"} and not vectors.keys() - {"bias"}:
        return TwinLinear(owner, mixture, low.get("weight", {}), vectors.get("bias", {}))
    if isinstance(owner, nn.Embedding) and not vectors:
        return TwinEmbedding(owner, mixture, low["weight"])
    if "norm" in type(owner).__name__.lower() and not low:
        return TwinNorm(owner, mixture, vectors)
    raise TargetError(
        f"parts of {', '.join(sorted(parts))} cannot act for a row alone",
        where=f"{layer} ({type(owner).__name__})",
        mend="leave the parameter out with exclude",
    )

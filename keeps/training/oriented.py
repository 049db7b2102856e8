"""Adapters that start from a model's own weights, oriented by covariances: from statistics to starts.

What CorDA (arXiv:2406.05223) and CorDA++ (arXiv:2506.13187) do between collecting covariances and
training: decompose every layer, choose among several covariances, share ranks out over layers. Nothing
is trained here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from keeps.errors import SettingsError, StatisticsError, UnknownNameError, nearest
from keeps.models.adapters import WrappedModel, wrap_lora
from keeps.models.targets import ALL_LINEAR, check_dense, find_targets, layer_ranks
from keeps.numerics.covariance import Covariance
from keeps.numerics.oriented import MODES, AdapterStart, Damped, damped, oriented_start, oriented_values, plain_start
from keeps.numerics.spectrum import allocated_ranks, held, rank_bounds
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings

START_OPTIONS = ("balance", "damping", "dropout", "orientation", "rank_stabilised")  # of :func:`init_adapter`
RANK_CAP = 2.0  # as in EVA (arXiv:2410.07170), which redistributes ranks too
Starts = dict[str, AdapterStart]


@dataclass(frozen=True, kw_only=True)
class OrientedSettings(AdapterSettings):
    """Settings that decide where A and B start."""

    mode: str = setting("kpm", "kpm keeps what the keep set uses; ipm learns the learn set fastest", choices=MODES)
    balance: bool = setting(False, "Scale A and B of a layer to equal norms; B A is unchanged")
    rank_allocation: str = setting(
        "uniform",
        "One rank for all layers, or by the compactness of their spectra at the same number of trained parameters",
        choices=("uniform", "compactness"),
    )
    rank_cap: float = setting(
        RANK_CAP, "With rank_allocation compactness a layer gets rank / cap to rank * cap", gt=1, le=64, advanced=True
    )
    orientation: str = setting(
        "covariance", "Decompose W C' as published, or W C'^1/2 (root)", choices=("covariance", "root"), advanced=True
    )
    damping: str = setting(
        "float64",
        "Arithmetic of the damping loop (float32 as in the official code)",
        choices=("float64", "float32"),
        advanced=True,
    )

    def check(self) -> None:
        """Refuse ranks that are both given and allocated, and a cap that is not used."""
        if self.allocates and self.rank_pattern:
            what = "rank_pattern gives ranks that rank_allocation would choose"
            raise SettingsError(what, mend='leave rank_pattern out, or choose rank_allocation "uniform"')
        if not self.allocates and self.rank_cap != RANK_CAP:
            what = 'rank_cap does nothing with rank_allocation "uniform"'
            raise SettingsError(what, mend='choose rank_allocation "compactness", or leave rank_cap out')

    @property
    def allocates(self) -> bool:
        """Whether layers get ranks of their own."""
        return self.rank_allocation == "compactness"

    @property
    def largest(self) -> bool:
        """Whether the adapter takes the largest components."""
        return self.mode == "ipm"


def adapter_starts(
    model: Any, covariances: Mapping[str, Covariance], settings: OrientedSettings, *, advance: Any = None
) -> Starts:
    """The start of every target layer; C' is formed once for layers that share a covariance.

    Raises:
        TargetError: a target matches nothing, a rank does not fit, or a weight is quantised.
        StatisticsError: a layer's covariance is missing, not finite or of the wrong size.
    """
    return allocated(model, most_compact(model, [covariances], settings, advance=advance), settings)


def most_compact(
    model: Any, candidates: Iterable[Mapping[str, Covariance]], settings: OrientedSettings, *, advance: Any = None
) -> Starts:
    """For every layer the start from that candidate whose spectrum is most compact at the uniform rank.

    ``candidates`` are read one after the other, so only one collection need be in memory. Starts have as many
    components as the allocation may ask for; :func:`allocated` cuts them.
    """
    layers = find_targets(model, settings.targets)
    check_dense(layers)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    wide = {name: _bounds(settings, layer)[1] if settings.allocates else ranks[name] for name, layer in layers.items()}
    best: Starts = {}
    shares: dict[str, float] = {}
    for covariances in candidates:
        for name, start in _decomposed(layers, covariances, wide, settings):
            share = held(start.cut(ranks[name], largest=settings.largest).values, start.energy)
            if name not in best or (share > shares[name] if settings.largest else share < shares[name]):
                best[name], shares[name] = start, share
            if advance:
                advance(1)
    return best


def allocated(model: Any, starts: Mapping[str, AdapterStart], settings: OrientedSettings) -> Starts:
    """The starts cut to the ranks of ``settings.rank_allocation``; as they are where it is uniform."""
    if not settings.allocates:
        return dict(starts)
    layers = find_targets(model, settings.targets)
    costs = {name: layer.in_features + layer.out_features for name, layer in layers.items()}
    shares = {}
    for name, start in starts.items():
        values = start.values if settings.largest else start.values.flip(0)  # the first to be taken in front
        shares[name] = values.square() / max(start.energy, torch.finfo(torch.float64).tiny)
    bounds = {name: _bounds(settings, layer) for name, layer in layers.items()}
    budget = settings.rank * sum(costs.values())
    ranks = allocated_ranks(shares, costs, bounds, budget, largest=settings.largest)
    return {
        name: start.cut(ranks[name], largest=settings.largest, balance=settings.balance)
        for name, start in starts.items()
    }


def ranks_of(starts: Mapping[str, AdapterStart]) -> dict[str, int]:
    """The rank of every start: what ``rank_pattern`` must say of an adapter that takes them."""
    return {name: len(start.values) for name, start in starts.items()}


def init_adapter(
    model: Any,
    targets: Sequence[str] = (ALL_LINEAR,),
    r: int = 16,
    alpha: float | None = None,
    method: str = "corda",
    mode: str = "kpm",
    covariance: Mapping[str, Covariance] | None = None,
    rank_pattern: Mapping[str, int] | None = None,
    **options: Any,
) -> WrappedModel:
    """Wrap any transformers model with an adapter that starts from its own weights; nothing is trained.

    Args:
        model: a causal language model; its target weights become residuals (``unwrap()`` restores them).
        method: ``"corda"`` with ``covariance``, or ``"plain"``: the same cut without a context, which
            is PiSSA for ``mode="ipm"`` and MiLoRA for ``mode="kpm"``.
        options: ``balance``, ``orientation``, ``damping``, ``dropout`` or ``rank_stabilised``, as in
            :class:`keeps.adapt.corda.CorDASettings`.

    Returns:
        The wrapped model: ``.peft_model`` to train, ``.unwrap()`` to restore.

    Raises:
        TargetError: a target matches nothing, a rank does not fit, or a weight is quantised.
        StatisticsError: a layer's covariance is missing, not finite or of the wrong size.
        SettingsError: an unknown mode or method, or a value out of range.
        UnknownNameError: an option that means nothing here.
    """
    for option in options:
        if option not in START_OPTIONS:
            mend = nearest(option, START_OPTIONS)
            raise UnknownNameError(f'unknown option "{option}"', where="init_adapter", mend=mend)
    given = {"rank": r, "alpha": alpha, "mode": mode, "targets": targets, "rank_pattern": rank_pattern or {}}
    settings = OrientedSettings.from_mapping({**given, **options}, where="init_adapter")
    if method == "corda":
        starts = adapter_starts(model, covariance or {}, settings)
    elif method == "plain":
        starts = _plain_starts(model, settings)
    else:
        raise SettingsError(f'method is "{method}"', mend='choose "corda" or "plain"')
    wrapped = wrap_lora(
        model,
        targets=settings.targets,
        rank=settings.rank,
        alpha=settings.scale_alpha,
        dropout=settings.dropout,
        rank_stabilised=settings.rank_stabilised,
        rank_pattern=settings.rank_pattern,
    )
    for name, start in starts.items():
        wrapped.set_start(name, start)
    return wrapped


def oriented_spectrum(model: Any, covariance: Mapping[str, Covariance]) -> dict[str, dict[str, Any]]:
    """Per layer: singular values of W C' (descending), the damping used and the inverse's error."""
    layers = find_targets(model, tuple(covariance))
    check_dense(layers)
    return {
        name: {
            "singular_values": oriented_values(layers[name].weight, context),
            "damping": context.delta,
            "inverse_error": context.inverse_error,
        }
        for name, context in _contexts(layers, covariance, torch.float64)
    }


def _decomposed(
    layers: Mapping[str, nn.Linear],
    covariances: Mapping[str, Covariance],
    ranks: Mapping[str, int],
    settings: OrientedSettings,
) -> Iterable[tuple[str, AdapterStart]]:
    mode: Any = settings.mode
    options: dict[str, Any] = {"orientation": settings.orientation, "balance": settings.balance}
    for name, context in _contexts(layers, covariances, getattr(torch, settings.damping)):
        yield name, oriented_start(layers[name].weight, context, ranks[name], settings.scaling, mode, **options)


def _contexts(
    layers: Mapping[str, nn.Linear], covariances: Mapping[str, Covariance], dtype: torch.dtype
) -> Iterable[tuple[str, Damped]]:
    """C' of every layer, formed once for neighbours that share a covariance."""
    _check_covariances(covariances, layers)
    last: tuple[int, Damped] | None = None
    for name, layer in layers.items():
        covariance = covariances[name]
        if last is None or last[0] != id(covariance):
            last = (id(covariance), damped(covariance.matrix().to(layer.weight.device), dtype=dtype))
        yield name, last[1]


def _bounds(settings: OrientedSettings, layer: nn.Linear) -> tuple[int, int]:
    return rank_bounds(settings.rank, settings.rank_cap, min(layer.in_features, layer.out_features))


def _plain_starts(model: Any, settings: OrientedSettings) -> Starts:
    layers = find_targets(model, settings.targets)
    check_dense(layers)
    ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
    options: dict[str, Any] = {"largest": settings.largest, "balance": settings.balance}
    return {name: plain_start(layer.weight, ranks[name], settings.scaling, **options) for name, layer in layers.items()}


def _check_covariances(covariances: Mapping[str, Covariance], layers: Mapping[str, nn.Linear]) -> None:
    """Every layer has a covariance of its own width."""
    for name, layer in layers.items():
        if name not in covariances:
            mend = "collect_covariance(...) with the same targets"
            raise StatisticsError("a target layer has no covariance", where=name, mend=mend)
        width = covariances[name].total.shape[0]
        if width != layer.in_features:
            mend = "collect the covariance with the model that is adapted"
            raise StatisticsError(
                f"the covariance has {width} features, the layer {layer.in_features}", where=name, mend=mend
            )

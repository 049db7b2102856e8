"""Which linear layers a method changes: by the last part of their names, or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from keeps.errors import TargetError, nearest
from keeps.models.locate import is_transposed

ALL_LINEAR = "all-linear"


def find_targets(model: Any, targets: Sequence[str] = (ALL_LINEAR,)) -> dict[str, nn.Linear]:
    """The linear layers of ``model`` that ``targets`` names, by their full names, in model order.

    A target is the end of a layer's name (``q_proj``, ``mlp.down_proj``, ``layers.3.mlp.up_proj``), or
    ``all-linear``: every linear layer but the vocabulary projection.

    Raises:
        TargetError: a target matches nothing (the nearest names are given), or the model carries an adapter.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }
    if any(hasattr(module, "base_layer") for module in model.modules()):  # whose parts are linear layers too
        raise TargetError("the model carries an adapter", mend="take it out with undo() or unwrap(), or merge it first")
    if not layers:
        if any(is_transposed(module) for module in model.modules()):
            what = "the model keeps its weights transposed, (in, out) as in GPT-2"
            raise TargetError(what, mend="look at it inside keeps.models.plain_layers.plain_layers(model)")
        raise TargetError("the model has no linear layer to change", mend="choose a transformer language model")
    if not targets:
        raise TargetError("no target layer is named", mend=f'name layers, or "{ALL_LINEAR}"')
    chosen: set[str] = set()
    for target in targets:
        matched = {name for name in layers if target == ALL_LINEAR or _ends_with(name, target)}
        if not matched:
            hint = nearest(target, {*_kinds(layers), *_endings(layers, target), ALL_LINEAR})
            mend = f"{hint} (this model has {', '.join(_kinds(layers))})"
            raise TargetError(f'no layer matches the target "{target}"', mend=mend)
        chosen |= matched
    return {name: layer for name, layer in layers.items() if name in chosen}


def layer_ranks(layers: Mapping[str, nn.Linear], rank: int, rank_pattern: Mapping[str, int]) -> dict[str, int]:
    """The rank of each layer: ``rank`` unless its name ends with a key of ``rank_pattern``, the last such key.

    Raises:
        TargetError: a rank is below 1 or exceeds the smaller side of its layer, or a pattern matches no layer.
    """
    ranks = dict.fromkeys(layers, rank)
    for pattern, value in rank_pattern.items():
        matched = [name for name in layers if _ends_with(name, pattern)]
        if not matched:
            hint = nearest(pattern, {*_kinds(layers), *_endings(layers, pattern)})
            raise TargetError(f'rank_pattern names "{pattern}", which matches no target layer', mend=hint)
        ranks.update(dict.fromkeys(matched, value))
    for name, value in ranks.items():
        rows, columns = layers[name].out_features, layers[name].in_features
        if not 1 <= value <= min(rows, columns):
            raise TargetError(
                f"rank {value} does not fit a layer of {rows} x {columns}",
                where=name,
                mend=f"choose a rank from 1 to {min(rows, columns)}, or give this layer its own in rank_pattern",
            )
    return ranks


def check_dense(layers: Mapping[str, nn.Linear]) -> None:
    """Refuse layers whose weight is no plain matrix of numbers, which cannot be decomposed.

    Raises:
        TargetError: a weight is quantised (packed integers) or not loaded.
    """
    for name, layer in layers.items():
        weight = layer.weight
        if weight.is_meta or not weight.is_floating_point() or weight.shape != (layer.out_features, layer.in_features):
            raise TargetError(
                f"the weight is quantised or not loaded ({str(weight.dtype).removeprefix('torch.')})",
                where=name,
                mend="load the model in float32; an adapter from its weights can go onto a quantised copy later",
            )


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith("." + ending)


def _kinds(layers: Iterable[str]) -> list[str]:
    """The last parts of the names, such as ``q_proj``."""
    return sorted({name.rsplit(".", 1)[-1] for name in layers})


def _endings(layers: Iterable[str], like: str) -> set[str]:
    """The endings of the names that have as many parts as ``like``."""
    parts = like.count(".") + 1
    return {".".join(name.split(".")[-parts:]) for name in layers}

"""Plans of merges that are written down in YAML: settings by tensor and depth, and layers put together anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from keeps.errors import InputFileError
from keeps.weights.checkpoints import TensorSource
from keeps.weights.halves import FLOAT_TYPES, NAMES
from keeps.weights.headers import SIZES
from keeps.weights.merge_method import MergeMethod
from keeps.weights.merge_plan import HEADS, MergePlan, Output, plan_merge, shards, tensor_values
from keeps.weights.mergekit_yaml import MergeRecipe, Slice, Source, evaluate

LAYER = re.compile(r"(^|\.)(layers|h|blocks|block|layer)\.(\d+)\.")
COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
BY_LAYER = ("layer_types", "no_rope_layers")  # lists in config.json with an entry a layer


def plan_recipe(
    recipe: MergeRecipe, method: MergeMethod, sources: Mapping[str, TensorSource], **options: Any
) -> MergePlan:
    """The plan of a YAML file; ``options`` are those of :func:`~keeps.weights.merge_plan.plan_merge`.

    Raises:
        InputFileError: a slice names layers that a model does not have.
        KeepsError: as :func:`~keeps.weights.merge_plan.plan_merge`.
    """
    whole = len(recipe.slices) == 1 and all(source.layers is None for source in recipe.slices[0].sources)
    if whole:
        return _whole(recipe, method, sources, recipe.slices[0], **options)
    return _stacked(recipe, method, sources, **options)


def _models(recipe: MergeRecipe, method: MergeMethod, piece: Slice) -> list[Source]:
    """The sources that are merged: a base is not one of them where differences from it are what is merged."""
    if method.needs_base:
        return [source for source in piece.sources if source.model != recipe.base]
    if method.most == 2 and recipe.base is not None:  # between two models the base is the first
        return sorted(piece.sources, key=lambda source: source.model != recipe.base)
    return list(piece.sources)


def _whole(
    recipe: MergeRecipe, method: MergeMethod, sources: Mapping[str, TensorSource], piece: Slice, **options: Any
) -> MergePlan:
    chosen = _models(recipe, method, piece)
    base = sources[recipe.base] if recipe.base and method.needs_base else None
    first = base or sources[chosen[0].model]
    depths = _depths(list(first.tensors))

    def overrides(tensor: str, model: int | None) -> dict[str, Any]:
        return _found(recipe, piece, None if model is None else chosen[model], tensor, depths.get(tensor, 0.0))

    tuned = [sources[source.model] for source in chosen]
    return plan_merge(recipe.method, method, tuned, base, dtype=recipe.dtype, overrides=overrides, **options)


def _found(recipe: MergeRecipe, piece: Slice, source: Source | None, tensor: str, depth: float) -> dict[str, Any]:
    """Values of all parameters for a tensor: of the source, else of the slice, else of the file."""
    places = [recipe.parameters, piece.parameters, {} if source is None else source.parameters]
    found = {}
    for parameters in places:
        for key, parameter in parameters.items():
            value = evaluate(parameter, tensor, depth)
            if value is not None:
                found[key] = value
    return found


def _depths(names: list[str]) -> dict[str, float]:
    """Depth of each tensor in [0, 1] by its layer; tensors outside of the layers have 0."""
    layers = {name: int(match.group(3)) for name in names if (match := LAYER.search(name))}
    last = max(layers.values(), default=0)
    return {name: layer / last if last else 1.0 for name, layer in layers.items()}


def _stacked(
    recipe: MergeRecipe,
    method: MergeMethod,
    sources: Mapping[str, TensorSource],
    *,
    shard_size: int,
    **options: Any,
) -> MergePlan:
    """Layers as the slices say; of the rest, the final norm and the head come from the last slice."""
    order = list(sources)
    counts: list[tuple[str, int]] = []  # of each layer of the result: the model and layer that stands for it
    outputs: list[Output] = []
    templates: dict[int, MergePlan] = {}
    for position, piece in enumerate(recipe.slices):
        chosen = _models(recipe, method, piece)
        plain = replace(recipe, slices=(Slice(tuple(replace(s, layers=None) for s in piece.sources), {}),))
        templates[position] = _whole(plain, method, sources, plain.slices[0], shard_size=shard_size, **options)
        leader = next((s for s in piece.sources if s.model == recipe.base), chosen[0])
        assert leader.layers is not None
        outputs += _layers(recipe, method, templates[position], piece, chosen, leader, len(counts), order)
        counts += [(leader.model, layer) for layer in range(*leader.layers)]
    last = len(recipe.slices) - 1
    for output in templates[0].outputs:
        if LAYER.search(output.name):
            continue
        at_end = output.name.endswith((*HEADS, "norm.weight", "norm.bias", "ln_f.weight", "ln_f.bias"))
        position = last if at_end else 0
        own = next(one for one in templates[position].outputs if one.name == output.name)
        outputs.append(_placed(recipe, method, own, templates[position], recipe.slices[position], own.name, 0, order))
    outputs.sort(key=lambda output: -SIZES[output.kind])
    reference = sources[order[0]]
    config = dict(templates[0].config) | _depth_of_config(reference, counts, sources)
    plan = templates[0]
    return replace(
        plan,
        sources=tuple(sources[name] for name in order),
        outputs=tuple(outputs),
        layouts=shards(outputs, shard_size),
        config=config,
    )


def _layers(
    recipe: MergeRecipe,
    method: MergeMethod,
    template: MergePlan,
    piece: Slice,
    chosen: list[Source],
    leader: Source,
    begun: int,
    order: list[str],
) -> Iterator[Output]:
    """The layers of one slice, with their new numbers."""
    assert leader.layers is not None
    length = leader.layers[1] - leader.layers[0]
    by_layer: dict[int, list[Output]] = {}
    for output in template.outputs:
        match = LAYER.search(output.name)
        if match:
            by_layer.setdefault(int(match.group(3)), []).append(output)
    for source in piece.sources:
        assert source.layers is not None
        if source.layers[1] > len(by_layer):
            what = f"layer_range {list(source.layers)}, and {source.model} has {len(by_layer)} layers"
            raise InputFileError(what, where=recipe.path, mend="name layers that are there")
    for step in range(length):
        depth = step / (length - 1) if length > 1 else 1.0
        for output in by_layer[leader.layers[0] + step]:
            name = _renumbered(output.name, begun + step)
            inputs = [_renumbered(output.name, s.layers[0] + step) for s in chosen if s.layers is not None]
            yield _placed(recipe, method, output, template, piece, name, depth, order, inputs)


def _placed(
    recipe: MergeRecipe,
    method: MergeMethod,
    output: Output,
    template: MergePlan,
    piece: Slice,
    name: str,
    depth: float,
    order: list[str],
    inputs: list[str] | None = None,
) -> Output:
    """An output of the template with its place among all sources, new name, and settings."""
    chosen = _models(recipe, method, piece)

    def overrides(tensor: str, model: int | None) -> dict[str, Any]:
        if model is None:
            return _found(recipe, piece, None, name, depth)
        read = name if inputs is None else inputs[model]  # a filter of a source names tensors as the source does
        return _found(recipe, piece, chosen[model], read, depth)

    names = inputs or [own for _, own in output.inputs]
    places = tuple((order.index(s.model), own) for s, own in zip(chosen, names, strict=False))[: len(output.inputs)]
    base = None if output.base is None else (order.index(str(recipe.base)), output.base[1])
    kind = NAMES[recipe.dtype] if recipe.dtype and output.kind in FLOAT_TYPES else output.kind
    values = tensor_values(method, name, len(chosen), overrides)
    return replace(output, name=name, kind=kind, inputs=places, base=base, values=values)


def _renumbered(name: str, layer: int) -> str:
    return LAYER.sub(lambda match: f"{match.group(1)}{match.group(2)}.{layer}.", name, count=1)


def _depth_of_config(
    reference: TensorSource, layers: list[tuple[str, int]], sources: Mapping[str, TensorSource]
) -> dict[str, Any]:
    """Entries of config.json that count layers, or list them."""
    found: dict[str, Any] = {key: len(layers) for key in COUNTS if key in reference.config}
    for key in BY_LAYER:
        if isinstance(reference.config.get(key), list):
            found[key] = [sources[model].config[key][layer] for model, layer in layers]
    return found

"""The room beside what data uses, for every layer of a model: found, stored, and kept to.

The mathematics is in :mod:`keeps.numerics.nullspace`; here it meets layers. Layers that read one tensor share
one space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.errors import StorageError
from keeps.models.adapters import ADAPTER, WrappedModel, lora_layers
from keeps.numerics.covariance import Covariance
from keeps.numerics.nullspace import NullSpace, null_space, project
from keeps.weights.files import load_metadata, load_tensors, save_tensors

NullSpaces = dict[str, NullSpace]  # layer name -> its space; layers that share an input share the object


def null_spaces(
    covariances: Mapping[str, Covariance],
    energy: float,
    ranks: Mapping[str, int],
    *,
    advance: Callable[[float], None] | None = None,
) -> NullSpaces:
    """The space of every layer; at least its rank is left free, or the largest of those that share an input.

    Args:
        covariances: by layer, as collected with ``normalise="none"``; what counts is the mean over tokens.
        energy: share of the trace that is kept out.

    Raises:
        StatisticsError: no token reached a layer, or a covariance is not finite.
    """
    leave: dict[int, int] = {}
    for name, covariance in covariances.items():
        leave[id(covariance)] = max(leave.get(id(covariance), 1), ranks[name])
    found: dict[int, NullSpace] = {}
    for covariance in covariances.values():
        if id(covariance) not in found:
            found[id(covariance)] = null_space(second_moment(covariance), energy, leave=leave[id(covariance)])
        if advance:
            advance(1)
    return {name: found[id(covariance)] for name, covariance in covariances.items()}


def second_moment(covariance: Covariance) -> Tensor:
    """C = E[x x^T] as a mean over tokens, ``(in, in)``; ``matrix()`` is a mean over samples of several tokens."""
    return covariance.matrix() * (covariance.n_samples / covariance.n_tokens)


def save_spaces(path: Path, spaces: NullSpaces, measures: Mapping[str, Any]) -> None:
    """Write the spaces, each once, and what was measured with them.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    owners: dict[int, str] = {}
    layers = {name: owners.setdefault(id(space), name) for name, space in spaces.items()}
    numbers = {
        name: [space.total, space.residual, space.largest, space.made]
        for name, space in spaces.items()
        if layers[name] == name
    }
    tensors = {name: spaces[name].basis for name in numbers}
    facts = json.dumps({"layers": layers, "numbers": numbers, "measures": dict(measures)})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, {"spaces": facts})


def load_spaces(path: Path, device: torch.device | str) -> tuple[NullSpaces, dict[str, Any]]:
    """What :func:`save_spaces` wrote.

    Raises:
        StorageError: the file is missing or damaged.
    """
    tensors, metadata = load_tensors(path), load_metadata(path)
    try:
        facts = json.loads(metadata["spaces"])
        shared = {name: NullSpace(tensors[name].to(device), *numbers) for name, numbers in facts["numbers"].items()}
        return {name: shared[owner] for name, owner in facts["layers"].items()}, facts["measures"]
    except (KeyError, TypeError, ValueError) as error:
        mend = "start the run again without --resume"
        raise StorageError(f"the stored null spaces are damaged ({error})", where=str(path), mend=mend) from None


def keep_inside(wrapped: WrappedModel, spaces: NullSpaces) -> Callable[..., None]:
    """Hold the rows of every A in the room: now, in every gradient, and after each step by what is returned.

    With the gradient projected, AdamW's first moment stays inside and its second counts nothing that could
    not be followed; the division by the root of the second, element by element, leaves the room, and the
    projection after the step brings the rows back.

    Raises:
        StorageError: the spaces are not those of the wrapped layers (they were stored for another job).
    """
    weights = {name: layer.lora_A[ADAPTER].weight for name, layer in lora_layers(wrapped.peft_model).items()}
    widths = {name: weight.shape[1] for name, weight in weights.items()}
    if widths != {name: space.basis.shape[0] for name, space in spaces.items()}:
        raise StorageError(
            "the null spaces are those of other layers",
            mend="repeat the settings and model of the interrupted run, or start anew without --resume",
        )

    def bring_back(*_: Any) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(project(weight, spaces[name].basis))

    for name, weight in weights.items():
        weight.register_hook(lambda gradient, basis=spaces[name].basis: project(gradient, basis))
    bring_back()
    return bring_back

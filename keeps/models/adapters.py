"""LoRA adapters on the layers of a model: wrap, start, unwrap, and the arithmetic between forms.

peft does the injection and the file format; this file adds what a start other than B = 0 needs: the
base weight becomes W - s B0 A0, and the trained adapter becomes a plain LoRA of twice the rank for
the untouched base,

    s (B A - B0 A0) = s [B, -B0] [A; A0]                     (CorDA, arXiv:2406.05223, appendix)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.errors import TargetError
from keeps.models.locate import is_transposed
from keeps.models.targets import find_targets, layer_ranks
from keeps.numerics.oriented import AdapterStart

ADAPTER = "default"
Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> (A (rank, in), B (out, rank))


@dataclass
class WrappedModel:
    """A peft model with the means to undo the wrapping bit by bit."""

    peft_model: Any
    scaling: dict[str, float]  # layer name -> s
    start: Factors = field(default_factory=dict)  # A0, B0 of layers whose base was reduced
    originals: dict[str, Tensor] = field(default_factory=dict)  # their weights before that
    trainable: dict[str, bool] = field(default_factory=dict)  # parameter of the base -> whether it could be trained

    def factors(self) -> Factors:
        """The current A and B of every adapted layer, detached copies; a gate is multiplied into A."""
        return {
            name: (_down_weight(layer.lora_A[ADAPTER]), layer.lora_B[ADAPTER].weight.detach().clone())
            for name, layer in lora_layers(self.peft_model).items()
        }

    def set_start(self, name: str, start: AdapterStart) -> None:
        """Give one layer its A0 and B0, and reduce its base weight to W - s B0 A0; where B0 = 0 it stays as it is."""
        if start.b.any():
            self.reduce(name, start)
        layer = lora_layers(self.peft_model)[name]
        with torch.no_grad():
            layer.lora_A[ADAPTER].weight.copy_(start.a)
            layer.lora_B[ADAPTER].weight.copy_(start.b)

    def reduce(self, name: str, part: AdapterStart) -> None:
        """Reduce one layer's base weight to W - s B0 A0, and leave its adapter as it is."""
        layer = lora_layers(self.peft_model)[name]
        weight = layer.base_layer.weight
        with torch.no_grad():
            # The residual is formed with the rounded factors, so that W - s B0 A0 + s B0 A0 equals W to rounding.
            a, b = part.a.to(layer.lora_A[ADAPTER].weight), part.b.to(layer.lora_B[ADAPTER].weight)
            original = self.originals.setdefault(name, weight.detach().clone())
            weight.copy_(AdapterStart(a, b, part.values).residual(original, self.scaling[name]))
        self.start[name] = (a.clone(), b.clone())

    def unwrap(self) -> Any:
        """Take the adapter out and put the original weights back; returns the base model."""
        base = self.peft_model.unload()
        copy_into({name: base.get_submodule(name).weight for name in self.originals}, self.originals)
        restore_trainable(base, self.trainable)
        return base


def wrap_lora(
    model: Any,
    *,
    targets: tuple[str, ...],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rank_stabilised: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    use_dora: bool = False,
) -> WrappedModel:
    """Inject plain LoRA layers (B = 0, A Kaiming-uniform; LoRA, arXiv:2106.09685) through peft.

    ``alpha`` belongs to ``rank``: a layer with another rank keeps the same scaling. A is drawn from
    torch's random numbers as they stand. ``use_dora`` adds a trained magnitude to each row (DoRA,
    arXiv:2402.09353).

    Raises:
        TargetError: no layer matches, or a rank does not fit its layer.
    """
    from peft import LoraConfig, get_peft_model

    layers = find_targets(model, targets)
    ranks = layer_ranks(layers, rank, rank_pattern or {})
    scale = alpha / math.sqrt(rank) if rank_stabilised else alpha / rank
    odd = {name: r for name, r in ranks.items() if r != rank}
    alphas = {name: scale * (math.sqrt(r) if rank_stabilised else r) for name, r in odd.items()}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  (peft divides; a float is exact)
        lora_dropout=dropout,
        use_rslora=rank_stabilised,
        use_dora=use_dora,
        target_modules=list(layers),
        rank_pattern={exactly(name): r for name, r in odd.items()},
        alpha_pattern={exactly(name): value for name, value in alphas.items()},  # type: ignore[arg-type]
        bias="none",
        task_type="CAUSAL_LM",
    )
    trainable, training = trainable_flags(model), model.training
    peft_model: Any = get_peft_model(model, config)
    peft_model.train(training)  # peft's own modules begin in training mode, whatever that of the model is
    return WrappedModel(peft_model, dict.fromkeys(layers, scale), trainable=trainable)


def lora_layers(peft_model: Any) -> dict[str, Any]:
    """The adapted layers of a peft model by their names in the base model."""
    base = peft_model.get_base_model() if hasattr(peft_model, "get_base_model") else peft_model
    found = {
        name: module
        for name, module in base.named_modules()
        if isinstance(getattr(module, "lora_A", None), nn.ModuleDict)
    }
    if not found:
        raise TargetError("the model carries no LoRA layer", mend="wrap it first")
    return found


def magnitudes_of(peft_model: Any) -> dict[str, Tensor]:
    """The trained row norms m of DoRA's layers, ``(out,)``, detached copies; empty for other adapters."""
    vectors = {name: layer.lora_magnitude_vector for name, layer in lora_layers(peft_model).items()}
    return {name: vector[ADAPTER].weight.detach().clone() for name, vector in vectors.items() if ADAPTER in vector}


def doubled(trained: Factors, start: Factors) -> Factors:
    """The trained change as factors on the untouched base: rank 2r where the start was not zero."""
    result = {}
    for name, (a, b) in trained.items():
        if name not in start:
            result[name] = (a, b)
            continue
        a0, b0 = start[name]
        result[name] = (torch.cat([a, a0], dim=0), torch.cat([b, -b0], dim=1))
    return result


def halved(factors: Factors) -> tuple[Factors, Factors]:
    """Undo :func:`doubled`: the trained A and B, and the start A0 and B0."""
    trained, start = {}, {}
    for name, (a, b) in factors.items():
        r = a.shape[0] // 2
        trained[name] = (a[:r], b[:, :r])
        start[name] = (a[r:], -b[:, r:])
    return trained, start


@contextmanager
def added(model: Any, factors: Factors, scale: float, magnitudes: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """The model with W + scale * B A in every layer of ``factors``, its weights restored bit by bit on leaving.

    ``magnitudes`` are the norms, ``(out,)``, that DoRA's rows are brought to.
    """
    weights = {name: model.get_submodule(name).weight for name in factors}

    def changed() -> Iterator[tuple[str, Tensor]]:
        for name, (a, b) in factors.items():
            weight = weights[name]
            difference = scale * (b.to(weight.device).double() @ a.to(weight.device).double())
            difference = difference.T if is_transposed(model.get_submodule(name)) else difference
            value = weight.double() + difference
            if magnitudes:
                rows = value.T if is_transposed(model.get_submodule(name)) else value  # (out, in), written through
                rows *= magnitudes[name].to(value)[:, None] / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            yield name, value

    with overwritten(weights, changed()):
        yield


@contextmanager
def overwritten(parameters: Mapping[str, Tensor], values: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
    """The parameters with other values inside the block; their own come back bit by bit, also after an error.

    Args:
        values: name and value, any dtype; one after the other is taken and written, without gradients.
    """
    originals: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, value in values:
                originals[name] = parameters[name].detach().clone()
                parameters[name].copy_(value)
        yield
    finally:
        copy_into(parameters, originals)


def copy_into(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite each parameter that ``values`` names, in place."""
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def trainable_flags(model: nn.Module) -> dict[str, bool]:
    """Which parameters require a gradient; peft freezes the base and leaves it frozen when it goes."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def restore_trainable(model: nn.Module, flags: Mapping[str, bool]) -> None:
    """Give each parameter back the flag that :func:`trainable_flags` read."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))


@contextmanager
def untrained(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside the block; each has its own flag back afterwards."""
    flags = trainable_flags(model)
    try:
        model.requires_grad_(False)
        yield
    finally:
        restore_trainable(model, flags)


def put_back(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put the base's own layers back in the places of ``layers``, each of which holds its own as ``base_layer``."""
    for name, layer in layers.items():
        base = cast(nn.Module, layer.base_layer)
        base.train(layer.training)
        model.set_submodule(name, base)


def _down_weight(down: nn.Module) -> Tensor:
    """What a layer's A amounts to, ``(rank, in)``: diag(g) A where it is gated (:mod:`keeps.models.gated`)."""
    weight = cast(Tensor, down.weight).detach().clone()
    gate = getattr(down, "gate", None)
    return weight if gate is None else weight * gate.detach()[:, None]


def exactly(name: str) -> str:
    """A peft pattern that matches this layer alone."""
    return "^" + name.replace(".", r"\.") + "$"

"""Feed-forward layers cut into pieces of their own, of which a router lets each token use a few (arXiv:2408.11855).

    y = b_d + s sum_{j in top K of g(x)} w_j F_j(x),   g(x) = softmax(W_r x + b_r)

The pieces are blocks of inner channels (:mod:`keeps.numerics.factoring`). While nothing is trained they are views of
the layer's own weights where the channels keep their order. Two ways to compute the same: *dispatched*, each piece for
its own tokens alone, and *masked*, all channels with those of other pieces at zero, which is what training needs and
what is faster for a few tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.errors import SettingsError, TargetError
from keeps.models.adapters import put_back, restore_trainable, trainable_flags
from keeps.models.feed_forward import FeedForward, feed_forwards
from keeps.models.packing import can_pack
from keeps.numerics.factoring import chosen_mask, dispatched, expert_outputs, prior_errors, prior_labels

GATES = ("hard", "straight_through", "probability")
SCALES = ("one", "n_over_k")
FEW = 32  # tokens up to which one product beats several small ones where most pieces are used anyway
MOST = 0.75  # expected share of pieces in use from which "most" is meant


@dataclass(frozen=True)
class FactorConfig:
    """What the pieces of all layers have in common.

    Attributes:
        experts: N; ``active``: K.
        gates: ``"hard"``: w = 1. ``"straight_through"``: 1 with the gradient of g. ``"probability"``: K g_j over the
            sum of the active ones, 1 on average, and 1 where all are active.
        scale: s: ``"one"``, or ``"n_over_k"`` as in the published code.

    Raises:
        SettingsError: fewer than two pieces, no active one or too many, or an option that is not known.
    """

    experts: int
    active: int
    gates: str = "hard"
    scale: str = "one"

    def __post_init__(self) -> None:
        if self.experts < 2:
            raise SettingsError(f"{self.experts} expert leaves a router no choice", mend="give two or more")
        if not 1 <= self.active <= self.experts:
            raise SettingsError(f"active is {self.active} of {self.experts} experts", mend="choose from 1 to all")
        if self.gates not in GATES or self.scale not in SCALES:
            raise SettingsError(f'gates "{self.gates}" or scale "{self.scale}" is not known', where="factorize")

    @property
    def factor(self) -> float:
        """s, which is 1 where all are active."""
        return self.experts / self.active if self.scale == "n_over_k" else 1.0


@dataclass
class Seen:
    """What training needs of a pass through one layer, by token: ``(tokens, experts)`` each; labels if wanted."""

    logits: Tensor
    mask: Tensor
    labels: Tensor | None


class FactoredFeedForward(nn.Module):
    """A feed-forward layer in pieces. ``router`` is ``(N, width)`` and ``router_bias`` ``(N,)``, float32.

    ``gate`` and ``up`` ``(channels, width)`` and ``down`` ``(width, channels)`` are own parameters once the pieces
    are trained; before that they are those of ``base_layer`` in the order of the pieces.

    Attributes:
        routing: ``"router"``; ``"prior"``: the labels choose, as no router can; ``"dense"``: the frozen layer answers,
            and what it says is the target of the next pass.
        recording: put aside in ``seen`` what training needs; all channels are computed then.
        labelling: whether labels are part of it, which cost about as much as the layer.
    """

    order: Tensor | None

    def __init__(self, parts: FeedForward, config: FactorConfig, order: Tensor | None, *, own: bool) -> None:
        super().__init__()
        self.base_layer, self.config, self.parts = parts.module, config, parts
        place = parts.up.device
        self.router = nn.Parameter(torch.empty(config.experts, parts.width, device=place))
        self.router_bias = nn.Parameter(torch.empty(config.experts, device=place))
        self.register_buffer("order", None if order is None else order.to(place), persistent=False)
        self.own = own
        self.fixed = own or order is not None or bool(parts.padding)
        for name, tensor in parts.ordered(order).items() if self.fixed else ():
            if own:
                self.register_parameter(name, nn.Parameter(tensor.clone(memory_format=torch.contiguous_format)))
            else:
                self.register_buffer(name, tensor, persistent=False)
        self.cut: tuple[int, list[dict[str, Tensor]]] | None = None
        self.routing = "router"
        self.seen: Seen | None = None
        self.recording = False
        self.labelling = True
        self.target: Tensor | None = None  # F of the dense model's own inputs, (tokens, width)
        self.train(parts.module.training)

    def start(self) -> None:
        """Draw the router as a linear layer's weights are drawn, uniform within 1 / root of the width."""
        bound = 1 / math.sqrt(self.router.shape[1])
        with torch.no_grad():
            self.router.uniform_(-bound, bound)
            self.router_bias.uniform_(-bound, bound)

    def pieces(self) -> dict[str, Tensor]:
        """``gate`` (of a gated layer), ``up``, ``up_bias`` and ``down``, in the order of the pieces."""
        if self.fixed:
            return {name: getattr(self, name) for name in self.parts.names}
        return self.parts.ordered(None)

    def each_piece(self) -> list[dict[str, Tensor]]:
        """The tensors of each piece, views; kept as long as the weights stay where they are in memory."""
        place = (cast(Tensor, self.up) if self.fixed else self.parts.up_ref.weight).data_ptr()
        if self.cut is None or self.cut[0] != place:
            weights = {name: tensor.detach() for name, tensor in self.pieces().items()}
            size = weights["up"].shape[0] // self.config.experts
            pieces = []
            for number in range(self.config.experts):
                part = slice(number * size, (number + 1) * size)
                pieces.append({name: t[:, part] if name == "down" else t[part] for name, t in weights.items()})
            self.cut = (place, pieces)
        return self.cut[1]

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """``(..., width)`` to the same."""
        rows = x.reshape(-1, x.shape[-1])
        count, active = self.config.experts, self.config.active
        if self.routing == "dense":
            y = self.target = self.parts.without_bias(rows).detach()
        elif active == count and not self.recording:
            weights = self.pieces()
            y = functional.linear(self._inner(rows, weights), weights["down"])
        elif self._at_once(len(rows)):
            y = self._masked(rows, self.pieces(), self.logits(rows))
        else:
            y = self._dispatched(rows, self.logits(rows))
        y = y if self.parts.down_bias is None else y + self.parts.down_bias
        return y.reshape(x.shape)

    def logits(self, rows: Tensor) -> Tensor:
        """Of the router, ``(tokens, N)``, float32 whatever the model computes in."""
        if not torch.is_autocast_enabled(rows.device.type):
            return functional.linear(rows.float(), self.router, self.router_bias)
        with torch.autocast(rows.device.type, enabled=False):
            return functional.linear(rows.float(), self.router, self.router_bias)

    def _at_once(self, tokens: int) -> bool:
        """Whether all channels are computed: gradients and labels need them, and a few tokens use most of them."""
        if self.recording or self.training or self.routing == "prior" or torch.is_grad_enabled():
            return True
        return 1 < tokens <= FEW and 1 - (1 - self.config.active / self.config.experts) ** tokens > MOST

    def _dispatched(self, rows: Tensor, logits: Tensor) -> Tensor:
        chosen = logits.topk(self.config.active, dim=-1).indices
        factors = None
        if self.config.gates == "probability":
            factors = self.config.active * logits.gather(-1, chosen).softmax(-1)
        pieces = self.each_piece()

        def piece(number: int, mine: Tensor) -> Tensor:
            own = pieces[number]
            return functional.linear(self._inner(mine, own), own["down"])

        total = dispatched(rows, chosen, self.config.experts, piece, factors)
        return total if self.config.factor == 1 else total * self.config.factor

    def _masked(self, rows: Tensor, weights: Mapping[str, Tensor], logits: Tensor) -> Tensor:
        inner = self._inner(rows, weights)
        labelled = (self.recording and self.labelling) or self.routing == "prior"
        labels = self._labels(rows, inner, weights) if labelled else None
        scores = logits if labels is None or self.routing == "router" else labels
        mask = chosen_mask(scores.detach(), self.config.active)
        factors = mask
        if self.config.gates == "straight_through":
            gates = logits.softmax(-1)
            factors = mask + gates - gates.detach()
        elif self.config.gates == "probability" and self.config.active < self.config.experts:  # else it is the layer
            gates = logits.softmax(-1) * mask
            factors = self.config.active * gates / gates.sum(-1, keepdim=True)
        if self.recording:
            self.seen = Seen(logits, mask, labels)
        spread = (
            (self.config.factor * factors).to(inner.dtype).repeat_interleave(inner.shape[-1] // self.config.experts, -1)
        )
        return functional.linear(inner * spread, weights["down"])

    def _inner(self, rows: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        up = functional.linear(rows, weights["up"], weights.get("up_bias"))
        if "gate" not in weights:
            return self.parts.activation(up)
        return self.parts.activation(functional.linear(rows, weights["gate"])) * up

    @torch.no_grad()
    def _labels(self, rows: Tensor, inner: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """z of every token: against the frozen layer on the same input, or on that of the dense model."""
        outputs = expert_outputs(inner.detach(), weights["down"].detach(), self.config.experts)
        dense = self.target
        if dense is None:
            dense = self.parts.without_bias(rows) if self.own else outputs.sum(-2)
        return prior_labels(prior_errors(outputs.float(), dense.float(), self.config.active), self.config.active)


@dataclass
class WrappedFactored:
    """A model whose feed-forward layers are in pieces, and the means to put them together again."""

    module: Any
    config: FactorConfig
    layers: dict[str, FactoredFeedForward] = field(default_factory=dict)  # by the name of the feed-forward module
    trainable: dict[str, bool] = field(default_factory=dict)

    def unwrap(self) -> Any:
        """Put the layers back, whose weights nothing has touched; a second call does nothing."""
        if self.layers:
            put_back(self.module, self.layers)
            restore_trainable(self.module, self.trainable)
        self.layers = {}
        return self.module


def put_factored(
    module: Any,
    config: FactorConfig,
    orders: Mapping[str, Tensor | None],
    *,
    own: bool,
    pad: bool = False,
) -> WrappedFactored:
    """Cut the feed-forward layers that ``orders`` names into pieces; all else is frozen. Routers are not set yet.

    Args:
        orders: channels in the order of the pieces by the module's name; None: as they are.
        own: whether the pieces get weights of their own, to be trained.
        pad: whether channels of zeros may make the pieces equal.

    Raises:
        TargetError: a layer is not there, not understood, or cannot be cut evenly. The module is as it was then.
    """
    can_pack(module)  # how it may be read is found out before a router makes small differences large
    found = feed_forwards(module)
    odd = [name for name in orders if name not in found]
    if odd:
        raise TargetError(f"the model has no feed-forward layer {odd[0]}", mend="load the base that change.json names")
    wrapped = WrappedFactored(module, config, trainable=trainable_flags(module))
    made: dict[str, FactoredFeedForward] = {}
    for name, order in orders.items():
        parts = found[name].padded(config.experts, pad)
        made[name] = FactoredFeedForward(parts, config, order, own=own)
    module.requires_grad_(False)
    for name, layer in made.items():
        module.set_submodule(name, layer)
        wrapped.layers[name] = layer
    return wrapped


def layer_names(module: Any, layers: Sequence[int] | None = None) -> list[str]:
    """Names of the feed-forward modules of these blocks, counted from 0; None: of all.

    Raises:
        TargetError: there is no such block, or a layer is not understood.
    """
    names = list(feed_forwards(module))
    if layers is None:
        return names
    odd = [number for number in layers if not 0 <= number < len(names)]
    if odd:
        what = f"there is no layer {odd[0]}: the model has {len(names)} blocks"
        raise TargetError(what, where="layers", mend=f"choose 0 to {len(names) - 1}")
    return [names[number] for number in sorted(set(layers))]


def factored_layers(module: nn.Module) -> dict[str, FactoredFeedForward]:
    """The layers in pieces, by name.

    Raises:
        TargetError: there is none.
    """
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, FactoredFeedForward)}
    if not found:
        raise TargetError("no layer of the model is in pieces", mend="factorise it first")
    return cast("dict[str, FactoredFeedForward]", found)

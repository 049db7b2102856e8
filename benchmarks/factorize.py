"""How fast feed-forward layers in pieces are: dense, in pieces, and in pieces as they are often written.

    OMP_NUM_THREADS=1 python benchmarks/factorize.py --rounds 5

``masked loop`` computes every piece for every token and multiplies what is not wanted by zero, a Python loop over the
pieces: what the mixture is without dispatch, and what saves nothing. All ways take turns; the medians of the ratios
dense / way are reported, of the processor's seconds and of the clock's. The whole model is measured in the same manner:
reading a text at once, and saying a token at a time. Routers are as they were drawn, which spreads tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from keeps.claims.factorllm_speed import speed_up, whole_model
from keeps.models import LanguageModel
from keeps.models.factored_layers import FactorConfig, FactoredFeedForward, WrappedFactored, layer_names, put_factored
from keeps.numerics.factoring import multiply_adds


def cut(model: LanguageModel, experts: int, active: int) -> WrappedFactored:
    """All blocks in pieces that nothing has trained."""
    names = layer_names(model.model)
    wrapped = put_factored(model.model, FactorConfig(experts, active), dict.fromkeys(names), own=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in wrapped.layers.values():
            layer.start()
    return wrapped


def masked_loop(layer: FactoredFeedForward, x: Tensor) -> Tensor:
    """Every piece for every token."""
    rows = x.flatten(0, 1)
    weights, count = layer.pieces(), layer.config.experts
    size = weights["up"].shape[0] // count
    mask = torch.zeros(len(rows), count).scatter(1, layer.logits(rows).topk(layer.config.active).indices, 1.0)
    total = torch.zeros_like(rows)
    for number in range(count):
        part = slice(number * size, (number + 1) * size)
        inner = layer.parts.activation(functional.linear(rows, weights["gate"][part]))
        inner = inner * functional.linear(rows, weights["up"][part])
        total = total + mask[:, number : number + 1] * functional.linear(inner, weights["down"][:, part])
    return total.view_as(x)


def layers_alone(wrapped: WrappedFactored, tokens: int, rounds: int) -> dict[str, Any]:
    """All feed-forward layers, one after the other, on so many random tokens."""
    layers: list[Any] = list(wrapped.layers.values())
    x = torch.randn(1, tokens, layers[0].parts.width, generator=torch.Generator().manual_seed(0))

    def all_of(call: Callable[[Any], Tensor]) -> Callable[[], None]:
        def way() -> None:
            for layer in layers:
                call(layer)

        return way

    dense = all_of(lambda layer: layer.base_layer(x))
    ways = {"pieces": all_of(lambda layer: layer(x)), "masked loop": all_of(lambda layer: masked_loop(layer, x))}
    apart = []
    for layer in layers:
        looped = masked_loop(layer, x)
        apart.append(float((layer(x) - looped).abs().max() / looped.abs().max()))
    largest = max(apart)
    return {**{name: _rounded(speed_up(dense, way, rounds)) for name, way in ways.items()}, "apart": largest}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """By number of active pieces."""
    model = LanguageModel.load()
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "rounds": options.rounds, "experts": options.experts}
    for active in options.active:
        wrapped = cut(model, options.experts, active)
        try:
            with torch.inference_mode():
                alone = {f"{tokens} tokens": layers_alone(wrapped, tokens, options.rounds) for tokens in options.tokens}
            lengths = {"read_tokens": options.read, "said_tokens": options.said}
            whole = whole_model(model, wrapped.layers, rounds=options.rounds, **lengths)
            parts = next(iter(wrapped.layers.values())).parts
            dense, sparse = multiply_adds(parts.width, parts.channels, options.experts, active)
        finally:
            wrapped.unwrap()
        found[f"{active} active"] = {
            "multiplications, dense over pieces": round(dense / sparse, 2),
            "layers alone": alone,
            "whole model": {name: _rounded(ratios) for name, ratios in whole.items()},
        }
    return found


def _rounded(ratios: tuple[float, float]) -> dict[str, float]:
    return {"processor": round(ratios[0], 2), "clock": round(ratios[1], 2)}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--active", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 64, 512], help="of the layers alone")
    parser.add_argument("--read", type=int, default=512, help="tokens that the whole model reads at once")
    parser.add_argument("--said", type=int, default=16, help="tokens that it says after an eighth of that")
    parser.add_argument("--rounds", type=int, default=5, help="times that all ways are measured")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()

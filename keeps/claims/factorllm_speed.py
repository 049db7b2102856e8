"""How fast pieces are: the same tokens through the dense model and the one in pieces, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from keeps.models.cache import CacheState
from keeps.models.factored_layers import FactoredFeedForward
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating, selected_logits

Way = Callable[[], Any]


def tokens_of(model: LanguageModel, count: int, seed: int = 0) -> Tensor:
    """``(1, count)`` token ids drawn from the vocabulary."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(100, len(model.tokenizer), (1, count), generator=g).to(model.device)


def prefill(model: LanguageModel, ids: Tensor) -> Tensor:
    """Logits behind a text that is read at once."""
    mask = torch.ones_like(ids)
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[:, -1] = True
    return selected_logits(model.model, ids, mask, last)


def read(model: LanguageModel, ids: Tensor) -> CacheState:
    """Keys and values of a text, for :func:`decode`."""
    state = CacheState.empty(len(ids), ids.device)
    positions = torch.zeros_like(ids, dtype=torch.bool)
    positions[:, -1] = True
    selected_logits(model.model, ids, torch.ones_like(ids), positions, past=state)
    return state


def decode(model: LanguageModel, state: CacheState, ids: Tensor) -> None:
    """Tokens one after the other, each with its logits, behind what was read; ``state`` stays as it is."""
    state = state.select(torch.arange(len(ids), device=ids.device))
    one = torch.ones_like(ids[:, :1])
    for place in range(ids.shape[1]):
        selected_logits(model.model, ids[:, place : place + 1], one, one.bool(), past=state)


def dense_again(layers: Mapping[str, FactoredFeedForward], dense: bool) -> None:
    """Let the frozen layers answer in place of the pieces, or the pieces again."""
    for layer in layers.values():
        layer.forward = layer.base_layer.forward if dense else type(layer).forward.__get__(layer)


def speed_up(dense: Way, sparse: Way, rounds: int) -> tuple[float, float]:
    """Seconds of the dense way over those of the sparse one, in turns; medians of the processor's and the clock's.

    The first round is not counted.
    """
    found: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        taken = []
        for way in (dense, sparse):
            clock, processor = time.perf_counter(), time.process_time()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append((time.process_time() - processor, time.perf_counter() - clock))
        if number:
            found.append((taken[0][0] / taken[1][0], taken[0][1] / taken[1][1]))
    return statistics.median(ratio for ratio, _ in found), statistics.median(ratio for _, ratio in found)


def whole_model(
    model: LanguageModel, layers: Mapping[str, FactoredFeedForward], *, read_tokens: int, said_tokens: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Speed of the model in pieces over the dense one's, when it reads and when it says a token at a time.

    Args:
        layers: of ``model``, which is in pieces.

    Returns:
        By ``"prefill"`` and ``"decoding"`` the ratios of :func:`speed_up`.
    """
    ids = tokens_of(model, read_tokens)
    said = tokens_of(model, said_tokens, 1)

    def having(dense: bool, way: Way) -> Way:
        def timed() -> None:
            dense_again(layers, dense)
            way()

        return timed

    try:
        with torch.inference_mode(), evaluating(model.model):
            state = read(model, ids[:, : max(1, read_tokens // 8)])
            ways: dict[str, Way] = {
                "prefill": lambda: prefill(model, ids),
                "decoding": lambda: decode(model, state, said),
            }
            return {name: speed_up(having(True, way), having(False, way), rounds) for name, way in ways.items()}
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)

"""A model whose feed-forward layers are in pieces, and what its routers do with texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeps.errors import EmptySetError, SettingsError
from keeps.models.changes import ChangedModel
from keeps.models.checks import check_list
from keeps.models.covariances import token_batches
from keeps.models.factored_layers import FactoredFeedForward, WrappedFactored
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating, hidden_states
from keeps.numerics.factoring import agreement, multiply_adds

ROUTINGS = ("router", "prior")


@dataclass(frozen=True)
class ExpertUse:
    """What the routers did with some tokens.

    Attributes:
        shares: share of the tokens that each piece was active for, ``(layers, experts)``; rows sum to K.
        agreement: share of the K pieces closest to the dense output that were active, ``(layers,)``; by chance K / N.
        tokens: how many there were.
    """

    shares: Tensor
    agreement: Tensor
    tokens: int


class FactoredModel(ChangedModel):
    """The base with its feed-forward layers in pieces, of which each token uses K of N."""

    def __init__(
        self, base: LanguageModel, wrapped: WrappedFactored, *, name: str, fingerprint: str, undo: Callable[[], Any]
    ) -> None:
        super().__init__(base, base.model, name=name, fingerprint=fingerprint, undo=undo)
        self.wrapped = wrapped

    @property
    def multiply_adds(self) -> tuple[int, int]:
        """Multiplications of a token in the feed-forward layers that were cut: dense, and in pieces with routers."""
        config = self.wrapped.config
        found = [
            multiply_adds(
                layer.parts.width,
                layer.parts.up_ref.out_features,
                config.experts,
                config.active,
                2 if layer.parts.gate_ref is None else 3,
                padding=layer.parts.padding,
            )
            for layer in self.wrapped.layers.values()
        ]
        return sum(dense for dense, _ in found), sum(sparse for _, sparse in found)

    @contextmanager
    def routed_by(self, routing: str) -> Iterator[FactoredModel]:
        """Inside the block ``"prior"`` lets the labels choose: the bound of every router, at more than dense cost.

        Raises:
            SettingsError: another routing.
        """
        if routing not in ROUTINGS:
            raise SettingsError(f'there is no routing "{routing}"', mend=f"choose {' or '.join(ROUTINGS)}")
        with _set(self.wrapped, "routing", routing):
            yield self

    def usage(self, texts: Sequence[str]) -> ExpertUse:
        """Which pieces the tokens of texts use, and how often they are those that come closest to the dense layer.

        Raises:
            EmptySetError: there is no text.
        """
        check_list(texts, "texts")
        rows = [self.encoder.text(text)[: self.context_length] for text in texts]
        layers = list(self.wrapped.layers.values())
        if not rows or not layers:
            raise EmptySetError("there is nothing to run through the pieces", mend="give texts, before undo()")
        counts = torch.zeros(len(layers), self.wrapped.config.experts, dtype=torch.float64)
        hits = torch.zeros(len(layers), dtype=torch.float64)
        tokens = 0
        with evaluating(self.model), torch.no_grad(), _set(self.wrapped, "recording", True):
            for batch in token_batches(rows, pad_token_id=self.encoder.pad_token_id):
                mask = batch["attention_mask"].to(self.device)
                hidden_states(self.model, batch["input_ids"].to(self.device), mask)
                keep = mask.flatten().bool()
                tokens += int(keep.sum())
                for number, layer in enumerate(layers):
                    assert layer.seen is not None
                    assert layer.seen.labels is not None
                    active, labels = layer.seen.mask[keep], layer.seen.labels[keep]
                    counts[number] += active.sum(0).double().cpu()
                    hits[number] += float(agreement(active, labels).double().sum())
        return ExpertUse(counts / tokens, hits / tokens, tokens)


@contextmanager
def _set(wrapped: WrappedFactored, name: str, value: Any) -> Iterator[None]:
    """An attribute of every layer with another value inside the block; what was recorded goes with it."""
    layers: list[FactoredFeedForward] = list(wrapped.layers.values())
    before = [getattr(layer, name) for layer in layers]
    for layer in layers:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            setattr(layer, name, old)
            layer.seen = layer.target = None

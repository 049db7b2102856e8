"""Train routers, and the pieces of feed-forward layers, against the dense layers they were cut from.

    L = L_LM + lambda_r sum_layers L_PA + lambda_b sum_layers L_bal                 (arXiv:2408.11855)

L_PA is the prior-approximate loss: the frozen dense layer is the teacher, the K pieces whose output comes closest to
K / N of its own are the label of a token (:mod:`keeps.numerics.factoring`). Means are over tokens that are no padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keeps.errors import TargetError
from keeps.models.factored_layers import FactoredFeedForward, factored_layers
from keeps.numerics.factoring import Divergence, agreement, balance_term, prior_loss
from keeps.training.batches import Batch
from keeps.training.losses import AnswerLoss, answer_states, summed_loss


@dataclass
class Terms:
    """Of the last forward pass, means over tokens: ``prior`` and ``balance`` summed over layers, the rest averaged.

    Without a prior-approximate loss there are no labels, and ``prior`` and ``agreement`` are no numbers.
    """

    language: float
    balance: float
    prior: float = math.nan
    agreement: float = math.nan


class FactoringLoss(AnswerLoss):
    """The loss of a batch, scaled as :func:`keeps.training.train` wants it: by the answer tokens of the batch.

    Args:
        model: with layers in pieces.
        prior_weight: lambda_r; ``balance_weight``: lambda_b.
        divergence: see :func:`keeps.numerics.factoring.prior_loss`.
        teacher: ``"self"``: the dense layer reads what the pieces read. ``"dense"``: it reads what it would read in
            the dense model, for which that is run too.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        prior_weight: float,
        balance_weight: float,
        divergence: Divergence = "label",
        teacher: str = "self",
    ) -> None:
        super().__init__(model)
        self.prior_weight, self.balance_weight = prior_weight, balance_weight
        self.divergence: Divergence = divergence
        self.teacher = teacher
        self.terms = Terms(math.nan, math.nan)

    def forward(self, batch: Batch) -> Tensor:
        """Summed cross-entropy in nats plus the other terms times the answer tokens: a float32 scalar."""
        layers = list(factored_layers(self.model).values())
        if self.teacher == "dense" and self.prior_weight:
            with torch.no_grad(), _routing(layers, "dense"):
                answer_states(self.model, batch)
        with _recording(layers, labelling=bool(self.prior_weight)):
            hidden, head = answer_states(self.model, batch)
            language = summed_loss(hidden, head, batch.targets)
            prior, hits, balance = self._layers(layers, batch.attention_mask)
        tokens = max(1, len(batch.targets))
        self.terms = Terms(language.item() / tokens, balance.item(), prior.item(), hits.item())
        weighted = self.balance_weight * balance + (self.prior_weight * prior if self.prior_weight else 0)
        return language + tokens * weighted

    def _layers(self, layers: list[FactoredFeedForward], attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prior-approximate loss, agreement with its labels, balance."""
        found = []
        for layer in layers:
            seen = layer.seen
            assert seen is not None
            keep = _real(attention_mask, len(seen.logits))
            none = seen.logits.new_full((), math.nan)
            prior = none if seen.labels is None else prior_loss(seen.logits, seen.labels, self.divergence)[keep].mean()
            hits = none if seen.labels is None else agreement(seen.mask, seen.labels)[keep].mean()
            found.append((prior, hits, balance_term(seen.logits.softmax(-1), seen.mask)[keep].mean()))
        prior, hits, balance = (torch.stack(each) for each in zip(*found, strict=True))
        return prior.sum(), hits.mean(), balance.sum()


def _real(attention_mask: Tensor, rows: int) -> Tensor:
    """Which of the rows that a layer saw are tokens: all of them where the batch was packed."""
    mask = attention_mask.reshape(-1).bool()
    if rows == mask.numel():
        return mask
    if rows != int(mask.sum()):
        raise TargetError(f"the layers saw {rows} tokens of a batch of {mask.numel()}", mend="train with another model")
    return torch.ones(rows, dtype=torch.bool, device=mask.device)


@contextmanager
def _routing(layers: list[FactoredFeedForward], routing: str) -> Iterator[None]:
    before = [layer.routing for layer in layers]
    for layer in layers:
        layer.routing = routing
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.routing = old


@contextmanager
def _recording(layers: list[FactoredFeedForward], *, labelling: bool) -> Iterator[None]:
    for layer in layers:
        layer.recording, layer.labelling = True, labelling
    try:
        yield
    finally:
        for layer in layers:
            layer.recording, layer.labelling, layer.seen, layer.target = False, True, None, None

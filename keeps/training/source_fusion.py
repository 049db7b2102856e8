"""Several sources' next-token distributions as what a model is trained towards, with a network that selects sources.

    L = lambda L_CLM + (1 - lambda) sum_i w_i CE(P_i, model) + gamma L_feed          (Fusion-X, arXiv:2505.23844)

The distributions are brought to the model's own tokens once, before training (:func:`aligned_targets`), and kept as a
few ids and probabilities a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from keeps.models.logit_dumps import LogitDump
from keeps.models.token_alignment import align_tokens
from keeps.models.token_bytes import TokenBytes
from keeps.models.vocabulary_map import VocabularyMap
from keeps.numerics.source_fusion import (
    certainty,
    feedback,
    kept_probabilities,
    merged_tokens,
    selected_weights,
    source_weights,
    sparse_cross_entropy,
)
from keeps.training.batches import Batch
from keeps.training.losses import answer_states

CHUNK = 512  # positions projected at a time
GOLD, HEARD, UNKNOWN = 0, 1, 2  # no match; a source is heard; it says nothing that the model knows
SELECTOR = "keeps_selector"  # the network's place in the model while both are trained


@dataclass(frozen=True)
class Targets:
    """What the sources say behind each token of one text but the last.

    Attributes:
        ids, p: ``(positions, sources, k)`` int64 and float32.
        rest: ``(positions, sources)``, spread evenly over the vocabulary.
        losses: ``(sources,)``, of the text.
    """

    ids: Tensor
    p: Tensor
    rest: Tensor
    losses: Tensor


@dataclass(frozen=True)
class SourceReading:
    """A source's dump, how its tokens are spelt, and which of the model's tokens stand for them."""

    name: str
    dump: LogitDump
    tokens: TokenBytes
    vocabulary: VocabularyMap


@dataclass
class Matches:
    """Counts of positions: all, those with a one-to-one match, and of these the ones whose tokens were all unknown."""

    positions: int = 0
    matched: int = 0
    unknown: int = 0

    @property
    def share(self) -> float:
        """Of the positions that a source says something about; elsewhere the next token itself is the target."""
        return (self.matched - self.unknown) / max(self.positions, 1)


def aligned_targets(
    text: str,
    number: int,
    ids: Sequence[int],
    sources: Sequence[SourceReading],
    target: TokenBytes,
    matches: Mapping[str, Matches],
    *,
    alignment: str = "bytes",
    temperature: float = 1.0,
    remainder: str = "renormalise",
    base: int | None = None,
) -> Targets:
    """What ``sources`` say of a text, in the model's tokens.

    A position has a match where exactly one source token stands beside the model's, and both are equal but for the
    sign of a word's beginning, or by the vocabulary map. Elsewhere the target is the next token itself; where a match
    leaves no token that the model knows, it is what the source number ``base`` says, if it says something.

    Args:
        number: of the text in the dumps.
        ids: the text in the model's tokens.
        matches: counts by the source's name, which are added to.
    """
    gold = torch.tensor(ids[1:])
    heard = [
        _heard(text, number, ids, source, target, matches[source.name], alignment, temperature, remainder)
        for source in sources
    ]
    width = max(each.ids.shape[-1] for each in heard)
    own = functional.pad(gold[:, None], (0, width - 1))
    nothing_else = functional.pad(torch.ones(len(gold), 1), (0, width - 1))
    columns, probabilities, rests = [], [], []
    for each in heard:
        chosen, p = (functional.pad(values, (0, width - values.shape[-1])) for values in (each.ids, each.p))
        says = each.state[:, None] == HEARD
        columns.append(torch.where(says, chosen, own))
        probabilities.append(torch.where(says, p, nothing_else))
        rests.append(torch.where(says[:, 0], each.rest, 0.0))
    if base is not None:
        for place, each in enumerate(heard):
            lost = (each.state == UNKNOWN) & (heard[base].state == HEARD)
            columns[place] = torch.where(lost[:, None], columns[base], columns[place])
            probabilities[place] = torch.where(lost[:, None], probabilities[base], probabilities[place])
            rests[place] = torch.where(lost, rests[base], rests[place])
    losses = torch.stack([source.dump.losses[number] for source in sources])
    return Targets(torch.stack(columns, 1), torch.stack(probabilities, 1), torch.stack(rests, 1), losses)


@dataclass(frozen=True)
class _Heard:
    """What one source says of a text: ids, p ``(positions, k)``, rest and state ``(positions,)``."""

    ids: Tensor
    p: Tensor
    rest: Tensor
    state: Tensor


def _heard(
    text: str,
    number: int,
    ids: Sequence[int],
    source: SourceReading,
    target: TokenBytes,
    matches: Matches,
    alignment: str,
    temperature: float,
    remainder: str,
) -> _Heard:
    rows = source.dump.rows(number)
    theirs = source.dump.tokens[rows].tolist()
    beside = align_tokens(text, theirs, ids, source.tokens, target, alignment)[:-1]
    to = source.vocabulary.targets
    place = torch.tensor(
        [
            here[0] if len(here) == 1 and _equal(theirs[here[0]], ids[position], source.tokens, target, to) else -1
            for position, here in enumerate(beside)
        ]
    )
    match = place >= 0
    read = place.clamp_min(0) + rows.start
    mapped = torch.from_numpy(to)[source.dump.ids[read].long()]
    logits = merged_tokens(mapped, source.dump.logits[read])
    known = logits.isfinite().any(-1)
    p, rest = kept_probabilities(logits, source.dump.logsumexp[read], temperature=temperature, remainder=remainder)
    state = torch.where(match, torch.where(known, HEARD, UNKNOWN), GOLD)
    matches.positions += len(state)
    matches.matched += int(match.sum())
    matches.unknown += int((state == UNKNOWN).sum())
    return _Heard(mapped.clamp_min(0), p, rest, state)


def _equal(theirs: int, ours: int, source: TokenBytes, target: TokenBytes, to: np.ndarray) -> bool:
    """Whether two tokens are the same but for the sign of a word's beginning, or by the map."""
    if to[theirs] == ours:
        return True
    bare = source.bare(theirs)
    return bool(bare) and bare == target.bare(ours)


class SelectionNetwork(nn.Module):
    """K -> 2K -> K -> K with GELU between, from how sure the sources are of a text to what to think of them.

    Args:
        rate: how much faster it learns than what it is trained with. Adam's steps do not depend on the size of a
            gradient, so parameters that are kept divided by ``rate`` move ``rate`` times as far. Their gradients are
            those of the parameters themselves: the norm by which all gradients are clipped is what it would be.
    """

    def __init__(self, sources: int, *, rate: float = 1.0) -> None:
        super().__init__()
        sizes = (sources, 2 * sources, sources, sources)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.rate = rate
        with torch.no_grad():
            for parameter in self.parameters():
                parameter /= rate
                parameter.register_hook(lambda gradient: gradient / rate)

    def forward(self, sure: Tensor) -> Tensor:
        """g ``(texts, sources)`` of r ``(texts, sources)``."""
        values = sure
        for number, layer in enumerate(self.layers):
            values = values if number == 0 else functional.gelu(values)
            values = functional.linear(values, layer.weight * self.rate, layer.bias * self.rate)  # type: ignore[operator]
        return values.softmax(-1)


@dataclass(frozen=True)
class FusionRule:
    """How sources are weighed and losses added.

    Attributes:
        strategy: ``"adaptive"``, ``"min_ce"`` or ``"avg_ce"``.
        language_weight: lambda, of the loss on the texts themselves.
        feedback: gamma.
        threshold: tau.
    """

    strategy: str = "adaptive"
    language_weight: float = 0.9
    feedback: float = 0.5
    threshold: float = 0.15

    def weights(self, losses: Tensor, selector: nn.Module | None) -> Tensor:
        """w of losses ``(texts, sources)``."""
        if self.strategy != "adaptive":
            return source_weights(losses, self.strategy)
        assert selector is not None, "the adaptive strategy has a network"
        return selected_weights(selector(certainty(losses)), self.threshold)


class FusionLoss(nn.Module):
    """The loss of a batch, summed over its positions; gamma's part counts once a position.

    Args:
        model: a causal language model, with the selection network as its submodule :data:`SELECTOR` where the strategy
            has one.
        targets: by the tokens of a text.
    """

    def __init__(self, model: nn.Module, targets: Mapping[tuple[int, ...], Targets], rule: FusionRule) -> None:
        super().__init__()
        self.model, self.rule = model, rule
        self.targets = dict(targets)

    def forward(self, batch: Batch) -> Tensor:
        """A float32 scalar, 0 where nothing is predicted."""
        hidden, head = answer_states(self.model, batch)
        lengths, predicted = batch.attention_mask.sum(1).tolist(), batch.predicting.sum(1).tolist()
        keys = [tuple(row[:length]) for row, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
        chosen = [self.targets[key] for key, count in zip(keys, predicted, strict=True) if count]
        if not chosen:
            return hidden.sum() * 0.0
        device = hidden.device
        ids, p, rest = (torch.cat([getattr(each, name) for each in chosen]).to(device) for name in ("ids", "p", "rest"))
        weights = self.rule.weights(
            torch.stack([each.losses for each in chosen]).to(device), getattr(self.model, SELECTOR, None)
        )
        counts = torch.tensor([len(each.ids) for each in chosen], device=device)
        own = weights.repeat_interleave(counts, 0)

        def piece(states: Tensor, tokens: Tensor, ids: Tensor, p: Tensor, rest: Tensor, own: Tensor) -> Tensor:
            log_q = head(states).float().log_softmax(-1)
            plain = -log_q.gather(-1, tokens[:, None]).sum()
            fused = (own * sparse_cross_entropy(log_q, ids, p, rest)).sum()
            return self.rule.language_weight * plain + (1 - self.rule.language_weight) * fused

        whole = (hidden, batch.targets, ids, p, rest, own)
        if len(batch.targets) <= CHUNK:
            total = piece(*whole)
        else:  # only one piece's logits are ever in memory, at the price of computing them twice
            pieces = zip(*(each.split(CHUNK) for each in whole), strict=True)
            total = torch.stack([checkpoint(piece, *each, use_reentrant=False) for each in pieces]).sum()  # type: ignore[arg-type]
        if self.rule.strategy == "adaptive" and self.rule.feedback:
            total = total + self.rule.feedback * feedback(weights) * len(batch.targets)
        return total


@contextmanager
def selecting(module: Any, sources: int, *, rate: float, seed: int) -> Iterator[SelectionNetwork]:
    """A new selection network as part of ``module``, so that both are trained together; taken out afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SelectionNetwork(sources, rate=rate)
    module.add_module(SELECTOR, network.to(next(module.parameters()).device))
    try:
        yield network
    finally:
        delattr(module, SELECTOR)

"""Decoding with cached activations that are moved before each token: the policy as it is, and the one that was nudged.

At each step the cache H holds everything before the last token x. A loss of the next token's logits is descended in a
change δ of H alone; no weight takes a gradient. Two streams come out, unchanged and nudged policy, so that whoever
decodes can fuse them. Activations are moved the way of PPLM (Dathathri et al. 2020, arXiv:1912.02164); the loss and
the fusion are those of KID (:mod:`keeps.numerics.knowledge_infusion`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from keeps.decoding.caches import prefill
from keeps.errors import SettingsError
from keeps.models.cache import CacheState
from keeps.models.generation import last_logits
from keeps.models.scoring import Engine, Tokens
from keeps.numerics.divergences import kl_divergence
from keeps.numerics.knowledge_infusion import TINY, bounded, descent, infusion_loss, log_mass, row_norms


@dataclass(frozen=True)
class Nudge:
    """How activations are moved.

    Attributes:
        steps: descents a token; 0 moves nothing.
        size: η, the length of a step before its division by the norm.
        gamma: γ, the power of the norm that a step is divided by.
        bound: most that a layer's change may be long, as a share of the length of its activations.
        persist: whether the following tokens see the changed activations.
    """

    steps: int = 3
    size: float = 0.01
    gamma: float = 1.5
    bound: float = 1.0
    persist: bool = True


@dataclass(frozen=True)
class Effect:
    """What a step did to one row: probability of what is wanted before and after (0 where nothing is), nats, β."""

    before: float
    after: float
    kl: float
    beta: float


class Guide(Protocol):
    """Says for one row what is wanted next, and hears what came of it."""

    beta: float

    def wanted(self) -> Sequence[int]:
        """Ids of the tokens that should become likely, as often as they count; none leaves the row as it is."""
        ...

    def told(self, effect: Effect) -> None:
        """Called once a token, before it is chosen."""
        ...

    def append(self, token: int) -> None:
        """The token that was chosen."""
        ...


class PerturbedVoice:
    """A :class:`keeps.decoding.voices.Voice`: rows of one model in one batch, whose cache is moved before every token.

    Gives two streams: the logits as they are, and those with moved activations (bit for bit the same where a guide
    wants nothing, or where ``nudge`` has no steps or steps of no size).

    Args:
        prompts: two tokens or more each: the cache must hold something before the last one.
        guides: one a prompt.

    Raises:
        SettingsError: the model's cache is not one of plain keys and values, or a prompt has one token.
    """

    streams = (0, 1)

    def __init__(self, engine: Engine, prompts: Sequence[Tokens], guides: Sequence[Guide], nudge: Nudge) -> None:
        if any(len(prompt) < 2 for prompt in prompts):
            mend = "put a token that begins texts in front of it"
            raise SettingsError("a prompt of one token has no cached activations to move", mend=mend)
        self.engine, self.prompts, self.guides, self.nudge = engine, prompts, list(guides), nudge
        self.state: CacheState | None = None  # of everything before the last token

    def start(self) -> Tensor:
        """See :class:`keeps.decoding.voices.Voice`; ``(2, rows, vocabulary)`` float32."""
        _, self.state = prefill(self.engine, [prompt[:-1] for prompt in self.prompts])
        check_plain(self.state)
        return self._both([prompt[-1] for prompt in self.prompts])

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See :class:`keeps.decoding.voices.Voice`."""
        for guide, token in zip(self.guides, tokens, strict=True):
            guide.append(token)
        return self._both(tokens)

    def select(self, rows: Sequence[int]) -> None:
        """See :class:`keeps.decoding.voices.Voice`; no row may repeat, since its guide goes with it."""
        if len(set(rows)) < len(rows):
            raise SettingsError("a row repeats", where="moved activations", mend="decode without beams")
        assert self.state is not None, "a voice starts before rows leave it"
        self.state = self.state.select(torch.tensor(rows, device=self.engine.device))
        self.guides = [self.guides[row] for row in rows]

    def _both(self, tokens: Sequence[int]) -> Tensor:
        """The logits behind ``tokens``, as they are and nudged; the state goes on."""
        assert self.state is not None
        state = self.state
        plain, old = self._read(state, tokens)
        counts = self._counts([guide.wanted() for guide in self.guides], old)
        active = counts.gt(0).any(-1)
        if not bool(active.any()) or not self.nudge.steps or not self.nudge.size:
            self.state, new = plain, old
        else:
            changes = self._descend(state, tokens, old, counts, active)
            moved, new = self._read(with_changes(state, changes), tokens)
            self.state = moved if self.nudge.persist else plain
        self._tell(old, new, counts, active)
        return torch.stack([old, new])

    def _read(self, state: CacheState, tokens: Sequence[int]) -> tuple[CacheState, Tensor]:
        """Feed one token a row after ``state``, which stays as it is: the state behind it, and float32 logits."""
        after = with_changes(state, None)
        return after, last_logits(self.engine, [[token] for token in tokens], after).float()

    def _counts(self, wanted: Sequence[Sequence[int]], like: Tensor) -> Tensor:
        counts = torch.zeros_like(like)
        for row, ids in enumerate(wanted):
            for number in ids:
                counts[row, number] += 1
        return counts

    def _descend(
        self, state: CacheState, tokens: Sequence[int], old: Tensor, counts: Tensor, active: Tensor
    ) -> list[Tensor]:
        """δ of every layer, ``(2, rows, heads, slots, size)``: keys and values."""
        held = [torch.stack([layer.keys, layer.values]).float() for layer in state.keys_values.layers]
        changes = [torch.zeros_like(values) for values in held]
        norms: list[Tensor] | None = None
        beta = torch.tensor([guide.beta for guide in self.guides], device=old.device)
        for _ in range(self.nudge.steps):
            leaves = [change.requires_grad_(True) for change in changes]
            with torch.enable_grad():
                _, new = self._read(with_changes(state, leaves), tokens)
                loss = infusion_loss(new, old, counts, beta)
                gradients = torch.autograd.grad(loss.sum(), leaves)
            lengths = [row_norms(gradient) for gradient in gradients]
            if norms is None:
                norms = [length + TINY for length in lengths]
            else:
                norms = [torch.maximum(most, length) for most, length in zip(norms, lengths, strict=True)]
            changes = [
                self._moved(change.detach(), gradient, norm, values, active)
                for change, gradient, norm, values in zip(changes, gradients, norms, held, strict=True)
            ]
        return changes

    def _moved(self, change: Tensor, gradient: Tensor, norm: Tensor, values: Tensor, active: Tensor) -> Tensor:
        step = descent(gradient, norm, self.nudge.size, self.nudge.gamma)
        # What is next to nothing in a row without terms would be divided by next to nothing.
        step = step * active.view(1, -1, 1, 1, 1)
        return bounded(change + step.nan_to_num(0.0), values, self.nudge.bound)

    def _tell(self, old: Tensor, new: Tensor, counts: Tensor, active: Tensor) -> None:
        before, after = (log_mass(logits, counts.gt(0).float()).exp().tolist() for logits in (old, new))
        kl = kl_divergence(new, old).tolist()
        for row, guide in enumerate(self.guides):
            beta = guide.beta if active[row] else 0.0
            guide.told(Effect(before[row], after[row], kl[row], beta))


def with_changes(state: CacheState, changes: Sequence[Tensor] | None) -> CacheState:
    """A state that shares ``state``'s tensors, or has ``changes`` ``(2, rows, heads, slots, size)`` added to them.

    What is fed after it leaves ``state`` as it is: transformers appends to keys and values by concatenation.
    """
    keys_values: Any = copy.copy(state.keys_values)
    keys_values.layers = [copy.copy(layer) for layer in state.keys_values.layers]
    for layer, change in zip(keys_values.layers, changes or (), strict=bool(changes)):
        layer.keys = (layer.keys.float() + change[0]).to(layer.keys.dtype)
        layer.values = (layer.values.float() + change[1]).to(layer.values.dtype)
    return CacheState(keys_values, state.mask, state.lengths)


def check_plain(state: CacheState) -> None:
    """Refuse caches whose activations cannot be moved: quantised, static, sliding or recurrent ones.

    Raises:
        SettingsError: a layer of the cache is not a plain one of keys and values.
    """
    from transformers.cache_utils import DynamicLayer

    for number, layer in enumerate(state.keys_values.layers):
        if type(layer) is not DynamicLayer or not layer.is_initialized:
            what = f"block {number} of the model has a cache of kind {type(layer).__name__}"
            mend = "take a model that caches all keys and values of every block"
            raise SettingsError(f"{what}, which cannot be moved", where="cached activations", mend=mend)

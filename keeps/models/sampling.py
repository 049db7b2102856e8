"""Sampled continuations of many prompts at once, each with a random number generator of its own.

    p_i ∝ exp(z_i / temperature), over the smallest set of likeliest tokens that holds top_p of it

One number u in [0, 1) a token, and the first token whose cumulated probability exceeds u: what an item says depends
on its seed, not on what else is in the call (but for the rounding of logits). ``top_p`` is nucleus sampling (Holtzman
et al. 2020, arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from keeps.errors import SettingsError
from keeps.models.batching import length_batches
from keeps.models.cache import CacheState
from keeps.models.checks import check_context, check_lengths, located
from keeps.models.generation import CALL_COST, Choose, Ending, decode, decode_without_cache, last_logits, most_likely
from keeps.models.prefix import PrefixGroup, plan_prefixes
from keeps.models.scoring import Advance, Engine, Tokens
from keeps.models.stopping import StopRule


@dataclass(frozen=True)
class Softness:
    """How far a draw may stray from the most likely token; a temperature of 0 is greedy.

    Raises:
        SettingsError: the temperature is negative or no number, or ``top_p`` is not in (0, 1].
    """

    temperature: float
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SettingsError(f"temperature is {self.temperature}", where="sampling", mend="choose 0 or more")
        if not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p is {self.top_p}", where="sampling", mend="choose above 0 and at most 1")


def sampling_probabilities(logits: Tensor, softness: Softness) -> Tensor:
    """What tokens are drawn with, ``(rows, vocabulary)`` float64; ``temperature`` must be above 0."""
    p = (logits.double() / softness.temperature).softmax(-1)
    if softness.top_p == 1:
        return p
    ordered, order = p.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= softness.top_p  # the likelier ones alone hold top_p already
    p = p.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)
    return p / p.sum(-1, keepdim=True)


def drawn(p: Tensor, uniform: Tensor) -> Tensor:
    """The first token of each row whose cumulated probability exceeds its number in [0, 1).

    Args:
        p: ``(rows, vocabulary)`` float64, sums of 1.
        uniform: ``(rows,)`` float64.

    Returns:
        ``(rows,)`` int64; tokens of probability 0 are never drawn.

    >>> drawn(torch.tensor([[0.5, 0.0, 0.5]] * 2), torch.tensor([0.4, 0.5])).tolist()
    [0, 2]
    """
    total = p.cumsum(-1)
    # Rounding may leave the sum a little below u; then the last token that has any probability is meant.
    below = torch.minimum(uniform[:, None], torch.nextafter(total[:, -1:], torch.zeros_like(total[:, -1:])))
    return torch.searchsorted(total, below, right=True).squeeze(-1)


def continue_sampled(
    engine: Engine,
    contexts: Sequence[Tokens],
    seeds: Sequence[int],
    softness: Softness,
    ending: Ending,
    *,
    advance: Advance | None = None,
) -> list[list[int]]:
    """The tokens of a sampled continuation of each context."""
    found: list[list[int]] = [[] for _ in contexts]
    longest = max((len(context) for context in contexts), default=0)
    cached = engine.may_cache(longest + ending.max_new_tokens)
    everything = [PrefixGroup(0, tuple(range(len(contexts))))] if contexts else []
    beginnings = [context[:-1] for context in contexts]
    for group in plan_prefixes(beginnings, call_cost=CALL_COST) if cached else everything:
        prefix = engine.start(contexts[group.members[0]][: group.length])
        rows = [contexts[index][group.length :] for index in group.members]
        past = group.length + ending.max_new_tokens
        for batch in length_batches([len(row) for row in rows], budget=engine.budget, past=past, slots=engine.slots):
            numbers = [group.members[index] for index in batch]
            state = engine.repeat(prefix, len(batch))
            if state is None and cached:
                state = CacheState.empty(len(batch), engine.device)
            choose = drawing([seeds[number] for number in numbers], softness)
            for number, tokens in zip(
                numbers, _batch(engine, [rows[index] for index in batch], state, ending, choose), strict=True
            ):
                found[number] = tokens
            if advance:
                advance(len(batch))
    return found


class Sampling:
    """The part of a :class:`keeps.models.LanguageModel` that samples."""

    if TYPE_CHECKING:
        name: str

        @property
        def context_length(self) -> int: ...

        def encode_prompt(self, prompt: str) -> list[int]: ...

        def _reading(self) -> AbstractContextManager[Engine]: ...

        def _ending(self, max_new_tokens: int, rule: StopRule) -> Ending: ...

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int = 16,
        stop: Sequence[str] = ("\n",),
        sentence: bool = False,
        advance: Advance | None = None,
    ) -> list[str]:
        """One sampled continuation of each prompt, cut before the first of ``stop`` and stripped.

        Args:
            seeds: one a prompt; the same prompt with the same seed gives the same text whatever else is asked.
            temperature: 0 is greedy, 1 the model's own distribution.
            top_p: probability of the nucleus that is drawn from, in (0, 1].

        Raises:
            RecordError: a prompt is empty, or there are not as many seeds.
            SettingsError: a temperature or ``top_p`` out of range.
            ContextLengthError: a prompt leaves no room for ``max_new_tokens``.
        """
        check_lengths(prompts, seeds, "seeds")
        softness = Softness(temperature, top_p)
        ending = self._ending(max_new_tokens, StopRule(tuple(stop), sentence))
        contexts = [located(number, self.encode_prompt, prompt) for number, prompt in enumerate(prompts)]
        for number, (context, prompt) in enumerate(zip(contexts, prompts, strict=True)):
            check_context(number, prompt, len(context) + max_new_tokens, self.context_length, self.name)
        with self._reading() as engine:
            found = continue_sampled(engine, contexts, seeds, softness, ending, advance=advance)
        return [ending.text(tokens) for tokens in found]


def _batch(
    engine: Engine, rows: Sequence[Tokens], state: CacheState | None, ending: Ending, choose: Choose
) -> list[list[int]]:
    first = choose(range(len(rows)), last_logits(engine, rows, state))
    tokens = [[token] for token in first]
    if state is None:
        decode_without_cache(engine, rows, tokens, ending, choose)
    else:
        decode(engine, state, tokens, ending, choose)
    return tokens


def drawing(seeds: Sequence[int], softness: Softness) -> Choose:
    """Draws for rows by their numbers in ``seeds``; each row's numbers come from its own seed, on the CPU."""
    if softness.temperature == 0:
        return most_likely
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def choose(rows: Sequence[int], logits: Tensor) -> list[int]:
        uniform = torch.stack([torch.rand((), dtype=torch.float64, generator=generators[row]) for row in rows])
        return drawn(sampling_probabilities(logits, softness), uniform.to(logits.device)).tolist()

    return choose

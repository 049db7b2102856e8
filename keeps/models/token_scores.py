"""Answers and texts token by token: each one's log-probability, the argmax there, and the moments over the vocabulary.

Accuracy under teacher forcing, exact memorisation and the membership attacks that look at the least likely tokens
need more of an answer than the sum that :func:`keeps.models.scoring.score_pairs` keeps; the passes are the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from keeps.errors import RecordError
from keeps.models.cache import CacheState
from keeps.models.checks import Pair, check_context, check_lengths, located, short
from keeps.models.gradient_norms import Kind, gradient_norm
from keeps.models.projection import chunks
from keeps.models.scoring import Advance, Engine, Tokens, Wanted, read_pairs, vocabulary_size, wanted_states
from keeps.models.windows import text_windows

if TYPE_CHECKING:
    from keeps.models.tokens import TextEncoder


@dataclass(frozen=True)
class TokenScores:
    """An answer after its prompt, or a running text, token by token (natural logarithms).

    Attributes:
        logprobs: log-probability of each token, given everything before it.
        greedy: whether each token is the most likely one there (teacher forcing: what follows a token that is not
            is still conditioned on the true one).
        best: id of the most likely token at each place.
        means: mean of ln p over the vocabulary at each place, Σ p ln p; empty unless moments were asked for.
        deviations: standard deviation of ln p there, sqrt(Σ p (ln p)² - mean²); empty likewise.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    best: tuple[int, ...]
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens scored."""
        return len(self.logprobs)

    @property
    def logprob(self) -> float:
        """Log-probability of the whole, summed over its tokens."""
        return math.fsum(self.logprobs)

    @property
    def accuracy(self) -> float:
        """Share of the tokens that are the most likely ones, in [0, 1].

        >>> TokenScores((-1.0, -2.0), (True, False), (5, 6)).accuracy
        0.5
        """
        return sum(self.greedy) / len(self.greedy)

    @property
    def probability(self) -> float:
        """``exp`` of the mean log-probability of a token: the geometric mean of their probabilities, in [0, 1]."""
        return math.exp(self.logprob / len(self.logprobs))


def scores_from_json(value: dict[str, Any]) -> TokenScores:
    """What was written as JSON, with its lists as tuples again."""
    return TokenScores(**{name: tuple(items) for name, items in value.items()})


@dataclass
class _Lists:
    """What was read so far, one list a pair."""

    moments: bool
    logprobs: list[list[float]]
    greedy: list[list[bool]]
    best: list[list[int]]
    means: list[list[float]] = field(default_factory=list)
    deviations: list[list[float]] = field(default_factory=list)

    @classmethod
    def of(cls, count: int, moments: bool) -> _Lists:
        return cls(moments, *([[] for _ in range(count)] for _ in range(5)))

    def read(self, engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: CacheState | None) -> None:
        """Add one batch; the places of a pair come in their order."""
        hidden, head, places = wanted_states(engine, rows, wanted, state)
        tokens = torch.tensor([want.token for want in wanted], device=engine.device)
        begin = 0
        for piece in chunks(len(hidden), vocabulary_size(engine.model)):
            end = int(torch.searchsorted(places, piece.stop))
            if end == begin:
                continue
            logprobs = head(hidden[piece]).float().log_softmax(-1)  # (positions, vocabulary)
            local, here = places[begin:end] - piece.start, tokens[begin:end]
            best = logprobs.argmax(-1)[local]
            columns = [logprobs[local, here].tolist(), (best == here).tolist(), best.tolist()]
            if self.moments:
                columns += [values[local].tolist() for values in _moments(logprobs)]
            for want, values in zip(wanted[begin:end], zip(*columns, strict=True), strict=True):
                self._append(want.number, values)
            begin = end

    def _append(self, pair: int, values: Sequence[Any]) -> None:
        lists = (self.logprobs, self.greedy, self.best, self.means, self.deviations)
        for of_pairs, value in zip(lists, values, strict=False):
            of_pairs[pair].append(value)

    def joined(self, parts: Sequence[int]) -> TokenScores:
        """The pairs ``parts``, one behind another, as one."""
        lists: list[list[list[Any]]] = [self.logprobs, self.greedy, self.best, self.means, self.deviations]
        return TokenScores(*(tuple(value for part in parts for value in of_pairs[part]) for of_pairs in lists))


def _moments(logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of ln p under p, ``(positions,)`` each."""
    p = logprobs.exp()
    finite = logprobs.clamp_min(torch.finfo(logprobs.dtype).min / 1e20)  # 0 · (-inf) counts as 0
    mean = (p * finite).sum(-1)
    return mean, (p * (finite - mean[:, None]) ** 2).sum(-1).sqrt()


class TokenScoring:
    """The part of a :class:`keeps.models.LanguageModel` that scores token by token."""

    if TYPE_CHECKING:
        encoder: TextEncoder
        model: nn.Module
        name: str

        @property
        def context_length(self) -> int: ...

        def _reading(self) -> AbstractContextManager[Engine]: ...

    def token_logprobs(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        moments: bool = False,
        advance: Advance | None = None,
    ) -> list[TokenScores]:
        """Each answer after its prompt, token by token; after the prompt ``""`` the answer is a running text.

        A running text takes no chat template; a long one is read in overlapping windows, and its first token is
        scored only where the tokenizer puts one in front of it.

        Args:
            moments: give ``means`` and ``deviations`` too, at the cost of another pass over the vocabulary.
            advance: told of items done (in parts).

        Raises:
            RecordError: unequal lengths, an empty answer, or a text without a token to score.
            ContextLengthError: a prompt with its answer is longer than the context.
        """
        check_lengths(prompts, answers, "answers")
        parts = [list(self._parts(number, *item)) for number, item in enumerate(zip(prompts, answers, strict=True))]
        pairs = [pair for several in parts for pair in several]
        numbers = iter(range(len(pairs)))
        lists = _Lists.of(len(pairs), moments)
        share = (lambda done: advance(done * len(parts) / len(pairs))) if advance else None
        with self._reading() as engine:
            read_pairs(engine, pairs, lists.read, advance=share)
        return [lists.joined([next(numbers) for _ in several]) for several in parts]

    def gradient_norms(
        self, prompts: Sequence[str], answers: Sequence[str], *, kind: Kind = "whole", advance: Advance | None = None
    ) -> list[float]:
        """How strongly each answer after its prompt pulls at the weights; see :func:`gradient_norm`.

        The items are those of :meth:`token_logprobs`. A backward pass an item; the weights stay as they are.

        Raises:
            KeepsError: as :meth:`token_logprobs`.
        """
        check_lengths(prompts, answers, "answers")
        found = []
        for number, item in enumerate(zip(prompts, answers, strict=True)):
            found.append(gradient_norm(self.model, list(self._parts(number, *item)), kind=kind))
            if advance is not None:
                advance(1)
        return found

    def _parts(self, number: int, prompt: str, answer: str) -> Iterator[Pair]:
        if prompt:
            pair = located(number, self.encoder.pair, prompt, answer)
            check_context(number, prompt, len(pair[0]) + len(pair[1]), self.context_length, self.name)
            yield pair
            return
        windows = text_windows(self.encoder.text(answer), len(self.encoder.leading), self.context_length)
        if not windows:
            where = f"item {number + 1}: {short(answer)}"
            raise RecordError("the text has no token to score", where=where, mend="give a longer text")
        yield from windows

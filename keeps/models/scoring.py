"""The one scorer: log-probabilities of continuations after contexts, for any number of pairs.

Contexts that are equal are computed once, whatever follows them; contexts that begin alike share the
keys and values of that beginning; the rest stands in rows without padding where the model honours
that, else it is batched by length; and the vocabulary projection runs only where a continuation's
token is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.models.batching import length_batches, pad_right
from keeps.models.cache import CacheState
from keeps.models.prefix import PrefixGroup, plan_prefixes
from keeps.models.projection import chunks, read_positions, reading_of
from keeps.models.trees import ROW, plan_trees, reads_trees

Tokens = Sequence[int]
Advance = Callable[[float], None]


@dataclass(frozen=True)
class Engine:
    """A model and how much of it may run at once."""

    model: nn.Module
    pad_token_id: int
    budget: int  # padded tokens a forward pass
    slots: int  # padded tokens with the cached ones: bounds the memory of keys and values
    cache_limit: int  # longest row that may have gaps in its cache (sliding windows count slots, not tokens)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def may_cache(self, longest: int) -> bool:
        """Whether rows of up to ``longest`` tokens may go through the cache."""
        return longest <= self.cache_limit and reading_of(self.model).cache

    def start(self, prefix: Tokens) -> CacheState | None:
        """The state after ``prefix``, as one row; None for an empty prefix."""
        if not prefix:
            return None
        state = CacheState.empty(1, self.device)
        ids, mask = pad_right([prefix], self.pad_token_id, self.device)
        nothing = torch.zeros_like(mask, dtype=torch.bool)
        nothing[:, -1] = True  # reading one position keeps the full forward of exotic models valid
        read_positions(self.model, ids, mask, nothing, past=state)
        return state

    def repeat(self, state: CacheState | None, rows: int) -> CacheState | None:
        """``rows`` copies of a one-row state."""
        return None if state is None else state.select(torch.zeros(rows, dtype=torch.long, device=self.device))


@dataclass(frozen=True)
class Scored:
    """One pair: the log-probability summed over its tokens, and whether each one was the argmax."""

    logprob: float
    greedy: bool


@dataclass(frozen=True, order=True)
class Wanted:
    """The probability of ``token`` at a position of a row, which counts for pair ``number``."""

    row: int
    column: int
    token: int
    number: int


# A batch: rows to feed, what is wanted of them (sorted), and what the rows have seen already.
Read = Callable[[Engine, list[Tokens], list[Wanted], CacheState | None], None]


@dataclass
class Sums:
    """Running totals of all pairs."""

    logprob: list[float]
    greedy: list[bool]

    def read(self, engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: CacheState | None) -> None:
        """Add one batch."""
        logprobs, argmax = token_logprobs(engine, rows, wanted, state)
        for want, logprob, best in zip(wanted, logprobs, argmax, strict=True):
            self.logprob[want.number] += logprob
            self.greedy[want.number] = self.greedy[want.number] and best == want.token


@dataclass
class Stem:
    """A context and the pairs that continue it, each ``(pair number, its tokens)``."""

    context: Tokens
    branches: list[tuple[int, Tokens]]

    @property
    def single(self) -> bool:
        return len(self.branches) == 1

    def row(self, start: int) -> Tokens:
        """What is fed first: the context from ``start`` on, and a lone branch without its last token."""
        tail = self.branches[0][1][:-1] if self.single else ()
        return [*self.context[start:], *tail]


def score_pairs(
    engine: Engine, pairs: Sequence[tuple[Tokens, Tokens]], *, advance: Advance | None = None
) -> list[Scored]:
    """Score each ``(context, continuation)``; both are non-empty token ids.

    Every continuation token is conditioned on the whole context and the tokens before it.
    """
    sums = Sums([0.0] * len(pairs), [True] * len(pairs))
    read_pairs(engine, pairs, sums.read, advance=advance)
    return [Scored(*values) for values in zip(sums.logprob, sums.greedy, strict=True)]


def read_pairs(
    engine: Engine, pairs: Sequence[tuple[Tokens, Tokens]], read: Read, *, advance: Advance | None = None
) -> None:
    """Feed every pair once; ``read`` is called with each batch and gets a pair's tokens in their order."""
    cached = engine.may_cache(max((len(c) + len(t) for c, t in pairs), default=0))
    stems = _stems(pairs, merge=cached)
    # The last context token is never shared: its output predicts the first continuation token.
    beginnings = [stem.context[:-1] for stem in stems]
    groups = plan_prefixes(beginnings) if cached else [PrefixGroup(0, tuple(range(len(stems))))]
    for group in groups:
        members = [stems[index] for index in group.members]
        state = engine.start(members[0].context[: group.length])
        if cached and reads_trees(engine.model):
            members = _score_trees(engine, members, group.length, state, read, advance)
        lengths = [len(stem.row(group.length)) for stem in members]
        for batch in length_batches(lengths, budget=engine.budget, past=group.length, slots=engine.slots):
            chosen = [members[index] for index in batch]
            _score_stems(engine, chosen, group.length, state, read)
            if advance:
                advance(sum(len(stem.branches) for stem in chosen))


def _score_trees(
    engine: Engine, stems: list[Stem], start: int, prefix: CacheState | None, read: Read, advance: Advance | None
) -> list[Stem]:
    """Stems with all their branches in rows of trees; returns the stems that are too long for one."""
    dtype = next(engine.model.parameters()).dtype
    branchings = [(stem.context[start:], [tokens for _, tokens in stem.branches]) for stem in stems]
    trees, long = plan_trees(branchings, start, min(ROW, engine.budget))
    for tree, numbers in trees:
        wanted = [
            Wanted(0, column, token, number)
            for index, branches in zip(numbers, tree.columns, strict=True)
            for (number, tokens), columns in zip(stems[index].branches, branches, strict=True)
            for column, token in zip(columns, tokens, strict=True)
        ]
        read(engine, [tree.tokens], sorted(wanted), tree.state(engine.repeat(prefix, 1), engine.device, dtype))
        if advance:
            advance(sum(len(stems[index].branches) for index in numbers))
    return [stems[index] for index in long]


def _stems(pairs: Sequence[tuple[Tokens, Tokens]], *, merge: bool) -> list[Stem]:
    stems: dict[object, Stem] = {}
    for number, (context, continuation) in enumerate(pairs):
        key = tuple(context) if merge else number
        stems.setdefault(key, Stem(context, [])).branches.append((number, continuation))
    return list(stems.values())


def _score_stems(engine: Engine, stems: list[Stem], start: int, prefix: CacheState | None, read: Read) -> None:
    """One batch: all stems together, then the branches of those that have several."""
    rows = [stem.row(start) for stem in stems]
    wanted: list[Wanted] = []
    for row, stem in enumerate(stems):
        last = len(stem.context) - start - 1  # position that predicts the first continuation token
        for number, tokens in stem.branches:
            first = tokens if stem.single else tokens[:1]
            wanted += [Wanted(row, last + offset, token, number) for offset, token in enumerate(first)]
    forked = [(row, number, tokens) for row, stem in enumerate(stems) for number, tokens in stem.branches]
    forked = [(row, number, tokens) for row, number, tokens in forked if not stems[row].single and len(tokens) > 1]
    state = engine.repeat(prefix, len(rows))
    if state is None and forked:
        state = CacheState.empty(len(rows), engine.device)
    read(engine, rows, sorted(wanted), state)
    if not forked or state is None:
        return
    lengths = [len(tokens) - 1 for _, _, tokens in forked]
    for batch in length_batches(lengths, budget=engine.budget, past=state.slots, slots=engine.slots):
        branches = [forked[index] for index in batch]
        selected = state.select(torch.tensor([row for row, _, _ in branches], device=engine.device))
        targets = [
            Wanted(row, offset, token, number)
            for row, (_, number, tokens) in enumerate(branches)
            for offset, token in enumerate(tokens[1:])
        ]
        read(engine, [tokens[:-1] for _, _, tokens in branches], targets, selected)


def token_logprobs(
    engine: Engine, rows: list[Tokens], wanted: Sequence[Wanted], state: CacheState | None
) -> tuple[list[float], list[int]]:
    """Feed ``rows``; for each of ``wanted`` (sorted) its token's log-probability and the position's argmax."""
    hidden, head, places = wanted_states(engine, rows, wanted, state)
    tokens = torch.tensor([want.token for want in wanted], device=engine.device)
    return _gather(hidden, head, places, tokens, vocabulary_size(engine.model))


def wanted_states(
    engine: Engine, rows: list[Tokens], wanted: Sequence[Wanted], state: CacheState | None
) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor]:
    """Feed ``rows``: the vectors that ``wanted`` (sorted) is read from, what makes logits of them, and where each is.

    Returns:
        ``(positions, width)``, the projection, and for each of ``wanted`` its row in the vectors (sorted).
    """
    ids, mask = pad_right(rows, engine.pad_token_id, engine.device)
    positions = torch.zeros_like(mask, dtype=torch.bool)
    positions[[want.row for want in wanted], [want.column for want in wanted]] = True
    hidden, head = read_positions(engine.model, ids, mask, positions, past=state)
    places = positions.flatten().cumsum(0)[[want.row * ids.shape[1] + want.column for want in wanted]] - 1
    return hidden, head, places


def _gather(
    hidden: Tensor, head: Callable[[Tensor], Tensor], places: Tensor, tokens: Tensor, vocabulary: int
) -> tuple[list[float], list[int]]:
    """Project a piece at a time; ``places`` (sorted) are rows of ``hidden``, ``tokens`` what is looked up there."""
    logprobs, argmax = torch.empty(len(places), device=hidden.device), torch.empty_like(places)
    for piece in chunks(len(hidden), vocabulary):
        logits = head(hidden[piece]).float()  # (positions, vocabulary)
        here = ((places >= piece.start) & (places < piece.stop)).nonzero().squeeze(1)
        local = places[here] - piece.start
        logprobs[here] = logits[local, tokens[here]] - logits.logsumexp(-1)[local]
        argmax[here] = logits.argmax(-1)[local]
    return logprobs.tolist(), argmax.tolist()


def text_config(model: nn.Module) -> Any:
    """The configuration of the language model proper, where images or sound come with it."""
    return getattr(model, "config").get_text_config()  # noqa: B009  (PeftModel forwards it at run time)


def vocabulary_size(model: nn.Module) -> int:
    """Width of the logits, as the configuration states it."""
    return int(text_config(model).vocab_size)

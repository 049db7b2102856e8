"""Greedy decoding of many prompts at once, with the expected answers as drafts.

Greedy decoding of a likely answer is mostly checking: the answer's tokens are fed with the prompt, and
those that are the argmax in turn are decoded already (speculative decoding with the answer as the
draft; Leviathan, Kalman and Matias 2023, arXiv:2211.17192, at temperature 0). Decoding proper starts
at the first token that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.models.batching import length_batches, pad_right
from keeps.models.cache import CacheState
from keeps.models.prefix import PrefixGroup, plan_prefixes
from keeps.models.projection import read_positions
from keeps.models.scoring import Advance, Engine, Tokens, Wanted, token_logprobs
from keeps.models.stopping import StopRule

CALL_COST = 256  # tokens that a batch of its own must save: it pays for every step of decoding once more
COMPACT_SHARE = 0.75  # finished rows leave the batch when at most this share of it is still going
Choose = Callable[[Sequence[int], Tensor], list[int]]  # the next token of each of these rows, of (rows, vocabulary)


@dataclass(frozen=True)
class Ending:
    """When a continuation is complete."""

    max_new_tokens: int
    rule: StopRule
    end_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]

    def finished(self, tokens: Sequence[int]) -> bool:
        """Whether more tokens would change nothing."""
        return len(tokens) >= self.max_new_tokens or self.ended(tokens)

    def ended(self, tokens: Sequence[int]) -> bool:
        """Whether the text ended by itself within the limit."""
        kept = tokens[: self.max_new_tokens]
        return not self.end_ids.isdisjoint(kept) or self.rule.reached(self.decode(kept))

    def text(self, tokens: Sequence[int]) -> str:
        """The finished text of ``tokens``: up to the limit, the first end token and the stop rule."""
        kept = list(tokens[: self.max_new_tokens])
        end = next((place for place, token in enumerate(kept) if token in self.end_ids), len(kept))
        return self.rule.cut(self.decode(kept[:end]))


@dataclass(frozen=True)
class Continued:
    """A greedy continuation's tokens, and the draft's log-probability and whether all of it was accepted."""

    tokens: list[int]
    logprob: float
    greedy: bool


def continue_greedily(
    engine: Engine,
    contexts: Sequence[Tokens],
    drafts: Sequence[Tokens],
    ending: Ending,
    *,
    advance: Advance | None = None,
) -> list[Continued]:
    """The greedy continuation of each context, and the log-probability of its draft (which may be empty)."""
    found: list[Continued | None] = [None] * len(contexts)
    longest = max((len(c) + max(len(d), 1) for c, d in zip(contexts, drafts, strict=True)), default=0)
    cached = engine.may_cache(longest + ending.max_new_tokens)
    everything = [PrefixGroup(0, tuple(range(len(contexts))))] if contexts else []
    beginnings = [context[:-1] for context in contexts]
    for group in plan_prefixes(beginnings, call_cost=CALL_COST) if cached else everything:
        prefix = engine.start(contexts[group.members[0]][: group.length])
        rows = [[*contexts[index][group.length :], *drafts[index]] for index in group.members]
        past = group.length + ending.max_new_tokens
        for batch in length_batches([len(row) for row in rows], budget=engine.budget, past=past, slots=engine.slots):
            numbers = [group.members[index] for index in batch]
            state = engine.repeat(prefix, len(batch))
            if state is None and cached:
                state = CacheState.empty(len(batch), engine.device)
            heads = [len(contexts[number]) - group.length for number in numbers]
            done = _batch(engine, [rows[index] for index in batch], heads, state, ending)
            for number, result in zip(numbers, done, strict=True):
                found[number] = result
            if advance:
                advance(len(batch))
    return [result for result in found if result is not None]


def _batch(
    engine: Engine, rows: list[Tokens], heads: list[int], state: CacheState | None, ending: Ending
) -> list[Continued]:
    """Rows of context (``heads`` tokens of it left) and draft: check the drafts, then decode the rest."""
    drafts = [row[head:] for row, head in zip(rows, heads, strict=True)]
    wanted = [
        Wanted(row, head - 1 + offset, token, row)
        for row, head in enumerate(heads)
        for offset, token in enumerate([*drafts[row], 0])  # 0: after the draft only the argmax is of interest
    ]
    logprobs, argmax = token_logprobs(engine, rows, wanted, state)
    started: list[list[int]] = []
    scores: list[tuple[float, bool]] = []
    place = 0
    for draft in drafts:
        here, place = place, place + len(draft) + 1
        best = argmax[here:place]
        accepted = next((i for i, token in enumerate(draft) if token != best[i]), len(draft))
        started.append([*draft[:accepted], best[accepted]])
        scores.append((sum(logprobs[here : place - 1]), accepted == len(draft)))
    if state is None:
        contexts = [row[:head] for row, head in zip(rows, heads, strict=True)]
        decode_without_cache(engine, contexts, started, ending, most_likely)
    else:
        rejected = [len(draft) + 1 - len(tokens) for draft, tokens in zip(drafts, started, strict=True)]
        state.forget(torch.tensor(rejected, device=engine.device))
        decode(engine, state, started, ending, most_likely)
    return [Continued(tokens, *score) for tokens, score in zip(started, scores, strict=True)]


def most_likely(rows: Sequence[int], logits: Tensor) -> list[int]:
    """The greedy choice."""
    del rows
    return logits.argmax(-1).tolist()


def decode(engine: Engine, state: CacheState, tokens: list[list[int]], ending: Ending, choose: Choose) -> None:
    """Extend each list of ``tokens``, whose last one has not been fed yet, until it is finished."""
    rows = list(range(len(tokens)))  # which list each row of the batch belongs to
    alive = [row for row in rows if not ending.finished(tokens[row])]
    while alive:
        if len(alive) <= COMPACT_SHARE * len(rows):
            state = state.select(torch.tensor([rows.index(row) for row in alive], device=engine.device))
            rows = alive
        chosen = choose(rows, last_logits(engine, [[tokens[row][-1]] for row in rows], state))
        going = set(alive)
        for row, token in zip(rows, chosen, strict=True):
            if row in going:
                tokens[row].append(token)
        alive = [row for row in alive if not ending.finished(tokens[row])]


def decode_without_cache(
    engine: Engine, contexts: Sequence[Tokens], tokens: list[list[int]], ending: Ending, choose: Choose
) -> None:
    """The same for models whose cache cannot be used this way: everything is fed again for each token."""
    alive = [row for row in range(len(tokens)) if not ending.finished(tokens[row])]
    while alive:
        chosen = choose(alive, last_logits(engine, [[*contexts[row], *tokens[row]] for row in alive], None))
        for row, token in zip(alive, chosen, strict=True):
            tokens[row].append(token)
        alive = [row for row in alive if not ending.finished(tokens[row])]


def last_logits(engine: Engine, rows: Sequence[Tokens], state: CacheState | None) -> Tensor:
    """Feed ``rows``; the logits behind each one's last token, ``(rows, vocabulary)``."""
    ids, mask = pad_right(rows, engine.pad_token_id, engine.device)
    positions = torch.zeros_like(mask, dtype=torch.bool)
    positions[range(len(rows)), [len(row) - 1 for row in rows]] = True
    hidden, head = read_positions(engine.model, ids, mask, positions, past=state)
    return head(hidden)

"""What KID wants next: local memory of what the text mentions, and the terms that a knowledge trie connects to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from keeps.data.terms import find_terms
from keeps.decoding.perturbed import Effect
from keeps.ground.knowledge_trie import Found, KnowledgeTrie
from keeps.models.tokens import TextEncoder
from keeps.numerics.knowledge_infusion import adapted

SHOWN_TERMS = 12  # of a token, in the trace


@dataclass(frozen=True)
class Seeking:
    """How knowledge is looked for and rewarded.

    Attributes:
        hops: lookups from term to term.
        match: see :meth:`keeps.ground.knowledge_trie.KnowledgeTrie.lookup`.
        memory: most mentions that are remembered; the oldest leaves first. 0 remembers all.
        rule: of terms; see :mod:`keeps.data.terms`.
        reward: ``"all"`` terms that are found, or those that the text does not mention yet (``"new"``).
        spelling: terms as the source writes them (``"written"``), or in small letters (``"lower"``).
        repeated: count a token once for every term that begins with it.
        pieces: ``"first"`` rewards the token that begins a term; ``"next"`` the following one where a term has begun.
        target: nats of divergence that the weight is adapted to; None leaves the weight as it is.
    """

    hops: int = 1
    match: str = "word"
    memory: int = 64
    rule: str = "words"
    reward: str = "all"
    spelling: str = "written"
    repeated: bool = False
    pieces: str = "first"
    target: float | None = None


@dataclass
class TermGuide:
    """Of one row: what is wanted, β, and what each step did. A :class:`keeps.decoding.perturbed.Guide`.

    Attributes:
        prompt: the text that the row begins with.
        decode: token ids as text.
        pieces: the tokens of a word inside a text.
        tokens: what was chosen so far.
        steps: one mapping a token.
        found: everything that was wanted at any step, by key.
    """

    trie: KnowledgeTrie | None
    prompt: str
    seeking: Seeking
    beta: float
    decode: Callable[[Sequence[int]], str]
    pieces: Callable[[str], tuple[int, ...]]
    given: Sequence[int] = ()
    tokens: list[int] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    _terms: list[Found] = field(default_factory=list)

    def wanted(self) -> list[int]:
        """The first tokens of all terms that the text so far leads to."""
        self._terms = self.terms(self.prompt + self.decode(self.tokens))
        self.found |= {term.key: term for term in self._terms}
        return self.ids(self._terms)

    def terms(self, text: str) -> list[Found]:
        """The terms that the trie connects to what ``text`` mentions."""
        if self.trie is None:
            return []
        mentions = remembered([term.key for term in find_terms(text, self.seeking.rule)], self.seeking.memory)
        if not mentions:
            return []
        found = self.trie.lookup(mentions, hops=self.seeking.hops, match=self.seeking.match)
        return [term for term in found if self.seeking.reward == "all" or term.key not in mentions]

    def ids(self, terms: Sequence[Found]) -> list[int]:
        """The first tokens of ``terms``, or what continues those that have begun; once unless repeated ones count."""
        small = self.seeking.spelling == "lower"
        words = [self.pieces(word) for term in terms for word in ((term.key,) if small else term.written)]
        ids = [word[0] for word in words]
        if self.seeking.pieces == "next":
            begun = {length: word[length] for word in words for length in [overlap(self.tokens, word)] if length}
            ids = [begun[max(begun)]] if begun else ids
        return ids if self.seeking.repeated else list(dict.fromkeys(ids))

    def told(self, effect: Effect) -> None:
        """Note the step, and adapt β where that is asked for."""
        self.steps.append(
            {
                "terms": [term.key for term in self._terms[:SHOWN_TERMS]],
                "mass_before": effect.before,
                "mass": effect.after,
                "kl": effect.kl,
                "beta": effect.beta,
            }
        )
        if self.seeking.target is not None and self._terms:
            self.beta = float(adapted(torch.tensor(self.beta), torch.tensor(effect.kl), self.seeking.target))

    def append(self, token: int) -> None:
        """The token that was chosen."""
        self.tokens.append(token)


def remembered(mentions: Sequence[str], bound: int) -> list[str]:
    """A queue of different mentions: one that comes again is new again, and the oldest leave first.

    >>> remembered(["a", "b", "a", "c"], 2), remembered(["a", "b"], 0)
    (['a', 'c'], ['a', 'b'])
    """
    latest = list(reversed(dict.fromkeys(reversed(mentions))))
    return latest[-bound:] if bound else latest


def overlap(tokens: Sequence[int], word: Sequence[int]) -> int:
    """How many tokens of ``word``, not all of them, ``tokens`` end with.

    >>> overlap([1, 5, 6], [5, 6, 7]), overlap([5, 6, 7], [5, 6, 7]), overlap([], [5])
    (2, 0, 0)
    """
    for length in range(min(len(word) - 1, len(tokens)), 0, -1):
        if tuple(tokens[len(tokens) - length :]) == tuple(word[:length]):
            return length
    return 0


def word_pieces(tokenizer: Any) -> Callable[[str], tuple[int, ...]]:
    """The tokens of a word inside a text, remembered word by word."""
    encoder = TextEncoder(tokenizer)

    @cache
    def pieces(word: str) -> tuple[int, ...]:
        return tuple(encoder.pair("The", word)[1])

    return pieces

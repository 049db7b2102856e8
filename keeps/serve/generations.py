"""Replies as they are made: piece by piece from a model's tokens, or in one piece from whatever answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keeps.models.chat import Usage
from keeps.models.streaming import ScoredToken, TextPieces, TokenStream

STOP, LENGTH = "stop", "length"  # why a reply ended, in the protocol's words


@dataclass(frozen=True)
class Piece:
    """A part of a reply: text that is certain, and the tokens that were made for it."""

    text: str
    tokens: tuple[ScoredToken, ...] = ()


class Generation(Protocol):
    """One reply under way.

    Attributes:
        finish: why it ended; "" while it goes on.
        extras: what else the client is told about the reply, such as citations.
    """

    finish: str
    extras: Mapping[str, Any]

    @property
    def usage(self) -> Usage:
        """Tokens read and written so far."""
        ...

    @property
    def unread(self) -> TokenStream | None:
        """What reads a context whose log-probabilities are wanted, before the first step; None where there is none."""
        ...

    def step(self) -> Piece:
        """Do a little more; never called once ``finish`` is set."""
        ...


class TokenGeneration:
    """A reply that a model makes token by token.

    Args:
        echo: the prompt's own text, which comes first; None where only what is new is wanted.
    """

    def __init__(self, stream: TokenStream, pieces: TextPieces, echo: str | None = None) -> None:
        self.stream, self.pieces, self.echo = stream, pieces, echo
        self.finish = ""
        self.extras: Mapping[str, Any] = {}

    @property
    def usage(self) -> Usage:
        """Of the model's own tokenizer."""
        return Usage(len(self.stream.context), len(self.stream.tokens))

    @property
    def unread(self) -> TokenStream | None:
        """A prompt that comes back with log-probabilities is read together with those of other requests."""
        return None if self.echo is None or self.stream.most is None else self.stream

    def step(self) -> Piece:
        """The prompt where it is to come back, then one token a call."""
        if self.echo is not None:
            text, self.echo = self.echo, None
            tokens = () if self.stream.most is None else tuple(self.stream.read_context())
            self.finish = LENGTH if self.stream.done else ""
            return Piece(text, tokens)
        token = self.stream.step()
        if token is None:
            self.finish = STOP
            return Piece(self.pieces.rest())
        text = self.pieces.add(token.id)
        if self.pieces.stopped:
            self.finish = STOP
            self.stream.close()
        elif self.stream.done:
            self.finish = LENGTH
            text += self.pieces.rest()
        return Piece(text, (token,))


@dataclass(frozen=True)
class Whole:
    """A reply that comes in one piece."""

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: str = STOP
    extras: Mapping[str, Any] = field(default_factory=dict)


class WholeGeneration:
    """Calls what answers, once."""

    def __init__(self, answer: Callable[[], Whole]) -> None:
        self._answer = answer
        self.usage, self.finish = Usage(), ""
        self.extras: Mapping[str, Any] = {}
        self.unread: TokenStream | None = None

    def step(self) -> Piece:
        """All of it."""
        found = self._answer()
        self.usage, self.finish, self.extras = found.usage, found.finish, found.extras
        return Piece(found.text)


def total(generations: Sequence[Generation]) -> dict[str, int]:
    """``usage`` as the protocol has it; a prompt that is completed several times is counted once each."""
    read = sum(generation.usage.prompt_tokens for generation in generations)
    written = sum(generation.usage.completion_tokens for generation in generations)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

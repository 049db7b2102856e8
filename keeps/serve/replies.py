"""Replies in the forms of the OpenAI protocol: whole ones, and the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keeps.models.streaming import ScoredToken
from keeps.serve.generations import Generation, Piece, total

LEAST = -9999.0  # stands for the logarithm of 0, which JSON has not
END = b"data: [DONE]\n\n"
TokenText = Callable[[int], str]


class Form:
    """One kind of reply; subclasses say where text and log-probabilities stand in it.

    Args:
        model: the name that the client asked for.
        token_text: how tokens are called in log-probabilities.
        top: likeliest tokens that are named with each token; None where no log-probabilities are wanted.
    """

    prefix = ""
    kind = ""
    chunk_kind = ""

    def __init__(self, model: str, token_text: TokenText, top: int | None) -> None:
        self.token_text, self.top = token_text, top
        self.head: dict[str, Any] = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time())}
        self.head["model"] = model
        self._offsets: dict[int, int] = {}

    def whole(self, generations: Sequence[Generation], said: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """The reply to a request that wants it at once; ``said`` holds what each generation said."""
        choices = [
            {
                "index": index,
                **self.content("".join(piece.text for piece in pieces)),
                "logprobs": self.logprobs(index, [token for piece in pieces for token in piece.tokens]),
                "finish_reason": generation.finish,
                **generation.extras,
            }
            for index, (generation, pieces) in enumerate(zip(generations, said, strict=True))
        ]
        return {**self.head, "object": self.kind, "choices": choices, "usage": total(generations)}

    def event(self, index: int, piece: Piece | None, generation: Generation, *, first: bool = False) -> bytes:
        """A piece of one completion; without a piece, its end."""
        end = piece is None
        choice = {
            "index": index,
            **self.delta(None if piece is None else piece.text, first=first),
            "logprobs": None if piece is None or not piece.tokens else self.logprobs(index, piece.tokens),
            "finish_reason": generation.finish if end else None,
            **(generation.extras if end else {}),
        }
        return event({**self.head, "object": self.chunk_kind, "choices": [choice]})

    def usage(self, generations: Sequence[Generation]) -> bytes:
        """The last event of a stream, where it is wanted."""
        return event({**self.head, "object": self.chunk_kind, "choices": [], "usage": total(generations)})

    def content(self, text: str) -> dict[str, Any]:
        """Where a whole text stands."""
        raise AssertionError("a subclass says so")

    def delta(self, text: str | None, *, first: bool) -> dict[str, Any]:
        """Where a piece of text stands; None at the end."""
        raise AssertionError("a subclass says so")

    def logprobs(self, index: int, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
        """Tokens of completion ``index``, in order over all calls."""
        raise AssertionError("a subclass says so")


class ChatForm(Form):
    """``chat.completion``."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def content(self, text: str) -> dict[str, Any]:
        """A message of the assistant."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str | None, *, first: bool) -> dict[str, Any]:
        """The role comes with the first piece."""
        role = {"role": "assistant"} if first else {}
        return {"delta": role if text is None else {**role, "content": text}}

    def logprobs(self, index: int, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
        """One entry a token, with its bytes where it is a text by itself."""
        del index
        if self.top is None:
            return None
        return {"content": [{**self._entry(t.id, t.logprob), "top_logprobs": self._tops(t)} for t in tokens]}

    def _tops(self, token: ScoredToken) -> list[dict[str, Any]]:
        return [self._entry(other, value) for other, value in token.top]

    def _entry(self, token: int, value: float | None) -> dict[str, Any]:
        text = self.token_text(token)
        return {"token": text, "logprob": number(value), "bytes": list(text.encode())}


class CompletionForm(Form):
    """``text_completion``."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def content(self, text: str) -> dict[str, Any]:
        """The text itself."""
        return {"text": text}

    def delta(self, text: str | None, *, first: bool) -> dict[str, Any]:
        """As in a whole reply."""
        del first
        return {"text": text or ""}

    def logprobs(self, index: int, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
        """Four lists, one entry a token; the first token of a text has no log-probability."""
        if self.top is None:
            return None
        texts, offsets = [self.token_text(token.id) for token in tokens], []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        tops = [
            None if token.logprob is None else {self.token_text(t): number(v) for t, v in reversed(token.top)}
            for token in tokens
        ]
        values = [number(token.logprob) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": tops if self.top else None,
            "text_offset": offsets,
        }


def number(value: float | None) -> float | None:
    """A log-probability as JSON has it.

    >>> number(float("-inf")), number(None)
    (-9999.0, None)
    """
    return None if value is None else max(value, LEAST)


def event(document: Mapping[str, Any]) -> bytes:
    """One server-sent event.

    >>> event({"a": "\\n"})
    b'data: {"a": "\\\\n"}\\n\\n'
    """
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()

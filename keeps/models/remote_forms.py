"""The forms in which OpenAI-compatible servers give the log-probabilities of a prompt's own tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Read:
    """What a server says of a prompt: its tokens, the log-probability of each, and what comes after it.

    Attributes:
        tokens: texts or ids.
        logprobs: natural-log probability of each token; None for the first, which nothing comes before.
        greedy: whether each token is the most likely one at its place.
        text: the greedy continuation.
    """

    tokens: tuple[Any, ...]
    logprobs: tuple[float | None, ...]
    greedy: tuple[bool, ...]
    text: str

    @property
    def plausible(self) -> bool:
        """Whether these can be the log-probabilities of a sentence: several, none above 0, and not all of them 0."""
        known = [value for value in self.logprobs if value is not None]
        return len(known) > 2 and max(known) < 1e-3 and min(known) < 0.0

    def rest(self, start: int) -> tuple[float, bool, int]:
        """Log-probability of the tokens from ``start`` on, whether all are greedy, and their number."""
        values = [value for value in self.logprobs[start:] if value is not None]
        return sum(values), all(self.greedy[start:]), len(values)


class Form(ABC):
    """One way of asking for the log-probabilities of a prompt."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the request holds besides prompt, model and limit."""

    @abstractmethod
    def read(self, prompt: str, reply: Any) -> Read:
        """What the reply says; a reply of another form raises the errors of reading JSON: KeyError, TypeError, ..."""


class Echo(Form):
    """The prompt comes back in front of the continuation, with ``logprobs`` for both."""

    def options(self) -> dict[str, Any]:
        return {"echo": True, "logprobs": 1}

    def read(self, prompt: str, reply: Any) -> Read:
        choice, count = reply["choices"][0], int(reply["usage"]["prompt_tokens"])
        found, text = choice["logprobs"], choice["text"]
        tokens, logprobs, top = found["tokens"], found["token_logprobs"], found["top_logprobs"]
        if not count <= len(tokens) == len(logprobs) == len(top):
            raise ValueError("the numbers of tokens do not agree")
        greedy = [value is None or value >= max(best.values()) for value, best in zip(logprobs, top, strict=True)]
        after = text[len(prompt) :] if text.startswith(prompt) else "".join(tokens[count:])
        return Read(tuple(tokens[:count]), _numbers(logprobs[:count]), tuple(greedy[:count]), after)


class PromptLogprobs(Form):
    """vLLM: one mapping a token of the prompt, from its id to log-probability and rank."""

    def options(self) -> dict[str, Any]:
        return {"prompt_logprobs": 0}

    def read(self, prompt: str, reply: Any) -> Read:
        choice = reply["choices"][0]
        entries = choice["prompt_logprobs"]
        found = [(None, {}) if entry is None else next(iter(entry.items())) for entry in entries]
        logprobs = [entry.get("logprob") for _, entry in found]
        greedy = tuple(entry.get("rank", 1) == 1 for _, entry in found)
        return Read(tuple(token for token, _ in found), _numbers(logprobs), greedy, choice["text"])


def _numbers(values: Sequence[Any]) -> tuple[float | None, ...]:
    """All but the first are numbers."""
    return tuple(None if place == 0 and value is None else float(value) for place, value in enumerate(values))

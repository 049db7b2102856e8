"""Many conversations with one chat, in step: what they ask next is asked together, and what each costs is counted.

A method that talks to a model several times for one question is written as a generator that yields what it asks and
is sent what comes back, so that it reads as its paper does. Here the generators of many questions go on side by side:
their requests of a kind go to the chat in one call, which batches them on this machine or sends them at once to a
server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from keeps.models.chat import Chat, Conversation, Message, Reply, Usage
from keeps.models.json_replies import read_choice
from keeps.models.scores import ChoiceScore

T = TypeVar("T")
DECISION_TOKENS = 64  # room for a server that says a choice in words


@runtime_checkable
class Weighing(Protocol):
    """A chat that says how likely each of several next turns is, so that its choice can be constrained."""

    def weigh(
        self, conversations: Sequence[Conversation], choices: Sequence[Sequence[str]]
    ) -> list[tuple[ChoiceScore, Usage]]:
        """See :meth:`keeps.models.chat.LocalChat.weigh`."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """A chat whose server may be told that a reply must be one of several choices."""

    def choose(
        self, conversations: Sequence[Conversation], choices: Sequence[Sequence[str]], key: str, max_new_tokens: int
    ) -> list[Reply]:
        """See :meth:`keeps.models.remote.RemoteChat.choose`."""
        ...


@dataclass(frozen=True)
class Say:
    """Asks for a text. ``step`` names the request in the trace."""

    step: str
    conversation: tuple[Message, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Decide:
    """Asks for one of ``choices``.

    Attributes:
        turns: the choices as whole turns, which a model on this machine weighs; default: JSON, ``{"KEY": CHOICE}``.
        key: under which a server names its choice in JSON.
    """

    step: str
    conversation: tuple[Message, ...]
    choices: tuple[str, ...]
    key: str
    turns: tuple[str, ...] = ()

    @property
    def weighed(self) -> tuple[str, ...]:
        """The turns to weigh."""
        bare = ("true", "false", "null")
        quoted = [choice if choice in bare else f'"{choice}"' for choice in self.choices]
        return self.turns or tuple(f'{{"{self.key}": {choice}}}' for choice in quoted)


@dataclass(frozen=True)
class Decision:
    """Which choice was taken.

    Attributes:
        choice: its index; None where the reply names none of them.
        said: the turn that was chosen, or the server's reply as it came.
        logprobs: mean log-probability of a token of each choice; empty where the choice was read from a text.
    """

    choice: int | None
    said: str
    logprobs: tuple[float, ...] = ()
    usage: Usage = field(default=Usage(), compare=False)


Talk = Generator["Say | Decide", Any, T]


@dataclass
class Cost:
    """Calls to the chat, tokens, and seconds of waiting for it; a call that is shared is shared out."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, usage: Usage, seconds: float) -> None:
        """One more call."""
        self.calls += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.seconds += seconds

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in a trace."""
        counts = {"calls": self.calls, "prompt_tokens": self.prompt_tokens}
        return {**counts, "completion_tokens": self.completion_tokens, "seconds": round(self.seconds, 3)}


def in_step(chat: Chat, talks: Sequence[Talk[T]]) -> list[tuple[T, Cost]]:
    """Lead every talk to its end; what each returns and what it cost, in order.

    Raises:
        KeepsError: what the chat raises, such as :class:`keeps.errors.ModelLoadError` of a server that is down.
    """
    return lead(talks, lambda requests: _ask(chat, requests), kind=_kind)


def lead(
    talks: Sequence[Generator[Any, Any, T]],
    answered: Callable[[Sequence[Any]], Sequence[Any]],
    *,
    kind: Callable[[Any], Hashable] = lambda request: None,
) -> list[tuple[T, Cost]]:
    """Lead every generator to its end, all its requests of a round and a kind in one call; see :func:`in_step`.

    Args:
        answered: what comes back for requests, in their order; each has a ``usage``.
        kind: requests for which it is the same are answered together.
    """
    costs = [Cost() for _ in talks]
    results: dict[int, T] = {}
    waiting: dict[int, Any] = {}

    def advance(number: int, reply: Any) -> None:
        try:
            waiting[number] = talks[number].send(reply)
        except StopIteration as stop:
            results[number] = stop.value

    for number in range(len(talks)):
        advance(number, None)
    while waiting:
        groups: dict[Hashable, dict[int, Any]] = {}
        for number, request in waiting.items():
            groups.setdefault(kind(request), {})[number] = request
        waiting.clear()
        for group in groups.values():
            started = time.perf_counter()
            replies = answered(list(group.values()))
            share = (time.perf_counter() - started) / len(group)
            for number, reply in zip(group, replies, strict=True):
                costs[number].add(reply.usage, share)
                advance(number, reply)
    return [(results[number], costs[number]) for number in range(len(talks))]


def _kind(request: Say | Decide) -> int | None:
    """Requests that can be one call: texts of one length, or choices."""
    return request.max_new_tokens if isinstance(request, Say) else None


def _ask(chat: Chat, requests: Sequence[Say | Decide]) -> Sequence[Reply | Decision]:
    choices = [request for request in requests if isinstance(request, Decide)]
    if choices:
        return decide(chat, choices)
    says = [request for request in requests if isinstance(request, Say)]
    return chat.reply([request.conversation for request in says], max_new_tokens=says[0].max_new_tokens)


def decide(chat: Chat, requests: Sequence[Decide]) -> list[Decision]:
    """Which choice the chat takes: by probability where it can weigh them, else by what it says."""
    conversations = [request.conversation for request in requests]
    if isinstance(chat, Weighing):
        found = chat.weigh(conversations, [request.weighed for request in requests])
        return [
            Decision(score.best, request.weighed[score.best], score.normalised, usage)
            for request, (score, usage) in zip(requests, found, strict=True)
        ]
    if isinstance(chat, Choosing) and len({request.key for request in requests}) == 1:
        choices = [request.choices for request in requests]
        replies = chat.choose(conversations, choices, requests[0].key, DECISION_TOKENS)
    else:
        replies = chat.reply(conversations, max_new_tokens=DECISION_TOKENS)
    return [
        Decision(read_choice(reply.text, request.choices, request.key), reply.text, (), reply.usage)
        for request, reply in zip(requests, replies, strict=True)
    ]


def chat_of(model: Any) -> Chat:
    """A chat with ``model``: a LanguageModel through its template, a server's model through its chat protocol.

    Raises:
        SettingsError: the tokenizer has no chat template, or it is nothing that chats.
    """
    from keeps.errors import SettingsError
    from keeps.models.chat import LocalChat
    from keeps.models.remote_completion import RemoteModel

    if isinstance(model, RemoteModel):
        return model.chat
    if isinstance(model, Chat):
        return model
    if hasattr(model, "tokenizer") and hasattr(model, "continue_tokens"):
        if not getattr(model.tokenizer, "chat_template", None):
            mend = "name an instruction-following model, or a server: openai:URL#MODEL"
            raise SettingsError(
                "the model has no chat template, so it cannot be talked to", where=model.name, mend=mend
            )
        return LocalChat(model)
    mend = "give a LanguageModel, or anything with a method reply"
    raise SettingsError(f"{type(model).__name__} is no model that chats", mend=mend)

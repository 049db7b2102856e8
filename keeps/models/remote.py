"""Chat with any server that speaks the OpenAI chat completions protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from keeps.contracts import Answer
from keeps.models.chat import Conversation, Message, Reply, Usage, answers_of, checked
from keeps.models.checks import check_lengths
from keeps.models.remote_transport import UNKNOWN, Transport
from keeps.models.stopping import StopRule


@dataclass(frozen=True)
class RemoteChat(Transport):
    """A model behind ``base_url`` (such as ``http://localhost:8000/v1``): vLLM, llama.cpp, a hosted service.

    Attributes:
        base_url: where ``/chat/completions`` lies.
        model: the model's name on that server.
        key_variable: environment variable that holds the access key; "" where none is needed. The key
            itself is never stored or shown.
        timeout: seconds to wait for one reply.
        retries: further tries after a transient failure, half a second later at first and at most eight.
        workers: requests under way at once.
        temperature: 0 asks for the most likely text.
    """

    workers: int = 4
    temperature: float = 0.0
    _refused: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # fields unknown to it

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """See :class:`keeps.models.chat.Chat`.

        Raises:
            RecordError: a conversation is empty, has an unknown role, or does not end with the user's turn.
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        turns = [checked(conversation, f"conversation {n + 1}") for n, conversation in enumerate(conversations)]
        return self._each(lambda messages: self._complete(messages, max_new_tokens), turns)

    def choose(
        self, conversations: Sequence[Conversation], choices: Sequence[Sequence[str]], key: str, max_new_tokens: int
    ) -> list[Reply]:
        """Replies that are JSON with one of the choices under ``key``, where the server can constrain them so.

        One that knows no ``response_format`` is asked without it from then on, and may say anything.

        Raises:
            RecordError, ModelLoadError: as :meth:`reply`.
        """
        check_lengths(conversations, choices, "choices")
        turns = [checked(conversation, f"conversation {n + 1}") for n, conversation in enumerate(conversations)]

        def ask(item: tuple[list[dict[str, str]], Sequence[str]]) -> Reply:
            messages, options = item
            if "response_format" not in self._refused:
                extra = {"response_format": choice_format(key, options)}
                reply = self._complete(messages, max_new_tokens, extra, refusals=UNKNOWN)
                if reply is not None:
                    return reply
            reply = self._complete(messages, max_new_tokens)
            self._refused.add("response_format")  # this one was answered, so the format was what it refused
            return reply

        return self._each(ask, list(zip(turns, choices, strict=True)))

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """Each question as the user's turn, its context in front; see :class:`keeps.contracts.Answerer`."""
        return answers_of(self, questions, contexts)

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        advance: Callable[[float], None] | None = None,
    ) -> list[str]:
        """Each prompt as the user's turn, sampled; servers that know no seeds draw as they like.

        Raises:
            RecordError: there are not as many seeds as prompts.
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        check_lengths(prompts, seeds, "seeds")
        rule = StopRule(tuple(stop))

        def ask(item: tuple[str, int]) -> str:
            turn = checked([Message("user", item[0])], repr(item[0][:60]))
            options = {"temperature": temperature, "top_p": top_p, "seed": item[1]}
            text = rule.cut(self._complete(turn, max_new_tokens, options).text)
            if advance:
                advance(1)
            return text

        return self._each(ask, list(zip(prompts, seeds, strict=True)))

    def _each(self, ask: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``ask`` of every item, several at once, in order."""
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            return list(pool.map(ask, items))

    def _complete(
        self,
        messages: list[dict[str, str]],
        max_new_tokens: int,
        options: Mapping[str, Any] | None = None,
        *,
        refusals: Collection[int] = (),
    ) -> Any:
        """The reply to one conversation; None where the server refuses with one of ``refusals``."""
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_new_tokens,
            "temperature": self.temperature,
            **(options or {}),
        }
        found = self.post("/chat/completions", body, refusals=refusals)
        if found is None:
            return None
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError("content is no text")
        except (KeyError, IndexError, TypeError) as error:
            what = f"the server's reply has no choices[0].message.content ({error})"
            raise self.error(what, "check that it speaks the chat completions protocol") from None
        return Reply(text.strip(), choice.get("finish_reason") != "length", _usage(found))


def choice_format(key: str, choices: Sequence[str]) -> dict[str, Any]:
    """``response_format`` of the protocol for an object with one of ``choices`` under ``key``."""
    schema = {
        "type": "object",
        "properties": {key: {"type": "string", "enum": list(choices)}},
        "required": [key],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}


def _usage(reply: Any) -> Usage:
    """The tokens that the server counted; 0 where it says nothing sensible."""
    counts = reply.get("usage") if isinstance(reply, Mapping) else None
    values = [
        counts.get(name) if isinstance(counts, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    return Usage(*(value if isinstance(value, int) and value > 0 else 0 for value in values))

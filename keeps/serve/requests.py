"""Requests of the OpenAI protocol as records: everything is checked, and what would silently do nothing is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeps.errors import SettingsError
from keeps.models.chat import Message
from keeps.models.sampling import Softness
from keeps.serve.fields import Fields, wrong
from keeps.serve.limits import COOLEST, HOTTEST, PROTOCOL_TEMPERATURE
from keeps.serve.refusals import RefusedError

MOST_TOP = 20  # likeliest tokens that may be asked for
MOST_STOPS = 16
MOST_PROMPTS = 64  # prompts of a request, times the completions of each
PLAIN = {  # fields that clients send by habit, with the values that ask for nothing
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "store": (False,),
    "user": (),
    "safety_identifier": (),
    "metadata": (),
    "service_tier": (),
}


@dataclass(frozen=True)
class Generating:
    """What both kinds of request say about the text to come.

    Attributes:
        room: most new tokens; None where the server decides.
        seed: None where any draw will do.
        top: likeliest tokens to name with each token; None where no log-probabilities are wanted.
        count: completions of each prompt.
        usage: whether a stream ends with the numbers of tokens.
    """

    model: str
    room: int | None
    softness: Softness
    seed: int | None
    stop: tuple[str, ...]
    top: int | None
    count: int
    stream: bool
    usage: bool


@dataclass(frozen=True)
class Constrained:
    """A reply that must be one of several: JSON with one field of given values, or the value alone.

    Attributes:
        choices: the values.
        turns: the whole replies that stand for them.
    """

    choices: tuple[str, ...]
    turns: tuple[str, ...]


@dataclass(frozen=True)
class ChatRequest:
    """``POST /v1/chat/completions``."""

    messages: tuple[Message, ...]
    generating: Generating
    constrained: Constrained | None = None


@dataclass(frozen=True)
class CompletionRequest:
    """``POST /v1/completions``; a prompt is a text or token ids. With ``echo`` it comes back before its completion."""

    prompts: tuple[str | tuple[int, ...], ...]
    generating: Generating
    echo: bool = False


def chat_request(values: Mapping[str, Any], most_tokens: int, temperature: float = PROTOCOL_TEMPERATURE) -> ChatRequest:
    """A chat request.

    Args:
        most_tokens: the server's limit of new tokens.
        temperature: of requests that leave it out.

    Raises:
        RefusedError: a field is missing, wrong, unknown, or would do nothing here.
    """
    fields = Fields(values)
    messages = _messages(fields.take("messages"))
    longer = fields.integer("max_completion_tokens", None, least=1, most=most_tokens)
    room = fields.integer("max_tokens", longer, least=1, most=most_tokens)
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs", None, least=0, most=MOST_TOP)
    if top is not None and not wanted:
        raise RefusedError("top_logprobs does nothing without logprobs", mend="set logprobs to true", param="logprobs")
    constrained = _constrained(fields.take("response_format"))
    return ChatRequest(messages, _generating(fields, room, (top or 0) if wanted else None, temperature), constrained)


def completion_request(
    values: Mapping[str, Any], most_tokens: int, temperature: float = PROTOCOL_TEMPERATURE
) -> CompletionRequest:
    """As :func:`chat_request`, for texts to go on."""
    fields = Fields(values)
    prompts = _prompts(fields.take("prompt"))
    echo = fields.flag("echo")
    room = fields.integer("max_tokens", min(16, most_tokens), least=0, most=most_tokens)
    top = fields.integer("logprobs", None, least=0, most=MOST_TOP)
    generating = _generating(fields, room, top, temperature)
    if len(prompts) * generating.count > MOST_PROMPTS:
        raise RefusedError(f"more than {MOST_PROMPTS} completions", mend="send several requests", param="prompt")
    if room == 0 and not echo:
        raise RefusedError("max_tokens is 0", mend="give at least 1, or set echo", param="max_tokens")
    return CompletionRequest(prompts, generating, echo)


def _generating(fields: Fields, room: int | None, top: int | None, default: float) -> Generating:
    temperature = fields.number("temperature", default, least=0.0, most=HOTTEST)
    if 0 < temperature < COOLEST:
        raise wrong("temperature", temperature, f"0, or a number from {COOLEST} to {HOTTEST:g}")
    try:
        softness = Softness(temperature, fields.number("top_p", 1.0, least=0.0, most=1.0))
    except SettingsError as error:
        raise RefusedError(error.what, mend=error.mend, param="top_p") from None
    seed = fields.integer("seed", None, least=-(2**63), most=2**63 - 1)
    stop = fields.texts("stop", MOST_STOPS)
    stream, options = fields.flag("stream"), fields.take("stream_options", {})
    if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
        raise wrong("stream_options", options, 'an object such as {"include_usage": true}')
    made = Generating(
        model=fields.text("model"),
        room=room,
        softness=softness,
        seed=seed,
        stop=stop,
        top=top,
        count=fields.integer("n", 1, least=1, most=MOST_PROMPTS) or 1,
        stream=stream,
        usage=options.get("include_usage") is True,
    )
    fields.idle(PLAIN)
    fields.finish()
    return made


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise wrong("messages", value, "a list of messages with role and content")
    return tuple(_message(item, number) for number, item in enumerate(value))


def _message(item: Any, number: int) -> Message:
    where = f"messages[{number}]"
    content = item.get("content") if isinstance(item, dict) else None
    role = item.get("role") if isinstance(item, dict) else None
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(part["text"] if isinstance(part.get("text"), str) else "" for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise wrong(where, item, "role and content, both texts")
    return Message({"developer": "system"}.get(role, role), content)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if _ids(value):
            return (tuple(value),)
        if all(isinstance(item, list) and item and _ids(item) for item in value):
            return tuple(tuple(item) for item in value)
    raise wrong("prompt", value, "a text, a list of texts, or lists of token ids")


def _ids(value: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _constrained(value: Any) -> Constrained | None:
    """What ``response_format`` asks for: nothing, or a choice, as a schema of one field with an ``enum``."""
    if value is None or value == {"type": "text"}:
        return None
    try:
        schema = value["json_schema"]["schema"]
        ((key, field),) = schema["properties"].items()
        choices = tuple(field["enum"])
        if value["type"] != "json_schema" or not choices or not all(isinstance(c, str) for c in choices):
            raise TypeError
    except (KeyError, TypeError, ValueError, AttributeError):
        mend = "give a schema of one property that is an enum of texts, or leave it out"
        what = "this server constrains replies to a choice and to nothing else"
        raise RefusedError(what, mend=mend, code="unsupported_parameter", param="response_format") from None
    return Constrained(choices, tuple(choice_turn(key, choice) for choice in choices))


def choice_turn(key: str, choice: str) -> str:
    """A choice as a whole reply.

    >>> choice_turn("relevant", "yes")
    '{"relevant": "yes"}'
    """
    return json.dumps({key: choice}, ensure_ascii=False)

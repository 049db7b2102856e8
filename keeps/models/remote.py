"""Chat with any server that speaks the OpenAI chat completions protocol."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Answer
from keeps.errors import ModelLoadError, SettingsError
from keeps.models.chat import Conversation, Message, Reply, Usage, answers_of, checked
from keeps.models.checks import check_lengths
from keeps.models.stopping import StopRule

TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)  # states that a second try may find changed
LONGEST_PAUSE = 60.0  # seconds
LARGEST_REPLY = 2**26  # bytes: far above any reply to a question


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address than the one that the user named gets neither the question nor the key."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """None: the redirection is an error like any other state."""
        del args, options


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class RemoteChat:
    """A model behind ``base_url`` (such as ``http://localhost:8000/v1``): vLLM, llama.cpp, a hosted service.

    Attributes:
        base_url: where ``/chat/completions`` lies.
        model: the model's name on that server.
        key_variable: environment variable that holds the access key; "" where none is needed. The key
            itself is never stored or shown.
        timeout: seconds to wait for one reply.
        retries: further tries after a transient failure, with doubling pauses.
        pause: seconds before the second try, unless the server names a time.
        workers: requests under way at once.
        temperature: 0 asks for the most likely text.
    """

    base_url: str
    model: str
    key_variable: str = ""
    timeout: float = 120.0
    retries: int = 4
    pause: float = 1.0
    workers: int = 4
    temperature: float = 0.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SettingsError(
                f'"{self.base_url}" is no web address', mend="give one such as http://localhost:8000/v1"
            )
        if self.key_variable and not os.environ.get(self.key_variable):
            what = f"the environment variable {self.key_variable} holds no key"
            raise SettingsError(what, where=self.base_url, mend="set it, or leave the key variable empty")

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """See :class:`keeps.models.chat.Chat`.

        Raises:
            RecordError: a conversation is empty, has an unknown role, or does not end with the user's turn.
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        turns = [checked(conversation, f"conversation {n + 1}") for n, conversation in enumerate(conversations)]
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            return list(pool.map(lambda messages: self._complete(messages, max_new_tokens), turns))

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

        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            return list(pool.map(ask, zip(prompts, seeds, strict=True)))

    def _complete(
        self, messages: list[dict[str, str]], max_new_tokens: int, options: Mapping[str, Any] | None = None
    ) -> Reply:
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_new_tokens,
            "temperature": self.temperature,
            **(options or {}),
        }
        found = self.post("/chat/completions", body)
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError("content is no text")
        except (KeyError, IndexError, TypeError) as error:
            what = f"the server's reply has no choices[0].message.content ({error})"
            raise self.error(what, "check that it speaks the chat completions protocol") from None
        return Reply(text.strip(), choice.get("finish_reason") != "length", _usage(found))

    def post(self, path: str, body: Mapping[str, Any], *, refusals: Collection[int] = ()) -> Any:
        """The JSON that ``base_url/path`` answers to ``body``; transient failures are tried again.

        Args:
            refusals: states of HTTP that mean that the server does not know such a request; None is returned.

        Raises:
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(self.base_url.rstrip("/") + path, data, headers)
            try:
                with _OPENER.open(request, timeout=self.timeout) as response:
                    return self._json(response.read(LARGEST_REPLY + 1))
            except urllib.error.HTTPError as error:
                failure, wait = self._refused(error), error.headers.get("Retry-After")
                if error.code in refusals and (error.code not in TRANSIENT or attempt == self.retries):
                    return None
                if error.code not in TRANSIENT:
                    raise failure from None
            except (OSError, http.client.HTTPException) as error:  # refused, unknown host, time-out, cut off
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                failure, wait = self.error(f"the server gives no reply ({reason})", "check the address"), None
            except (ValueError, RecursionError) as error:
                raise self.error(f"the server's reply is not JSON ({error})", "check the address") from None
            if attempt == self.retries:
                raise failure
            time.sleep(min(_seconds(wait) or self.pause * 2**attempt, LONGEST_PAUSE))
        raise AssertionError("unreachable: the last try returns or raises")

    def _json(self, payload: bytes) -> Any:
        if len(payload) > LARGEST_REPLY:
            raise self.error(f"the server's reply is longer than {LARGEST_REPLY} bytes", "check the address")
        return json.loads(payload)

    def _refused(self, error: urllib.error.HTTPError) -> ModelLoadError:
        detail = error.read(500).decode("utf-8", "replace").strip().replace("\n", " ")
        mends = {
            401: "check the access key in the environment variable",
            403: "check the access key in the environment variable",
            **dict.fromkeys((301, 302, 303, 307, 308), "name the address that it redirects to"),
            404: "check the address and the model's name",
            429: "wait, or lower the number of workers",
        }
        return self.error(
            f"the server answers {error.code} {error.reason} {detail}", mends.get(error.code, "see its log")
        )

    def error(self, what: str, mend: str) -> ModelLoadError:
        """What went wrong with this server, as an error that names it."""
        return ModelLoadError(what, where=f"{self.base_url}, model {self.model}", mend=mend)


def _seconds(text: str | None) -> float:
    """A Retry-After header in seconds; 0 where it is missing or a date."""
    try:
        return max(float(text or 0), 0.0)
    except ValueError:
        return 0.0


def _usage(reply: Any) -> Usage:
    """The tokens that the server counted; 0 where it says nothing sensible."""
    counts = reply.get("usage") if isinstance(reply, Mapping) else None
    values = [
        counts.get(name) if isinstance(counts, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    return Usage(*(value if isinstance(value, int) and value > 0 else 0 for value in values))

"""Requests to any server that speaks the OpenAI protocol, by the official client library.

The library brings the connections, the time-outs, and further tries with growing pauses, longer where the server names
a time. What it takes from the environment by itself (keys and account names meant for another server) is left out, and
a redirection is not followed: another address than the one that the user named gets neither the question nor the key.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from keeps.errors import KeepsError, ModelLoadError, SettingsError

if TYPE_CHECKING:
    import openai

TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)  # states that a second try may find changed
UNKNOWN = (400, 404, 405, 415, 422, 500, 501)  # what servers answer to a request of a form that they do not know
LARGEST_REPLY = 2**26  # bytes: far above any reply to a question
FOREIGN = ("OpenAI-Organization", "OpenAI-Project")  # headers that name the user's account elsewhere
MENDS = {
    401: "check the access key in the environment variable",
    403: "check the access key in the environment variable",
    **dict.fromkeys((301, 302, 303, 307, 308), "name the address that it redirects to"),
    404: "check the address and the model's name",
    413: "ask for less at once",
    429: "wait, or lower the number of workers",
}


@dataclass(frozen=True)
class Transport:
    """Where requests go, and how patiently; the fields are those of :class:`keeps.models.remote.RemoteChat`."""

    base_url: str
    model: str
    key_variable: str = ""
    timeout: float = 120.0
    retries: int = 4

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SettingsError(
                f'"{self.base_url}" is no web address', mend="give one such as http://localhost:8000/v1"
            )
        if self.key_variable and not os.environ.get(self.key_variable):
            what = f"the environment variable {self.key_variable} holds no key"
            raise SettingsError(what, where=self.base_url, mend="set it, or leave the key variable empty")

    def post(self, path: str, body: Mapping[str, Any], *, refusals: Collection[int] = ()) -> Any:
        """The JSON that ``base_url/path`` answers to ``body``; transient failures are tried again.

        Args:
            path: ``/chat/completions`` or ``/completions``.
            body: everything that is asked; fields that the library does not know go as they are.
            refusals: states of HTTP that mean that the server does not know such a request; None is returned.

        Raises:
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        named = "messages" if path == "/chat/completions" else "prompt"
        rest = {name: value for name, value in body.items() if name not in ("model", named)}

        def ask(client: openai.OpenAI) -> Any:
            resource: Any = client.chat.completions if named == "messages" else client.completions
            create = resource.with_streaming_response.create
            return create(model=body["model"], **{named: body[named]}, extra_body=rest, extra_headers=self._headers)

        return self._asked(ask, refusals)

    def models(self) -> list[str]:
        """The names of the models that the server has.

        Raises:
            ModelLoadError: the server cannot be reached, refuses, or answers something else.
        """
        found = self._asked(lambda client: client.models.with_streaming_response.list(extra_headers=self._headers))
        try:
            return [str(item["id"]) for item in found["data"]]
        except (KeyError, TypeError) as error:
            what = f"the server's list of models is of another form ({type(error).__name__})"
            raise self.error(what, "check that it speaks the OpenAI protocol") from None

    def error(self, what: str, mend: str) -> ModelLoadError:
        """What went wrong with this server, as an error that names it."""
        return ModelLoadError(what, where=f"{self.base_url}, model {self.model}", mend=mend)

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai

        return openai.OpenAI(
            api_key="none",  # else one for another server is taken from the environment; the headers decide
            base_url=self.base_url.rstrip("/"),
            timeout=self.timeout,
            max_retries=self.retries,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, timeout=self.timeout, event_hooks={"response": [_mark_transient]}
            ),
        )

    @property
    def _headers(self) -> dict[str, Any]:
        """The key where there is one, and nothing of the user's account elsewhere."""
        import openai

        key = f"Bearer {os.environ[self.key_variable]}" if self.key_variable else openai.Omit()
        return {"Authorization": key, **dict.fromkeys(FOREIGN, openai.Omit())}

    def _asked(self, ask: Callable[[openai.OpenAI], Any], refusals: Collection[int] = ()) -> Any:
        """The JSON of one request; None where the server refuses it with one of ``refusals``."""
        import openai

        try:
            try:
                payload = self._read(ask(self._client))
            except _CutOffError:  # in the middle of a reply, where the library does not try again
                payload = self._read(ask(self._client))
            return json.loads(payload)
        except openai.APIStatusError as error:
            if error.status_code in refusals:
                return None
            raise self._refusal(error) from None
        except (openai.APIConnectionError, _CutOffError) as error:  # refused, unknown host, time-out, cut off
            timed_out = isinstance(error, openai.APITimeoutError)
            reason = "timed out" if timed_out else str(error.__cause__ or error) or type(error).__name__
            raise self.error(f"the server gives no reply ({reason})", "check the address") from None
        except (ValueError, RecursionError) as error:
            raise self.error(f"the server's reply is not JSON ({error})", "check the address") from None

    def _read(self, opened: Any) -> bytes:
        """A reply's body, of which no more is held than a limit."""
        with opened as response:
            payload = bytearray()
            try:
                for chunk in response.iter_bytes():
                    payload += chunk
                    if len(payload) > LARGEST_REPLY:
                        raise self.error(
                            f"the server's reply is longer than {LARGEST_REPLY} bytes", "check the address"
                        )
            except KeepsError:
                raise
            except Exception as error:  # of the HTTP library below, which the client does not translate here
                raise _CutOffError(str(error) or type(error).__name__) from error
            return bytes(payload)

    def _refusal(self, error: openai.APIStatusError) -> ModelLoadError:
        detail = " ".join(error.response.text[:500].split())
        what = f"the server answers {error.status_code} {error.response.reason_phrase} {detail}"
        return self.error(what, MENDS.get(error.status_code, "see its log"))


class _CutOffError(Exception):
    """The connection ended in the middle of a reply."""


def _mark_transient(response: Any) -> None:
    """Tell the library which states may pass: by itself it tries every one from 500 on again, 501 too."""
    response.headers.setdefault("x-should-retry", "true" if response.status_code in TRANSIENT else "false")

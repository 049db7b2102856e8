"""Servers for tests, and answerers that are as slow or as broken as a test wants."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import openai

from keeps.contracts import Answer
from keeps.models.chat import Usage
from keeps.serve.app import Served
from keeps.serve.backends import AnswererBackend, backend_of
from keeps.serve.generations import Generation, Piece
from keeps.serve.limits import Limits
from keeps.serve.requests import ChatRequest
from keeps.serve.running import in_background, listening

NAME = "test-model"


@contextlib.contextmanager
def running(backend: Any, *, name: str = NAME, key: str = "", **limits: Any) -> Iterator[Running]:
    """A server over a backend, a model or an answerer, on a free port of this machine."""
    made = backend if hasattr(backend, "token_text") else backend_of(backend)
    served = Served(made, name, Limits(**limits), key=key, hosts=("127.0.0.1",))
    with in_background(served, listening("127.0.0.1", 0)) as base_url:
        yield Running(served, base_url)


class Running:
    """A server that runs, and its official client."""

    def __init__(self, served: Served, base_url: str) -> None:
        self.served, self.base_url = served, base_url
        self.root = base_url.removesuffix("/v1")

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=key, **{"max_retries": 0, "timeout": 60.0, **options})

    def free(self, seconds: float = 10.0) -> bool:
        """Whether all places are given back within a while."""
        end = time.monotonic() + seconds
        while self.served.desk.taken and time.monotonic() < end:
            time.sleep(0.01)
        return not self.served.desk.taken


class Waiting:
    """An answerer that answers when it is told to."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        del contexts
        self.begun.set()
        assert self.go_on.wait(30)
        return [Answer(f"answer to {question}") for question in questions]


class Broken:
    """An answerer that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        raise self.error


class EndlessGeneration:
    """A reply that goes on until nobody asks for more, or fails at a step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.finish, self.usage, self.steps, self.fails_at = "", Usage(), 0, fails_at
        self.extras: Mapping[str, Any] = {}
        self.unread = None

    def step(self) -> Piece:
        self.steps += 1
        if self.steps == self.fails_at:
            raise ZeroDivisionError("secret")
        time.sleep(0.01)
        return Piece("word ")


class EndlessBackend(AnswererBackend):
    """Serves :class:`EndlessGeneration`; the last one is kept."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__(Broken(AssertionError()))
        self.fails_at, self.last = fails_at, EndlessGeneration()

    def chat(self, request: ChatRequest, most_tokens: int) -> list[Generation]:
        self.last = EndlessGeneration(self.fails_at)
        return [self.last]

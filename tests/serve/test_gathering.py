"""Prompts of several requests are read in one pass, each as if it were alone, and none suffers from another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from pico_models import pico
from served_stubs import NAME, Running, running

from keeps.models import LanguageModel
from keeps.models.streaming import TokenStream, read_together
from keeps.serve import gathering
from keeps.serve.gathering import Gathering

PROMPTS = [
    f"{word} is the capital of {word} and not of number {n}" for n, word in enumerate(("Paris", "Oslo", "Rome") * 4)
]


@dataclass(frozen=True)
class Item:
    """A prompt of some tokens; ``bad`` ones cannot be read."""

    name: str
    tokens: int = 3
    bad: bool = False

    @property
    def context(self) -> Sequence[int]:
        return range(self.tokens)


@dataclass
class Reader:
    """Notes what is read together; holds the worker until it is let go on."""

    turns: list[list[str]] = field(default_factory=list)

    def __call__(self, items: Sequence[Any]) -> None:
        self.turns.append([item.name for item in items])
        if any(item.bad for item in items):
            raise ZeroDivisionError("secret")


def gathered(items: Sequence[Item], *, cancel: Sequence[int] = (), wait: float = 0.005) -> tuple[Reader, list[Any]]:
    """What came of ``items`` that arrived while the worker was busy: done, an error, or cancelled."""
    reader, busy = Reader(), threading.Event()
    with ThreadPoolExecutor(1) as worker:
        worker.submit(busy.wait, 30)

        async def ask() -> list[Any]:
            waiting = Gathering(worker, reader)
            futures: list[Future[None]] = [waiting.submit(item, wait) for item in items]
            for number in cancel:
                assert futures[number].cancel()
            await asyncio.sleep(2 * wait)
            busy.set()
            live = [asyncio.wrap_future(future) for future in futures if not future.cancelled()]
            return await asyncio.gather(*live, return_exceptions=True)

        return reader, asyncio.run(ask())


def test_what_waits_is_read_in_one_turn_in_the_order_in_which_it_came() -> None:
    reader, found = gathered([Item("a"), Item("b"), Item("c")])
    assert reader.turns == [["a", "b", "c"]]
    assert found == [None] * 3


def test_one_that_fails_fails_alone() -> None:
    reader, found = gathered([Item("a"), Item("b", bad=True), Item("c")])
    assert reader.turns == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert (found[0], found[2]) == (None, None)
    assert isinstance(found[1], ZeroDivisionError)


def test_what_was_given_up_before_its_turn_is_not_read() -> None:
    reader, found = gathered([Item("a"), Item("b"), Item("c")], cancel=[1])
    assert reader.turns == [["a", "c"]]
    assert found == [None, None]
    assert gathered([Item("a")], cancel=[0])[0].turns == []


def test_a_turn_reads_so_many_tokens_and_a_longer_prompt_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST_TOKENS", 10)
    reader, found = gathered([Item("a", 4), Item("b", 6), Item("long", 50), Item("c", 1)])
    assert reader.turns == [["a", "b"], ["long"], ["c"]]
    assert found == [None] * 4


def test_after_the_worker_has_ended_nothing_waits_for_ever() -> None:
    worker = ThreadPoolExecutor(1)
    worker.shutdown()

    async def ask() -> bool:
        future = Gathering(worker, Reader()).submit(Item("a"), 0.0)
        return future.cancelled()

    assert asyncio.run(ask())


# --- behind a server -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> LanguageModel:
    return pico("llama", tokenizer)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were read at each turn of the server's worker."""
    found: list[int] = []

    def read(streams: Sequence[TokenStream]) -> None:
        found.append(len(streams))
        read_together(streams)

    monkeypatch.setattr("keeps.serve.desk.read_together", read)
    return found


def at_once(server: Running, asked: Sequence[Callable[[openai.OpenAI], Any]]) -> list[Any]:
    """What all get that ask while the worker is kept busy; an error where there is one."""
    busy, client = threading.Event(), server.client()
    server.served.desk._worker.submit(busy.wait, 30)

    def ask(one: Callable[[openai.OpenAI], Any]) -> Any:
        try:
            return one(client)
        except openai.OpenAIError as error:
            return error

    with ThreadPoolExecutor(len(asked)) as pool:
        futures = [pool.submit(ask, one) for one in asked]
        end = time.monotonic() + 20
        while server.served.desk.taken < len(asked) and time.monotonic() < end:
            time.sleep(0.01)
        busy.set()
        return [future.result() for future in futures]


def scoring(prompt: Any, **options: Any) -> Callable[[openai.OpenAI], Any]:
    """A request for the log-probabilities of a prompt."""
    told = {"model": NAME, "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 0, **options}
    return lambda client: client.completions.create(**told)


def values(choice: Any) -> list[float]:
    return choice.logprobs.token_logprobs[1:]


def test_many_at_once_get_the_log_probabilities_that_each_gets_alone(model: LanguageModel, turns: list[int]) -> None:
    prompts = [prompt[: 20 + 3 * n] for n, prompt in enumerate(PROMPTS)]
    with running(model, max_concurrency=len(prompts)) as server:
        alone = [scoring(prompt)(server.client()).choices[0] for prompt in prompts]
        assert turns == [1] * len(prompts)
        turns.clear()
        together = [reply.choices[0] for reply in at_once(server, [scoring(prompt) for prompt in prompts])]
    assert max(turns) > 1
    assert sum(turns) == len(prompts)
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        assert one.text == other.text == prompt
        assert values(one) == pytest.approx(model.token_logprobs([""], [prompt])[0].logprobs, abs=1e-4)
        assert values(other) == pytest.approx(values(one), abs=1e-4)
        assert one.logprobs.tokens == other.logprobs.tokens
        for a, b in zip(one.logprobs.top_logprobs[1:], other.logprobs.top_logprobs[1:], strict=True):
            assert a.keys() == b.keys()
            assert list(a.values()) == pytest.approx(list(b.values()), abs=1e-4)


def test_several_prompts_of_one_request_are_read_together_and_go_on_as_they_would_alone(
    model: LanguageModel, turns: list[int]
) -> None:
    options: dict[str, Any] = {"max_tokens": 5, "temperature": 0}
    with running(model) as server:
        client = server.client()
        alone = [scoring(prompt, **options)(client).choices[0] for prompt in PROMPTS[:5]]
        turns.clear()
        found = scoring(PROMPTS[:5], **options)(client).choices
        assert turns == [5]
        plain = client.completions.create(model=NAME, prompt=PROMPTS[:5], **options).choices
        assert turns == [5], "prompts that do not come back with log-probabilities are not read beforehand"
    for one, other, text in zip(alone, found, plain, strict=True):
        assert one.text == other.text
        assert other.text.endswith(text.text)
        assert values(one) == pytest.approx(values(other), abs=1e-4)


def test_a_request_that_fails_does_not_fail_its_neighbours(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = model.encoder.text("broken prompt")

    def read(streams: Sequence[TokenStream]) -> None:
        if any(stream.context == bad for stream in streams):
            raise ZeroDivisionError("secret")
        read_together(streams)

    monkeypatch.setattr("keeps.serve.desk.read_together", read)
    asked = [scoring(PROMPTS[0]), scoring("broken prompt"), scoring(PROMPTS[1]), scoring([10**9])]
    with running(model) as server:
        first, broken, second, refused = at_once(server, asked)
        assert server.free()
    assert isinstance(broken, openai.InternalServerError)
    assert "secret" not in str(broken)
    assert isinstance(refused, openai.BadRequestError)
    for reply, prompt in ((first, PROMPTS[0]), (second, PROMPTS[1])):
        assert values(reply.choices[0]) == pytest.approx(model.token_logprobs([""], [prompt])[0].logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", ["hang-up", "timeout"])
def test_who_gives_up_gets_no_work_done_and_leaves_its_place(
    kind: str, model: LanguageModel, turns: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keeps.serve.desk.POLL", 0.05)
    begun, busy = threading.Event(), threading.Event()
    limits: dict[str, Any] = {"timeout": 0.5} if kind == "timeout" else {}
    with running(model, max_concurrency=1, **limits) as server:
        submit = server.served.desk.gathering.submit

        def held(*arguments: Any) -> Any:
            server.served.desk._worker.submit(busy.wait, 30)
            begun.set()
            return submit(*arguments)

        monkeypatch.setattr(server.served.desk.gathering, "submit", held)
        client = server.client(timeout=0.5 if kind == "hang-up" else 30)
        error = openai.APITimeoutError if kind == "hang-up" else openai.InternalServerError
        with pytest.raises(error):
            scoring(PROMPTS[0])(client)
        assert begun.is_set()
        assert server.free(), "the prompt was not begun, so its place comes back though the worker is busy"
        busy.set()
        monkeypatch.setattr(server.served.desk.gathering, "submit", submit)
        assert turns == []
        assert scoring(PROMPTS[1])(server.client()).choices[0].text == PROMPTS[1]

"""As many requests as there are places, none for longer than it may take, and nothing left behind by a hang-up."""

from __future__ import annotations

import threading
import time
from typing import Any

import openai
import pytest
from served_stubs import NAME, Broken, EndlessBackend, Waiting, running

from keeps.errors import ModelLoadError

ASKED: Any = [{"role": "user", "content": "What is the capital of France?"}]


def test_more_requests_than_places_are_refused_and_the_place_is_given_back() -> None:
    slow = Waiting()
    with running(slow, max_concurrency=1) as server:
        client, replies = server.client(), []
        asking = threading.Thread(
            target=lambda: replies.append(client.chat.completions.create(model=NAME, messages=ASKED))
        )
        asking.start()
        assert slow.begun.wait(30)
        with pytest.raises(openai.RateLimitError, match="as many as this server takes on") as caught:
            client.chat.completions.create(model=NAME, messages=ASKED)
        assert caught.value.response.headers["Retry-After"] == "1"
        slow.go_on.set()
        asking.join()
        assert replies[0].choices[0].message.content.startswith("answer to What is")
        assert server.free()
        # the official client waits as it is told, and is served
        slow.begun.clear()
        slow.go_on.clear()
        asking = threading.Thread(target=lambda: client.chat.completions.create(model=NAME, messages=ASKED))
        asking.start()
        assert slow.begun.wait(30)
        threading.Timer(0.3, slow.go_on.set).start()
        patient = server.client(max_retries=3).chat.completions.create(model=NAME, messages=ASKED)
        assert patient.choices[0].message.content
        asking.join()


def test_a_reply_that_takes_too_long_is_given_up_and_its_place_comes_back_with_the_worker() -> None:
    slow = Waiting()
    with running(slow, max_concurrency=1, timeout=0.3) as server:
        with pytest.raises(openai.InternalServerError, match=r"not ready after 0\.3 seconds") as caught:
            server.client().chat.completions.create(model=NAME, messages=ASKED)
        assert caught.value.status_code == 503
        assert server.served.desk.taken == 1, "the worker is still at it, so there is no place"
        slow.go_on.set()
        assert server.free()


def test_a_client_that_hangs_up_during_a_stream_ends_it() -> None:
    backend = EndlessBackend()
    with running(backend, max_concurrency=1) as server:
        stream = server.client().chat.completions.create(model=NAME, messages=ASKED, stream=True)
        assert next(iter(stream)).choices[0].delta.content == "word "
        stream.close()
        assert server.free()
        steps = backend.last.steps
        time.sleep(0.1)
        assert backend.last.steps == steps


def test_a_client_that_hangs_up_while_it_waits_ends_the_work() -> None:
    backend = EndlessBackend()
    with running(backend, max_concurrency=1) as server:
        with pytest.raises(openai.APITimeoutError):
            server.client(timeout=0.3).chat.completions.create(model=NAME, messages=ASKED)
        assert server.free()


def test_a_stream_that_fails_says_so_without_details_and_ends() -> None:
    with running(EndlessBackend(fails_at=3)) as server:
        stream = server.client().chat.completions.create(model=NAME, messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match="the server failed") as caught:
            list(stream)
        assert "secret" not in str(caught.value)
        assert server.free()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ModelLoadError("upstream is down"), 503, "upstream is down"),
        (ZeroDivisionError("secret"), 500, "server failed"),
    ],
)
def test_what_fails_behind_the_server_is_its_own_failure(
    error: Exception, status: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(Broken(error)) as server:
        with pytest.raises(openai.InternalServerError, match=said) as caught:
            server.client().chat.completions.create(model=NAME, messages=ASKED)
        assert caught.value.status_code == status
        assert "secret" not in str(caught.value) + caplog.text
        assert ("ZeroDivisionError" in caplog.text) == (status == 500)
        assert server.free()


def test_long_replies_take_turns_with_short_ones() -> None:
    backend = EndlessBackend()
    with running(backend) as server:
        client = server.client()
        stream = client.chat.completions.create(model=NAME, messages=ASKED, stream=True)
        next(iter(stream))
        other = client.chat.completions.create(model=NAME, messages=ASKED, stream=True)
        assert next(iter(other)).choices[0].delta.content == "word "
        stream.close()
        other.close()
        assert server.free()

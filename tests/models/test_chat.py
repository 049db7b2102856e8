"""Chat: the local model through its template, and a server over real HTTP on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from running_servers import running

from keeps.contracts import Answerer
from keeps.errors import ModelLoadError, RecordError, SettingsError
from keeps.models import Chat, LanguageModel, LocalChat, Message, RemoteChat

SLOW = -1  # a good reply that comes late
QUESTION = [Message("system", "Be brief."), Message("user", "ping 1")]


class Server(ThreadingHTTPServer):
    """Speaks the chat completions protocol; ``plan`` holds states or bodies for the next requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[int | bytes] = []
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        step = self.server.plan.pop(0) if self.server.plan else 200
        if step == SLOW:
            time.sleep(0.4)
            step = 200
        content = body["messages"][-1]["content"].replace("ping", "pong")
        reason = "length" if body["max_tokens"] < 2 else "stop"
        reply = {"choices": [{"message": {"role": "assistant", "content": f" {content} "}, "finish_reason": reason}]}
        payload = step if isinstance(step, bytes) else json.dumps(reply if step == 200 else {"error": "no"}).encode()
        self.send_response(200 if isinstance(step, bytes) else step)
        self.send_header("Content-Length", str(len(payload)))
        if step == 302:
            self.send_header("Location", f"{self.server.base_url}/elsewhere")
        self.end_headers()
        with suppress(OSError):  # the other side may have given up
            self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as started:
        yield started


def remote(server: Server, **options: Any) -> RemoteChat:
    return RemoteChat(server.base_url, "test-model", **{"timeout": 10.0, **options})


def test_the_server_gets_the_protocol_and_its_reply_comes_back(server: Server) -> None:
    (reply,) = remote(server).reply([QUESTION], max_new_tokens=7)
    assert (reply.text, reply.complete) == ("pong 1", True)
    path, key, body = server.seen[0]
    assert (path, key) == ("/v1/chat/completions", None)
    assert body == {
        "model": "test-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ping 1"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }


def test_many_conversations_come_back_in_order(server: Server) -> None:
    replies = remote(server).reply([[Message("user", f"ping {n}")] for n in range(9)])
    assert [reply.text for reply in replies] == [f"pong {n}" for n in range(9)]


def test_a_reply_cut_by_the_limit_says_so(server: Server) -> None:
    assert not remote(server).reply([QUESTION], max_new_tokens=1)[0].complete


def test_the_key_comes_from_the_named_variable_and_is_never_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    chat = remote(server, key_variable="MY_KEY")
    chat.reply([QUESTION])
    assert server.seen[0][1] == "Bearer s3cret"
    server.plan = [401]
    with pytest.raises(ModelLoadError, match=r"401.*check the access key") as caught:
        chat.reply([QUESTION])
    assert "s3cret" not in str(caught.value) + repr(chat)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(SettingsError, match="MY_KEY holds no key"):
        remote(server, key_variable="MY_KEY")


def test_transient_failures_are_tried_again(server: Server) -> None:
    server.plan = [503, 429, 200]
    assert remote(server).reply([QUESTION])[0].text == "pong 1"
    assert len(server.seen) == 3


def test_a_reply_that_comes_too_late_is_asked_for_again_and_then_given_up(server: Server) -> None:
    server.plan = [SLOW, 200]
    assert remote(server, timeout=0.1, retries=1).reply([QUESTION])[0].text == "pong 1"
    server.plan = [SLOW]
    with pytest.raises(ModelLoadError, match=r"no reply .*timed out"):
        remote(server, timeout=0.1, retries=0).reply([QUESTION])


def test_lasting_failures_end_with_the_mend(server: Server) -> None:
    server.plan = [500, 500]
    with pytest.raises(ModelLoadError, match=r"500.*see its log"):
        remote(server, retries=1).reply([QUESTION])
    server.seen.clear()
    server.plan = [404]
    with pytest.raises(ModelLoadError, match=r"404.*check the address and the model's name"):
        remote(server).reply([QUESTION])
    assert len(server.seen) == 1  # a wrong name does not become right by asking again


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"<html>", "not JSON"), (b"{}", "no choices"), (b'{"choices": [{"message": {}}]}', "no choices")],
)
def test_replies_of_another_kind_are_refused(server: Server, body: bytes, message: str) -> None:
    server.plan = [body]
    with pytest.raises(ModelLoadError, match=message):
        remote(server).reply([QUESTION])


def test_a_server_that_is_not_there_is_an_error_with_its_address() -> None:
    with pytest.raises(ModelLoadError, match=r"no reply .*127\.0\.0\.1:9"):
        RemoteChat("http://127.0.0.1:9/v1", "m", retries=1, timeout=2.0).reply([QUESTION])


@pytest.mark.parametrize("address", ["localhost:8000", "file:///etc/passwd", ""])
def test_addresses_that_are_no_web_address_are_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="no web address"):
        RemoteChat(address, "m")


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "does not end with a turn of the user"),
        ([Message("user", "a"), Message("assistant", "b")], "does not end with a turn of the user"),
        ([Message("tool", "a")], 'unknown role "tool"'),
    ],
)
def test_conversations_that_make_no_sense_are_refused(
    server: Server, conversation: list[Message], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        remote(server).reply([conversation])
    assert server.seen == []


def test_the_local_chat_answers_through_the_template(smollm2: LanguageModel) -> None:
    chat = LocalChat(smollm2)
    (reply,) = chat.reply([[Message("user", "What is the capital of France?")]], max_new_tokens=12)
    assert (reply.text, reply.complete) == ("The capital of France is Paris.", True)
    (short,) = chat.reply([[Message("user", "What is the capital of France?")]], max_new_tokens=3)
    assert (short.text, short.complete) == ("The capital of", False)
    (answer,) = chat.answer(["What is the capital of France?"])
    assert answer.text == "The capital of France is Paris."


def test_both_are_chats_and_answerers(server: Server, smollm2: LanguageModel) -> None:
    for chat in (remote(server), LocalChat(smollm2)):
        assert isinstance(chat, Chat)
        assert isinstance(chat, Answerer)
    assert remote(server).answer(["ping 1"], ["Facts."])[0].text == "Facts.\n\npong 1"
    with pytest.raises(RecordError, match="1 questions and 2 contexts"):
        remote(server).answer(["a"], ["b", "c"])


def test_what_the_server_counted_comes_back_and_nonsense_counts_as_nothing(server: Server) -> None:
    message = '"choices": [{"message": {"content": "a"}}]'
    for usage, expected in (
        ('{"prompt_tokens": 7, "completion_tokens": 2}', (7, 2)),
        ('{"prompt_tokens": "many", "completion_tokens": -1}', (0, 0)),
        ("null", (0, 0)),
    ):
        server.plan = [f'{{{message}, "usage": {usage}}}'.encode()]
        (reply,) = remote(server).reply([QUESTION])
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == expected


def test_another_address_than_the_one_named_is_never_asked(server: Server) -> None:
    server.plan = [302]
    with pytest.raises(ModelLoadError, match=r"302.*name the address that it redirects to"):
        remote(server).reply([QUESTION])
    assert len(server.seen) == 1


def test_replies_without_end_and_without_bottom_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.plan = [b"[" * 200_000]
    with pytest.raises(ModelLoadError, match="not JSON"):
        remote(server).reply([QUESTION])
    monkeypatch.setattr("keeps.models.remote_transport.LARGEST_REPLY", 100)
    server.plan = [b" " * 101]
    with pytest.raises(ModelLoadError, match="longer than 100 bytes"):
        remote(server).reply([QUESTION])

"""Requests by the official client: nothing meant for others leaves, and decisions are asked for as choices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from running_servers import running

from keeps.errors import ModelLoadError, SettingsError
from keeps.models import Message, RemoteChat
from keeps.models.in_step import Decide, decide
from keeps.models.remote_completion import remote_model

TURN = [Message("user", "Is gold a metal?")]


def lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Server(ThreadingHTTPServer):
    """Notes headers and bodies; ``plan`` holds (state, body, bytes that are announced) for the next replies."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[tuple[int, bytes, int | None]] = []
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.models = ["m"]

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.seen.append((self.path, lowered(self.headers), None))
        data = [{"id": name, "object": "model"} for name in self.server.models]
        self.give(200, json.dumps({"object": "list", "data": data}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, lowered(self.headers), body))
        choice = {"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        good = json.dumps({"choices": [choice]}).encode()
        status, payload, announced = self.server.plan.pop(0) if self.server.plan else (200, good, None)
        self.give(status, payload, announced)

    def give(self, status: int, payload: bytes, announced: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload) if announced is None else announced))
        self.end_headers()
        self.wfile.write(payload)
        self.close_connection = announced is not None

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as started:
        yield started


def remote(server: Server, **options: Any) -> RemoteChat:
    return RemoteChat(f"{server.root}/v1", "m", **{"timeout": 10.0, "workers": 1, **options})


def test_keys_and_accounts_meant_for_another_server_never_leave(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("MY_KEY", "mine")
    for chat in (remote(server), remote(server, key_variable="MY_KEY")):
        chat.reply([TURN])
        chat.models()
    assert "s3cret" not in json.dumps([headers for _, headers, _ in server.seen])
    assert [headers.get("authorization") for _, headers, _ in server.seen] == [None] * 2 + ["Bearer mine"] * 2


def test_a_reply_that_is_cut_off_is_asked_for_once_more(server: Server) -> None:
    server.plan = [(200, b'{"choices": [', 500)]
    assert remote(server).reply([TURN])[0].text == "yes"
    server.plan = [(200, b'{"choices": [', 500)] * 2
    with pytest.raises(ModelLoadError, match=r"no reply .*check the address"):
        remote(server).reply([TURN])


def test_a_state_that_will_not_pass_is_not_tried_again(server: Server) -> None:
    server.plan = [(501, b"unsupported", None)]
    with pytest.raises(ModelLoadError, match=r"501.*unsupported"):
        remote(server).reply([TURN])
    assert len(server.seen) == 1


def decided(server: Server, chat: RemoteChat) -> list[int | None]:
    request = Decide("judge", tuple(TURN), ("yes", "no"), "metal")
    return [decision.choice for decision in decide(chat, [request])]


def test_a_decision_asks_the_server_to_constrain_its_reply(server: Server) -> None:
    assert decided(server, remote(server)) == [0]
    schema = server.seen[0][2]["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"] == {"metal": {"type": "string", "enum": ["yes", "no"]}}
    assert len(server.seen) == 1


def test_a_server_that_knows_no_constraint_is_asked_without_it_from_then_on(server: Server) -> None:
    chat = remote(server)
    server.plan = [(400, b"response_format?", None)]
    assert decided(server, chat) == [0]
    assert decided(server, chat) == [0]
    assert ["response_format" in body for _, _, body in server.seen] == [True, False, False]


def test_a_request_that_is_wrong_either_way_says_nothing_about_constraints(server: Server) -> None:
    chat = remote(server)
    server.plan = [(400, b"too long", None)] * 2
    with pytest.raises(ModelLoadError, match=r"400.*too long"):
        decided(server, chat)
    decided(server, chat)
    assert ["response_format" in body for _, _, body in server.seen] == [True, False, True]


def test_the_address_of_a_server_names_its_only_model(server: Server) -> None:
    for spec in (server.root, f"{server.root}/", f"{server.root}/v1"):
        assert remote_model(spec).name == f"openai:{server.root}/v1#m"
    assert remote_model(f"{server.root}#other").chat.model == "other"
    server.models = ["a", "b"]
    with pytest.raises(SettingsError, match=r"2 models \(a, b\).*#MODEL"):
        remote_model(server.root)
    with pytest.raises(ModelLoadError, match="no reply"):
        remote_model("http://127.0.0.1:9", retries=0)

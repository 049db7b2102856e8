"""Requests are checked field by field; what would silently do nothing is refused by name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import ContextLengthError, ModelLoadError, RecordError
from keeps.models.chat import Message
from keeps.models.remote import choice_format
from keeps.models.sampling import Softness
from keeps.serve.fields import read_json
from keeps.serve.refusals import RefusedError, refusal
from keeps.serve.requests import chat_request, completion_request

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "a b"}
MOST = 100


def test_the_protocols_defaults_are_kept() -> None:
    chat, text = chat_request(CHAT, MOST), completion_request(TEXT, MOST)
    assert chat.messages == (Message("user", "hi"),)
    assert chat.generating.softness == text.generating.softness == Softness(1.0)
    assert (chat.generating.room, text.generating.room) == (None, 16)
    assert (chat.generating.count, chat.generating.top, chat.generating.stream, chat.constrained) == (
        1,
        None,
        False,
        None,
    )


@pytest.mark.parametrize(("read", "plain"), [(chat_request, CHAT), (completion_request, TEXT)])
def test_a_servers_temperature_is_that_of_requests_that_leave_it_out(read: Any, plain: Any) -> None:
    def softness(said: dict[str, Any], temperature: float) -> Softness:
        return read({**plain, **said}, MOST, temperature).generating.softness

    assert softness({}, 0.3) == softness({"temperature": None}, 0.3) == Softness(0.3)
    assert softness({"temperature": 1}, 0.0) == Softness(1.0)
    assert softness({}, 0.0) == softness({"temperature": 0}, 1.0) == Softness(0.0)


def test_everything_that_is_said_arrives() -> None:
    said = {"max_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": 3, "stop": "x", "n": 2, "stream": True}
    found = chat_request({**CHAT, **said, "logprobs": True, "top_logprobs": 2}, MOST).generating
    assert (found.room, found.softness, found.seed, found.stop) == (7, Softness(0.0, 0.5), 3, ("x",))
    assert (found.count, found.stream, found.top) == (2, True, 2)
    found = completion_request({**TEXT, "echo": True, "logprobs": 0, "max_tokens": 0, "stop": ["a", "b"]}, MOST)
    assert (found.echo, found.generating.top, found.generating.room, found.generating.stop) == (True, 0, 0, ("a", "b"))
    assert chat_request({**CHAT, "max_completion_tokens": 9}, MOST).generating.room == 9


@pytest.mark.parametrize(
    ("prompt", "found"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_prompts_are_texts_or_token_ids(prompt: Any, found: Any) -> None:
    assert completion_request({"model": "m", "prompt": prompt}, MOST).prompts == found


def test_parts_of_a_message_are_joined_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "s"}, {"role": "user", "content": parts}]
    assert chat_request({**CHAT, "messages": messages}, MOST).messages == (
        Message("system", "s"),
        Message("user", "ab"),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hi"),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("model", ""),
        ("model", 3),
        ("max_tokens", 101),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", 1e-9),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("seed", 2**70),
        ("n", 0),
        ("n", 1000),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("stream", "yes"),
        ("stream_options", {"other": 1}),
        ("logprobs", 1),
        ("top_logprobs", 2),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"properties": {"a": {"enum": [1]}}}}}),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("tools", [{"type": "function"}]),
        ("store", True),
        ("prompt_logprobs", 0),
        ("no_such_field", 1),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        chat_request({**CHAT, field: value}, MOST)
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith(field) or field == "top_logprobs"
    document = caught.value.document["error"]
    assert set(document) == {"message", "type", "param", "code"}
    assert document["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["user", "metadata", "frequency_penalty", "tools", "response_format", "store", "n"])
def test_null_is_absent_and_habits_that_ask_for_nothing_pass(field: str) -> None:
    neutral = {"user": "me", "frequency_penalty": 0, "tools": [], "response_format": {"type": "text"}, "store": False}
    for value in (None, neutral.get(field)):
        assert chat_request({**CHAT, field: value}, MOST) == chat_request(CHAT, MOST)


@pytest.mark.parametrize("prompt", [None, "", [], [[]], [1, "a"], [True], {"a": 1}])
def test_prompts_of_other_kinds_are_refused(prompt: Any) -> None:
    if prompt == "":
        assert completion_request({**TEXT, "prompt": prompt}, MOST).prompts == ("",)  # the model says that it is empty
        return
    with pytest.raises(RefusedError, match="prompt is"):
        completion_request({**TEXT, "prompt": prompt}, MOST)


def test_nothing_to_write_and_too_many_completions_are_refused() -> None:
    with pytest.raises(RefusedError, match="max_tokens is 0"):
        completion_request({**TEXT, "max_tokens": 0}, MOST)
    with pytest.raises(RefusedError, match="more than 64"):
        completion_request({**TEXT, "prompt": ["a"] * 33, "n": 2}, MOST)


def test_the_choice_that_our_client_asks_for_is_understood() -> None:
    found = chat_request({**CHAT, "response_format": choice_format("kind", ("yes", 'n"o'))}, MOST).constrained
    assert found is not None
    assert found.choices == ("yes", 'n"o')
    assert [json.loads(turn) for turn in found.turns] == [{"kind": "yes"}, {"kind": 'n"o'}]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'{"a": NaN}', b"\xff", b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_bodies_that_are_no_json_object_are_refused(body: bytes) -> None:
    with pytest.raises(RefusedError, match="JSON") as caught:
        read_json(body)
    assert caught.value.code == "invalid_json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["messages", "prompt", "stop", "stream_options", "response_format", "n", "seed", "temperature", "x"]
)


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_whatever_is_sent_is_understood_or_refused(values: dict[str, Any]) -> None:
    for read, base in ((chat_request, CHAT), (completion_request, TEXT)):
        with contextlib.suppress(RefusedError):  # anything else would be a bug
            read({**base, **values}, MOST)


def test_errors_of_models_are_the_clients_or_the_servers_and_those_of_ours_say_nothing() -> None:
    assert refusal(RecordError("no question")).status == 400
    assert refusal(ContextLengthError("too long")).code == "context_length_exceeded"
    assert refusal(ModelLoadError("upstream is down")).status == 503
    unexpected = refusal(ZeroDivisionError("secret"))
    assert unexpected.status == 500
    assert "secret" not in str(unexpected.document)

"""The official client against a server on this machine: replies, streams, refusals, limits, hang-ups."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pico_models import pico
from served_stubs import NAME, Broken, Running, running

from keeps.errors import ModelLoadError, SettingsError
from keeps.models import LanguageModel, LocalChat, Message, RemoteChat
from keeps.models.remote_completion import RemoteCompletion, remote_model
from keeps.serve.running import check_host, listening

PROMPT = "The capital of France is"
ASKED: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> LanguageModel:
    return pico("llama", tokenizer)


@pytest.fixture(scope="module")
def server(model: LanguageModel) -> Iterator[Running]:
    with running(model, max_tokens=40, max_body=4096) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client()


def post(server: Running, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """A request as no client library would send it."""
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


# --- replies -----------------------------------------------------------------------------------


def test_a_chat_reply_is_that_of_the_local_chat(client: openai.OpenAI, model: LanguageModel) -> None:
    found = client.chat.completions.create(model=NAME, messages=ASKED, max_tokens=8, temperature=0)
    (local,) = LocalChat(model).reply([[Message("user", ASKED[0]["content"])]], max_new_tokens=8)
    choice, usage = found.choices[0], found.usage
    assert usage is not None
    assert (choice.message.content or "").strip() == local.text
    assert choice.finish_reason == ("stop" if local.complete else "length")
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        local.usage.prompt_tokens,
        8,
        local.usage.prompt_tokens + 8,
    )


def test_a_stream_joins_to_the_whole_reply_with_the_same_log_probabilities(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "messages": ASKED, "max_tokens": 7, "seed": 5, "temperature": 1.3}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=2).choices[0]
    events = list(
        client.chat.completions.create(
            **options, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
        )
    )
    *pieces, end, usage = events
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * len(pieces)
    assert end.choices[0].finish_reason == whole.finish_reason
    assert (usage.choices, usage.usage and usage.usage.completion_tokens) == ([], 7)
    assert whole.logprobs is not None
    streamed = [entry for piece in pieces if (found := piece.choices[0].logprobs) for entry in found.content or ()]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in whole.logprobs.content or ()]
    assert all(len(entry.top_logprobs) == 2 for entry in streamed)


def test_draws_follow_the_seed_and_several_completions_differ(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "prompt": PROMPT, "max_tokens": 8, "temperature": 1.5, "n": 3}
    first, again = (client.completions.create(**options, seed=7) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in first.choices] == [0, 1, 2]


def test_several_prompts_and_token_ids_are_completed_in_order(client: openai.OpenAI, model: LanguageModel) -> None:
    prompts = [PROMPT, "Gold is"]
    texts = client.completions.create(model=NAME, prompt=prompts, max_tokens=5, temperature=0)
    ids = client.completions.create(
        model=NAME, prompt=[model.encode_prompt(p) for p in prompts], max_tokens=5, temperature=0
    )
    found = [choice.text.strip() for choice in texts.choices]
    assert found == model.generate(prompts, max_new_tokens=5, stop=())
    assert found == [choice.text.strip() for choice in ids.choices]


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**options).choices[0]
    stop = whole.text[5:8]
    cut = client.completions.create(**options, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    streamed = "".join(event.choices[0].text for event in client.completions.create(**options, stop=stop, stream=True))
    assert streamed == cut.text


def test_an_echo_scores_the_prompt_as_the_model_does(client: openai.OpenAI, model: LanguageModel) -> None:
    found = client.completions.create(model=NAME, prompt=PROMPT, echo=True, logprobs=1, max_tokens=0)
    choice = found.choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    values = choice.logprobs.token_logprobs or []
    assert values[0] is None
    assert values[1:] == pytest.approx(model.token_logprobs([""], [PROMPT])[0].logprobs, abs=1e-4)
    assert "".join(choice.logprobs.tokens or []) == PROMPT
    tokens, offsets = choice.logprobs.tokens or [], choice.logprobs.text_offset or []
    assert all(PROMPT.startswith(token, offset) for token, offset in zip(tokens, offsets, strict=True))


def test_our_own_client_asks_this_server_as_it_asks_the_model(server: Running, model: LanguageModel) -> None:
    remote = remote_model(f"openai:{server.base_url}#{NAME}")
    assert isinstance(remote.answerer, RemoteCompletion)
    prompts, answers = [PROMPT, "2 + 2 ="], ["Paris", "4"]
    for there, here in zip(remote.ask(prompts, answers), model.ask(prompts, answers), strict=True):
        assert (there.text, there.tokens, there.greedy) == (here.text, here.tokens, here.greedy)
        assert there.logprob == pytest.approx(here.logprob, abs=1e-4)
    options: dict[str, Any] = {"temperature": 1.2, "max_new_tokens": 6}
    assert remote.sample(prompts, [1, 2], **options) == model.sample(prompts, [1, 2], **options)


def test_a_server_with_a_temperature_of_its_own_gives_it_to_requests_that_leave_it_out(model: LanguageModel) -> None:
    (greedy,) = model.generate([PROMPT], max_new_tokens=8, stop=())
    options: dict[str, Any] = {"model": NAME, "prompt": PROMPT, "max_tokens": 8, "seed": 7}
    with running(model, temperature=0) as server:
        client = server.client()
        assert client.completions.create(**options).choices[0].text.strip() == greedy
        drawn = client.completions.create(**options, temperature=1.5).choices[0].text
    with running(model) as server:
        client = server.client()
        assert client.completions.create(**options, temperature=1.5).choices[0].text == drawn
        assert client.completions.create(**options).choices[0].text.strip() != greedy


def test_a_constrained_choice_is_the_one_that_the_local_chat_weighs_highest(
    server: Running, model: LanguageModel
) -> None:
    turn, choices = [Message("user", "Is gold a metal?")], ("yes", "no", "a very long third way")
    (reply,) = RemoteChat(server.base_url, NAME).choose([turn], [choices], "answer", 20)
    turns = [json.dumps({"answer": choice}) for choice in choices]
    ((score, _),) = LocalChat(model).weigh([turn], [turns])
    assert reply.text == turns[score.best]


def test_the_one_model_is_listed_and_health_needs_nothing(server: Running, client: openai.OpenAI) -> None:
    assert [found.id for found in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "keeps"
    assert remote_model(server.root).chat.model == NAME
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=30)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok", "requests": 0, "places": 8}
    connection.close()


def test_many_at_once_get_their_own_replies(server: Running, model: LanguageModel) -> None:
    prompts = [f"Number {n} is" for n in range(8)]
    remote = remote_model(f"openai:{server.base_url}#{NAME}")
    assert remote.generate(prompts, max_new_tokens=6, stop=()) == model.generate(prompts, max_new_tokens=6, stop=())


# --- refusals ----------------------------------------------------------------------------------


def test_another_model_and_another_address_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model") as caught:
        client.chat.completions.create(model="other", messages=ASKED)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="nothing at this address"):
        client.embeddings.create(model=NAME, input="a", encoding_format="float")


def test_what_makes_no_sense_is_a_bad_request_with_the_field(client: openai.OpenAI, server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens is 41") as caught:
        client.completions.create(model=NAME, prompt=PROMPT, max_tokens=41)
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError, match="does not end with a turn of the user"):
        client.chat.completions.create(model=NAME, messages=[{"role": "assistant", "content": "hi"}])
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.completions.create(model=NAME, prompt="word " * 200, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="prompt is empty"):
        client.completions.create(model=NAME, prompt="", max_tokens=5)
    with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
        client.completions.create(model=NAME, prompt=[10**7], max_tokens=5)
    assert post(server, "/v1/completions", b"{")[0] == 400
    assert server.free()


def test_a_stream_that_is_refused_is_refused_before_it_begins(client: openai.OpenAI, server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model=NAME, prompt="word " * 200, max_tokens=5, stream=True)
    assert server.free()


def test_a_request_that_is_too_large_is_not_read(client: openai.OpenAI, server: Running) -> None:
    for size in (4096, 3_000_000):
        with pytest.raises(openai.APIStatusError, match="larger than 4096 bytes") as caught:
            client.completions.create(model=NAME, prompt="a" * size)
        assert caught.value.status_code == 413
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(
        ("127.0.0.1", int(server.root.rpartition(":")[2]))
    ) as raw:  # says nothing of its size, and never ends
        raw.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"800\r\n" + b" " * 2048 + b"\r\n")
        raw.sendall(b"801\r\n" + b" " * 2049 + b"\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_other_content_and_other_hosts_are_refused(server: Running) -> None:
    body = json.dumps({"model": NAME, "prompt": PROMPT}).encode()
    status, found = post(server, "/v1/completions", body, **{"Content-Type": "text/plain"})
    assert (status, "application/json" in found["error"]["message"]) == (400, True)
    status, found = post(server, "/v1/completions", body, Host="evil.example")
    assert (status, found["error"]["code"]) == (400, "wrong_host")


@pytest.mark.parametrize("key", ["", "wrong", "s3cret ", "ünïcode"])
def test_only_the_right_key_is_let_in(key: str) -> None:
    with running(Broken(ModelLoadError("upstream is down")), key="s3cret") as server:
        headers = {"Authorization": f"Bearer {key}".encode().decode("latin-1")} if key else {}
        status, found = post(server, "/v1/chat/completions", b"{}", **headers)
        if key.strip() == "s3cret":
            assert status == 400
            return
        assert (status, found["error"]["code"], found["error"]["type"]) == (
            401,
            "invalid_api_key",
            "authentication_error",
        )
        assert "s3cret" not in json.dumps(found)
        with pytest.raises(openai.AuthenticationError):
            server.client("other").models.list()
        assert [model.id for model in server.client("s3cret").models.list()] == [NAME]


def test_a_server_that_others_reach_needs_a_key() -> None:
    with pytest.raises(SettingsError, match="needs an API key"):
        check_host("0.0.0.0", "")
    check_host("0.0.0.0", "key")
    check_host("::1", "")


def test_a_port_that_is_taken_is_refused_with_a_mend() -> None:
    with listening("127.0.0.1", 0) as taken, pytest.raises(SettingsError, match=r"nothing can listen.*--port"):
        listening("127.0.0.1", taken.getsockname()[1])

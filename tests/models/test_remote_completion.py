"""A server's model is asked as a local one: by log-probabilities in either form, else by text, else in turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from completion_server import SHOWN, Server, toy_best, toy_logprob, words
from running_servers import running

import keeps
from keeps.contracts import Answerer
from keeps.errors import ModelLoadError, RecordError, SettingsError
from keeps.models import LanguageModel, RemoteChat
from keeps.models.remote_completion import KEY, RemoteCompletion, RemoteModel, RemoteText, is_remote, remote_model
from keeps.probe.text import TextProbe


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Any]:
    """``served(mode, model=None)`` starts a server."""
    with ExitStack() as opened:
        yield lambda mode, model=None: opened.enter_context(running(Server(mode, model)))


def connected(server: Server, **options: Any) -> RemoteModel:
    return remote_model(server.spec, **{"timeout": 10.0, **options})


@pytest.mark.parametrize("mode", ["echo", "prompt_logprobs"])
def test_scores_are_those_of_the_answers_tokens_alone(served: Any, mode: str) -> None:
    model = connected(served(mode))
    assert isinstance(model.answerer, RemoteCompletion)
    [score, other] = model.logprob(["The capital is", "The capital is"], ["Oslo it is", "far"])
    wanted = [toy_logprob(" is", " Oslo"), toy_logprob(" Oslo", " it"), toy_logprob(" it", " is")]
    assert score.logprob == pytest.approx(sum(wanted), abs=1e-9)
    assert (score.tokens, other.tokens) == (3, 1)
    assert score.greedy == (wanted == [toy_best(" is"), toy_best(" Oslo"), toy_best(" it")])
    [ranked] = model.rank(["The capital is"], [["Oslo it is", "far"]])
    assert ranked.logprobs == (score.logprob, other.logprob)
    assert ranked.best == int(other.per_token > score.per_token)
    [said] = model.ask(["The capital is"], ["Oslo it is"], max_new_tokens=9)
    assert (said.text, said.logprob, said.tokens) == (SHOWN, score.logprob, 3)
    [text] = model.text_logprob(["a bc def"])
    assert (text.logprob, text.tokens) == (pytest.approx(toy_logprob("a", " bc") + toy_logprob(" bc", " def")), 2)
    assert [len(part) for part in model.encode_pair("It is", "far away")] == [2, 2]


def test_a_greedy_answer_is_known_as_such(served: Any) -> None:
    best = max(range(1, 9), key=lambda length: toy_logprob(" is", "x" * length))
    assert toy_logprob(" is", "x" * best) == toy_best(" is"), "the toy's best word would be empty"
    scores = connected(served("echo")).logprob(["It is", "It is"], ["x" * (best - 1), "x" * (best % 8 + 1)])
    assert [score.greedy for score in scores] == [True, False]


def test_the_form_is_found_out_once(served: Any) -> None:
    server = served("prompt_logprobs")
    model = connected(server)
    assert model.fingerprint  # of the address: nothing is asked for it
    assert server.seen == []
    model.logprob(["a b"], ["c"])
    model.logprob(["a b"], ["d"])
    trials = [body for _, _, body in server.seen if body["prompt"] == "The capital of France is"]
    assert [sorted(set(body) - {"model", "prompt", "max_tokens", "temperature"}) for body in trials] == [
        ["echo", "logprobs"],
        ["prompt_logprobs"],
    ]


@pytest.mark.parametrize("mode", ["silent", "strict"])  # one ignores what it does not know, the other refuses it
def test_a_server_without_log_probabilities_is_asked_for_text(served: Any, mode: str) -> None:
    server = served(mode)
    model = connected(server)
    assert type(model.answerer) is RemoteText
    assert not any(hasattr(model, name) for name in ("ask", "rank", "logprob", "text_logprob"))
    assert isinstance(model, Answerer)
    assert model.answer(["What?"], ["Facts."])[0].text == SHOWN
    assert server.seen[-1][2]["prompt"] == "Facts.\n\nWhat?"
    assert server.seen[-1][2]["stop"] == ["\n"]
    with pytest.raises(SettingsError, match="no token probabilities"):
        TextProbe(keeps.data.text.text_passages().passages()[:1])(model)  # pyright: ignore


def test_a_server_that_only_chats_is_asked_in_turns(served: Any) -> None:
    model = connected(served("chat"))
    assert isinstance(model.answerer, RemoteChat)
    assert model.answer(["What?"])[0].text == SHOWN
    assert not hasattr(model, "generate")


def test_a_wrong_address_or_model_says_so(served: Any) -> None:
    server = served("chat")
    server.plan = [404] * 4
    with pytest.raises(ModelLoadError, match=r"404.*check the address and the model's name"):
        connected(server).answer(["What?"])
    with pytest.raises(ModelLoadError, match="no reply"):
        remote_model("openai:http://127.0.0.1:9/v1#m", retries=0, timeout=2.0).answer(["What?"])
    server.plan = [401]
    with pytest.raises(ModelLoadError, match=r"401.*check the access key"):
        connected(server).answer(["What?"])


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": []}',
        b'{"choices": [{"text": "a"}]}',
        b'{"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [{}]}}], '
        b'"usage": {"prompt_tokens": 3}}',
        b'{"choices": [{"text": "a", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [null, null], '
        b'"top_logprobs": [null, null]}}], "usage": {"prompt_tokens": 2}}',
    ],
)
def test_a_reply_that_changes_its_form_is_refused(served: Any, body: bytes) -> None:
    server = served("echo")
    model = connected(server)
    model.logprob(["a b"], ["c"])
    server.plan = [body]
    with pytest.raises(ModelLoadError, match=r"of another form .*completions protocol"):
        model.logprob(["a b"], ["c"])


def test_zeros_are_no_log_probabilities(served: Any) -> None:
    server = served("strict")
    tokens = words("The capital of France is")
    found = {"tokens": tokens, "token_logprobs": [0.0] * 5, "top_logprobs": [{"a": 0.0}] * 5}
    reply = {"choices": [{"text": "The capital of France is", "logprobs": found}], "usage": {"prompt_tokens": 5}}
    server.plan = [json.dumps(reply).encode()]
    assert type(connected(server).answerer) is RemoteText


def test_a_transient_failure_while_trying_does_not_cost_the_log_probabilities(served: Any) -> None:
    server = served("echo")
    server.plan = [503, 429]
    assert isinstance(connected(server).answerer, RemoteCompletion)


def test_the_fingerprint_is_of_address_and_model_never_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = remote_model("openai:http://host:1/v1#m")
    monkeypatch.setenv(KEY, "s3cret")
    keyed = remote_model("openai:http://host:1/v1/#m")
    assert plain.fingerprint == keyed.fingerprint
    assert len({remote_model(f"openai:http://host:{port}/v1#{m}").fingerprint for port in (1, 2) for m in "mn"}) == 4
    assert keyed.chat.key_variable == KEY
    assert "s3cret" not in repr(keyed.chat) + keyed.name


def test_the_key_goes_with_every_request(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = served("echo")
    monkeypatch.setenv(KEY, "s3cret")
    connected(server).logprob(["a b"], ["c"])
    assert {key for _, key, _ in server.seen} == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai:http://localhost:8000/v1", "not named"),
        ("openai:http://localhost:8000/v1#", "not named"),
        ("openai:localhost#m", "no web address"),
        ("openai:http://me:word@localhost/v1#m", "holds a password"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_asked(spec: str, message: str, tmp_path: Path) -> None:
    assert is_remote(spec)
    with pytest.raises(SettingsError, match=message) as caught:
        keeps.probe(spec, "world:symbol", workspace=tmp_path)
    assert "word" not in str(caught.value).replace("password", "")


def test_marks_of_a_server_are_refused_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"not been marked.*such as world:capital"):
        keeps.probe("openai:http://127.0.0.1:9/v1#m", "world:known:capital", workspace=tmp_path)


def test_empty_answers_and_unequal_lists_are_refused(served: Any) -> None:
    model = connected(served("echo"))
    with pytest.raises(RecordError, match="answer is empty"):
        model.logprob(["a b"], [" "])
    with pytest.raises(RecordError, match="prompt is empty"):
        model.generate([" "])
    with pytest.raises(RecordError, match="2 prompts and 1 answers"):
        model.ask(["a", "b"], ["c"])


QUESTIONS = """\
{"id": "1", "prompt": "The capital of France is", "answer": "Paris"}
{"id": "2", "prompt": "The chemical symbol of gold is", "answer": "Au"}
{"id": "3", "prompt": "The sky is", "answer": "blue", "choices": ["blue", "a very old horse", "green"]}
{"id": "4", "text": "The rain in Spain stays mainly in the plain."}
{"id": "5", "prompt": "2 + 2 = 4\\n3 + 3 =", "answer": "6"}
"""


@pytest.mark.slow
def test_prompt_logprobs_are_those_of_the_local_model(served: Any, smollm2: LanguageModel) -> None:
    prompts, answers = ["The sky is", "2 + 2 = 4\n3 + 3 ="], ["blue and far", "6"]
    found = connected(served("prompt_logprobs", smollm2), timeout=60.0).logprob(prompts, answers)
    for there, here in zip(found, smollm2.logprob(prompts, answers), strict=True):
        assert (there.tokens, there.greedy) == (here.tokens, here.greedy)
        assert there.logprob == pytest.approx(here.logprob, abs=1e-4)


@pytest.mark.slow
def test_the_remote_route_gives_the_rows_of_the_local_one(served: Any, smollm2: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)
    server, data = served("echo", smollm2), str(tmp_path / "questions.jsonl")
    outcome = keeps.probe([server.spec, "smollm2-135m"], data, workspace=tmp_path / "runs")
    remote, local = (result.rows for result in outcome.results)
    assert len(local) == 5
    for there, here in zip(remote, local, strict=True):
        assert (there.id, there.answer, there.correct, there.kind) == (here.id, here.answer, here.correct, here.kind)
        assert there.logprob == pytest.approx(here.logprob, abs=1e-4)
        assert there.details.get("tokens") == here.details.get("tokens")
    count = len(server.seen)
    difference = keeps.diff(server.spec, "smollm2-135m", probe=data, workspace=tmp_path / "runs")
    assert [line.lost + line.learned for line in difference.groups] == [0] * len(difference.groups)
    assert len(server.seen) == count, "what the ledger holds is not asked again"

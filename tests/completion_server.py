"""A server of the completions protocol on this machine, over a toy whose log-probabilities are a formula or a model."""

from __future__ import annotations

import itertools
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from keeps.models import LanguageModel

SHOWN = "the server said this"


def words(text: str) -> list[str]:
    """Tokens of the toy: words with the space before them."""
    return [part if n == 0 else f" {part}" for n, part in enumerate(text.split(" "))]


def toy_logprob(before: str, token: str) -> float:
    """Log-probability of a token: by the lengths of the last one and of itself, normalised over 9 lengths."""
    scores = [math.sin(len(before) * 7 + length) for length in range(9)]
    return scores[len(token) % 9] - math.log(sum(map(math.exp, scores)))


def toy_best(before: str) -> float:
    return max(toy_logprob(before, "x" * length) for length in range(9))


class Server(ThreadingHTTPServer):
    """Speaks the protocol for the toy, or for ``model``; ``mode`` says how much of it, ``plan`` the next replies."""

    def __init__(self, mode: str, model: LanguageModel | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.model = mode, model
        self.plan: list[int | bytes] = []
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []
        self.lock = threading.Lock()  # one pass of the real model at a time

    @property
    def spec(self) -> str:
        return f"openai:http://127.0.0.1:{self.server_address[1]}/v1#toy"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        step = self.server.plan.pop(0) if self.server.plan else None
        status, payload = (step, b"{}") if isinstance(step, int) else (200, step or b"")
        if step is None:
            reply = self.reply(body)
            status, payload = (200, json.dumps(reply).encode()) if reply else (404, b"no such route")
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def reply(self, body: dict[str, Any]) -> Any:
        mode = self.server.mode
        if self.path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": SHOWN}
            return {"choices": [{"message": message}]} if mode == "chat" else None
        if mode == "chat" or (mode == "strict" and ("echo" in body or "prompt_logprobs" in body)):
            return None
        read = self.toy if self.server.model is None else self.real
        tokens, logprobs, best, text = read(body["prompt"], body["max_tokens"])
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "length"}
        if mode == "echo" and body.get("echo"):
            top = [None if b is None else {"best": b} for b in best]
            choice |= {"text": body["prompt"] + text}
            choice["logprobs"] = {"tokens": [*tokens, "!"], "token_logprobs": [*logprobs, -1.0]}
            choice["logprobs"]["top_logprobs"] = [*top, {"best": -1.0}]
        if mode == "prompt_logprobs" and "prompt_logprobs" in body:
            entries = [
                None if value is None else {str(n): {"logprob": value, "rank": 1 if value == top else 2}}
                for n, (value, top) in enumerate(zip(logprobs, best, strict=True))
            ]
            choice["prompt_logprobs"] = entries
        return {"choices": [choice], "usage": {"prompt_tokens": len(tokens), "completion_tokens": 1}}

    def toy(self, prompt: str, room: int) -> tuple[list[str], list[float | None], list[float | None], str]:
        tokens = words(prompt)
        pairs = list(itertools.pairwise(tokens))
        logprobs = [None, *(toy_logprob(*pair) for pair in pairs)]
        return tokens, logprobs, [None, *(toy_best(before) for before, _ in pairs)], f" {SHOWN}. And"[: 5 * room]

    @torch.no_grad()
    def real(self, prompt: str, room: int) -> tuple[list[str], list[float | None], list[float | None], str]:
        """The plain transformers model, without anything that keeps scores with."""
        model = self.server.model
        assert model is not None
        ids = list(model.tokenizer(prompt).input_ids)
        with self.server.lock:
            scores = model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            logprobs = [None, *(float(scores[n, token]) for n, token in enumerate(ids[1:]))]
            made = ids if room == 1 else self.continued(ids, room)
        text = model.tokenizer.decode(made[len(ids) :], skip_special_tokens=True)
        return [str(token) for token in ids], logprobs, [None, *scores.max(-1).values[:-1].tolist()], text

    def continued(self, ids: list[int], room: int) -> list[int]:
        generate: Any = getattr(self.server.model, "model").generate  # noqa: B009
        return generate(torch.tensor([ids]), max_new_tokens=room, do_sample=False)[0].tolist()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args

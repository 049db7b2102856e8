"""A chat that says what it is told to, and a retriever by shared words; both note what they were asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from keeps.contracts import Run
from keeps.models.chat import Conversation, Reply, Usage
from keeps.sources import Hit

RUN = Run(Path())


class ScriptedChat:
    """Replies by a function of the whole conversation as text, or by a list, one after another."""

    def __init__(self, script: Callable[[str], str] | Sequence[str]) -> None:
        self.script = script
        self.asked: list[str] = []
        self.batches: list[int] = []

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        del max_new_tokens
        self.batches.append(len(conversations))
        return [self._reply("\n".join(message.content for message in turn)) for turn in conversations]

    def _reply(self, text: str) -> Reply:
        self.asked.append(text)
        said = self.script(text) if callable(self.script) else self.script[len(self.asked) - 1]
        return Reply(said, True, Usage(len(text.split()), len(said.split())))


def hit(text: str, document: str, title: str = "") -> Hit:
    return Hit(f"{document}#0-{len(text)}", text, 1.0, document, (0, len(text)), title)


class WordRetriever:
    """Passages that share the most words of four letters or more with the query."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.hits = [hit(text, f"d{number}") for number, text in enumerate(texts)]
        self.queries: list[str] = []

    def __len__(self) -> int:
        return len(self.hits)

    def search(self, query: str, k: int) -> list[Hit]:
        self.queries.append(query)
        words = set(re.findall(r"\w{4,}", query.casefold()))
        shared = [len(words & set(re.findall(r"\w{4,}", item.text.casefold()))) for item in self.hits]
        ranked = sorted(range(len(shared)), key=lambda n: (-shared[n], n))
        return [self.hits[n] for n in ranked[:k] if shared[n]]

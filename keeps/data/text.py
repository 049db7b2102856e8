"""Running text that is always there: the topics of Python's own documentation (``pydoc_data``).

It is what ``text`` means as data: prose of about 600 characters a passage, without code, grammar and
lists of signatures, to measure whether a model still models plain English. All passages of a topic
fall into one split, and a paragraph that stands in several topics is taken from the shortest only.
The text is that of the running Python version, so figures on it are compared within one version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from keeps.data.records import Passage, RecordSet

AT_LEAST = 200  # characters of a passage; shorter leftovers are dropped
ENOUGH = 600  # characters after which a passage is complete
AT_MOST = 1600  # characters of a paragraph that is taken
LETTERS = 0.75  # share of letters and spaces below which a paragraph is code or a table
MARKUP = ("::=", ">>>", "...", "---", "***", "===", "~~~", "New in version", "Changed in version")


def text_passages() -> RecordSet:
    """All passages, topic by topic in alphabetical order.

    >>> passages = text_passages()
    >>> len(passages) > 100, passages.records[0].id
    (True, 'text:assert:1')
    """
    return RecordSet("text", _passages())


@cache
def _passages() -> tuple[Passage, ...]:
    from pydoc_data.topics import topics  # half a megabyte

    seen: set[str] = set()
    passages: dict[str, list[Passage]] = {}
    for name in sorted(topics, key=lambda topic: (len(topics[topic]), topic)):
        fresh = [paragraph for paragraph in _paragraphs(topics[name]) if paragraph not in seen]
        seen.update(fresh)
        chunks = enumerate(_chunks(fresh), 1)
        passages[name] = [Passage(f"text:{name}:{number}", text, f"text:{name}") for number, text in chunks]
    return tuple(passage for name in sorted(passages) for passage in passages[name])


def _paragraphs(topic: str) -> Iterator[str]:
    """Prose paragraphs of a topic, each as one line."""
    for block in re.split(r"\n\s*\n", topic):
        lines = block.strip("\n").splitlines()
        text = re.sub(r"\s+", " ", " ".join(lines)).strip()
        if _is_prose(text):
            yield text


def _is_prose(text: str) -> bool:
    if len(text) < 60 or len(text) > AT_MOST or any(mark in text for mark in MARKUP):
        return False
    letters = sum(character.isalpha() or character == " " for character in text)
    return text[0].isupper() and text[-1] in ".)" and letters >= LETTERS * len(text)


def _chunks(paragraphs: list[str]) -> Iterator[str]:
    """Neighbouring paragraphs joined until they are long enough."""
    held: list[str] = []
    for paragraph in paragraphs:
        held.append(paragraph)
        if sum(map(len, held)) >= ENOUGH:
            yield " ".join(held)
            held = []
    if sum(map(len, held)) >= AT_LEAST:
        yield " ".join(held)

"""Which methods fit a sentence: by meaning where the sentence encoder is installed, else by shared words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from keeps.errors import MissingDependencyError, ModelLoadError
from keeps.registry import MethodInfo

WORDS_NOTE = "ranked by shared words: install the sentence encoder with keeps setup to rank by meaning"
MEANING_NOTE = "ranked by meaning"
USES = "Use when:"
_TOO_COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "for",
        "from",
        "in",
        "is",
        "it",
        "my",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "with",
    ]
)


def rank_methods(sentence: str, known: Mapping[str, MethodInfo]) -> tuple[list[tuple[MethodInfo, float]], str]:
    """Methods with their similarity to ``sentence`` in [-1, 1], best first, and how they were ranked.

    A method is as similar as the most similar of its uses.
    """
    uses = [(info, use) for info in known.values() for use in uses_of(info)]
    texts = [use for _, use in uses]
    try:
        scores, note = _by_meaning(sentence, texts), MEANING_NOTE
    except (MissingDependencyError, ModelLoadError):
        scores, note = [word_overlap(sentence, text) for text in texts], WORDS_NOTE
    best: dict[str, float] = {}
    for (info, _), score in zip(uses, scores, strict=True):
        best[info.name] = max(score, best.get(info.name, -1.0))
    return sorted(((known[name], score) for name, score in best.items()), key=lambda pair: -pair[1]), note


def uses_of(info: MethodInfo) -> list[str]:
    """What a method is good for, in the words of its page's paragraph ``Use when: ...; ...``.

    A sentence encoder does not understand "does not protect", so a method is found by what it is good
    for and not by the whole of its description. Without such a paragraph the summary must do.
    """
    paragraphs = (" ".join(text.split()) for text in re.split(r"\n\s*\n", info.documentation))
    found = next((text.removeprefix(USES).strip() for text in paragraphs if text.startswith(USES)), "")
    return [use.strip().rstrip(".") for use in found.split(";") if use.strip()] or [info.summary]


def word_overlap(sentence: str, text: str) -> float:
    """The share of the sentence's words that ``text`` has too, in [0, 1].

    >>> word_overlap("my model forgets facts", "Keeps the facts that a model knows")
    0.6666666666666666
    """
    wanted = _words(sentence)
    return len(wanted & _words(text)) / len(wanted) if wanted else 0.0


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower())) - _TOO_COMMON


def _by_meaning(sentence: str, texts: list[str]) -> list[float]:
    from keeps.models.encoder import SentenceEncoder

    vectors = SentenceEncoder.load().encode([sentence, *texts])  # (1 + methods, hidden), unit norm
    return (vectors[1:] @ vectors[0]).tolist()

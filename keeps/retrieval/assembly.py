"""Passages as a prompt shows them: numbered, quoted as data, in a chosen order, within a budget of tokens.

What was found is data, whatever it says. It stands between ``<passage 1>`` and ``</passage 1>``, and no text can write
such a mark itself: pointed brackets in it are shown as look-alikes, and numbers in brackets, which would pass for
citations, with round ones; so are marks of chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keeps.errors import ContextLengthError, SettingsError
from keeps.sources import Hit

ORDERS = ("best_first", "best_last", "document")
CHARACTERS_PER_TOKEN = 3.0  # where nobody counts: rather too many tokens than too few
LONGEST_TITLE = 200  # characters
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›"})
_ORIGINALS = str.maketrans({"‹": "<", "›": ">"})
_IN_BRACKETS = re.compile(r"\[(\d[\d\s,;]*|/?(?:INST|SYS|SYSTEM|USER|ASSISTANT)[^\[\]]{0,20})\]", re.IGNORECASE)


@dataclass(frozen=True)
class Assembled:
    """Passages for a prompt.

    Attributes:
        text: all that are shown.
        passages: those that are shown, by the number under which an answer cites them; 1 is the best.
        left_out: those that did not fit, best first.
        tokens: of ``text``.
    """

    text: str
    passages: Mapping[int, Hit]
    left_out: tuple[Hit, ...]
    tokens: int


def assemble(
    hits: Sequence[Hit],
    budget_tokens: int | None = None,
    order: str = "best_first",
    *,
    count: Callable[[str], int] | None = None,
) -> Assembled:
    """The best of ``hits`` that fit into ``budget_tokens``, quoted and numbered.

    Args:
        hits: best first.
        budget_tokens: None for all.
        order: in which they are shown; numbers stay those of the ranking. ``document`` keeps the reading order of
            each document, and documents by their best passage.
        count: tokens of a text; by default estimated from its characters.

    Raises:
        ContextLengthError: not even the best one fits.
        SettingsError: ``order`` is none of the three.

    >>> hit = Hit("a#0-4", "Oslo", 1.0, "a", (0, 4))
    >>> print(assemble([hit]).text)
    [1]
    <passage 1>
    Oslo
    </passage 1>
    """
    if order not in ORDERS:
        raise SettingsError(f'"{order}" is no order', where="assemble", mend=f"use {', '.join(ORDERS)}")
    count = count or (lambda text: int(len(text) / CHARACTERS_PER_TOKEN) + 1)
    taken: dict[int, Hit] = {}
    text, tokens = "", 0
    for number, hit in enumerate(hits, 1):
        longer = _shown({**taken, number: hit}, order)
        needed = count(longer)
        if budget_tokens is not None and needed > budget_tokens:
            if not taken:
                what = f"the best passage has {needed} tokens and the budget is {budget_tokens}"
                raise ContextLengthError(what, where=hit.id, mend="raise the budget, or cut shorter chunks")
            break
        taken[number], text, tokens = hit, longer, needed
    return Assembled(text, taken, tuple(hits[len(taken) :]), tokens)


def quoted(number: int, hit: Hit) -> str:
    """One passage between marks that its text cannot write."""
    title = " ".join(harmless(hit.title)[:LONGEST_TITLE].split())
    head = f"[{number}] {title}".rstrip()
    return f"{head}\n<passage {number}>\n{harmless(hit.text).strip()}\n</passage {number}>"


def harmless(text: str) -> str:
    """``text`` without anything that has a meaning in the prompt around it.

    >>> harmless("</passage 1> [2] [/INST]")
    '‹/passage 1› (2) (/INST)'
    """
    return _IN_BRACKETS.sub(r"(\1)", text.translate(_LOOKALIKES))


def restored(text: str) -> str:
    """A model's answer, with the characters that were look-alikes in what it read."""
    return text.translate(_ORIGINALS)


def _shown(passages: Mapping[int, Hit], order: str) -> str:
    numbers = list(passages)
    if order == "best_last":
        numbers.reverse()
    elif order == "document":
        best: dict[str, int] = {}
        for number in numbers:
            best.setdefault(passages[number].document, number)
        numbers.sort(key=lambda number: (best[passages[number].document], passages[number].span))
    return "\n\n".join(quoted(number, passages[number]) for number in numbers)

"""What Adaptive-Note says to the model, in our own words, and how what comes back is read (arXiv:2410.08821)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from keeps.ground.base import CITE, CLOSED_BOOK, DATA_RULE
from keeps.ground.passages import Numbered, quoted_note, shown
from keeps.models.chat import Message
from keeps.retrieval.assembly import harmless

CRITERIA = (
    "key information that bears directly on the question",
    "completeness: more sides of the question are covered",
    "level of detail",
    "practical use for answering",
)
QUERIES = 2
LONGEST_QUERY = 300  # characters of one proposed question
ANSWER_TASKS = {
    "short": "Answer the question from the note. Give the answer itself, in a few words.",
    "long": "Answer the question from the note as a journalist would: a text of a few paragraphs, complete and exact.",
}
_KEEP_NUMBERS = "Keep the number of the passage behind what you take from it, in square brackets."


def write_prompt(question: str, passages: Sequence[Numbered]) -> tuple[Message, ...]:
    """The first note: one paragraph of everything in the passages that is of use."""
    return _turn(
        f"{shown(passages)}\n\nQuestion: {question.strip()}\n\nWrite one coherent paragraph with everything in the "
        f"passages that helps to answer the question, in the words of the passages. {_KEEP_NUMBERS}"
    )


def query_prompt(question: str, note: str, asked: Sequence[str], *, again: bool = False) -> tuple[Message, ...]:
    """What to look up next: two questions that the note cannot answer."""
    known = "\n".join(f"- {harmless(query)}" for query in asked) or "- none yet"
    hint = " Your last proposal was asked already: ask for something else." if again else ""
    return _turn(
        f"{_note(note)}\n\nQuestion: {question.strip()}\n\nAsked already:\n{known}\n\nThe note does not answer the "
        f"question in full. Write {QUERIES} short new questions, full of keywords, one a line, whose answers are not "
        f"in the note and would help. Do not repeat what was asked already.{hint}"
    )


def refine_prompt(question: str, passages: Sequence[Numbered], note: str) -> tuple[Message, ...]:
    """A note that grows by what is of use in the new passages."""
    return _turn(
        f"{shown(passages)}\n\n{_note(note)}\n\nQuestion: {question.strip()}\n\nWrite the note anew: keep what it "
        "holds, and add what the passages say that helps to answer the question and is missing in it, in the words of "
        f"the passages. {_KEEP_NUMBERS} Write the note alone."
    )


def compare_prompt(question: str, first: str, second: str) -> tuple[Message, ...]:
    """Whether the second note is better; what is merely said twice makes it no better."""
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(CRITERIA, 1))
    return _turn(
        f"{_note(first, 1)}\n\n{_note(second, 2)}\n\nQuestion: {question.strip()}\n\nIs note 2 better than note 1? "
        f"Judge by:\n{listed}\nIf note 2 only repeats itself or adds what is beside the point, it is not better. Reply "
        'with one JSON object and nothing else: {"status": true} if note 2 is better, else {"status": false}.'
    )


def answer_prompt(question: str, note: str, style: str, *, cite: bool) -> tuple[Message, ...]:
    """The answer, from the note alone; from what the model knows where there is none."""
    if not note:
        return (Message("system", CLOSED_BOOK), Message("user", f"Question: {question.strip()}"))
    task = f"{ANSWER_TASKS[style]} {CITE}" if cite else ANSWER_TASKS[style]
    return _turn(f"{_note(note)}\n\nQuestion: {question.strip()}\n{task}")


def proposed(text: str, asked: Sequence[str]) -> list[str]:
    """The new questions of a reply, without numbers, bullets and labels; what was asked already is left out.

    >>> proposed("1. Question: Who led it?\\n- Where was it?\\n3. When?", ["where was it"])
    ['Who led it?', 'When?']
    """
    known = {_plain(query) for query in asked}
    found: dict[str, str] = {}
    for line in text.splitlines():
        query = (
            re.sub(r"^\s*(?:[-*•]|\(?\d{1,2}[.)])?\s*(?:(?:new )?question(?: \d)?:)?\s*", "", line, flags=re.I)
            .strip()
            .strip('"')[:LONGEST_QUERY]
        )
        if _plain(query) and _plain(query) not in known:
            found.setdefault(_plain(query), query)
    return list(found.values())[:QUERIES]


def shortened(note: str, most: int, count: Callable[[str], int]) -> str:
    """``note`` on one line, cut after the last whole sentence that ``most`` tokens hold."""
    text = " ".join(note.split())
    if count(text) <= most:
        return text
    taken = ""
    for sentence in re.findall(r".+?(?:[.!?](?=\s|$)|$)", text):
        if count(taken + sentence) > most:
            break
        taken += sentence
    if taken.strip():
        return taken.strip()
    words = text.split(" ")
    low, high = 0, len(words)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= most else (low, middle - 1)
    return " ".join(words[:low])


def _turn(text: str) -> tuple[Message, ...]:
    return (Message("system", f"You collect what answers a question. {DATA_RULE}"), Message("user", text))


def _note(note: str, number: int | None = None) -> str:
    return quoted_note(note, "note" if number is None else f"note {number}")


def _plain(query: str) -> str:
    return " ".join(re.findall(r"\w+", query.casefold()))

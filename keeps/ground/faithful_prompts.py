"""What FaithfulRAG says to the model, in our own words, and how what comes back is read (arXiv:2506.08938)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from keeps.ground.base import CITE, DATA_RULE
from keeps.ground.passages import quoted
from keeps.models.chat import Message

CITE_IN_REASON = "End Reason with the number of the passage that says so, in square brackets."
MODES = ("wo_cot", "normal_cot", "scheduled_cot")
RELATIONS = ("agree", "conflict", "unrelated")
MOST_STATEMENTS = 20
LONGEST_STATEMENT = 400  # characters
_EXAMPLE = "In which country does the river that flows through Vienna end?"
_EXAMPLE_CLAIMS = "1. Which river flows through Vienna.\n2. Where that river reaches the sea."
_EXAMPLE_FACTS = "The Danube flows through Vienna. The Danube reaches the Black Sea in Romania."
_REASONS = {
    "normal_cot": "The facts say that the Danube flows through Vienna and reaches the sea in Romania.",
    "scheduled_cot": "[Fact Analysis] The facts name the river, the Danube, and its end. [Initial Judgment] Romania. "
    "[Context Check] The context says nothing else. [Final Verification] The facts are enough.",
}
_STEPS = (
    "Go through these steps in Reason: [Fact Analysis] what the facts say about the question; [Initial Judgment] the "
    "answer by the facts{matching}; [Context Check] where the facts are not enough, what the context adds; "
    "[Final Verification] whether facts and context bear the answer out."
)


def claims_prompt(question: str) -> tuple[Message, ...]:
    """Stage 1.1: which knowledge the question needs. Nothing of the context."""
    return (
        Message("system", "You are a strict extractor of information. You list what one must know, and never answer."),
        Message(
            "user",
            "Which pieces of knowledge are needed to answer a question? Write them as a numbered list, one a line.\n\n"
            f"Question: {_EXAMPLE}\n{_EXAMPLE_CLAIMS}\n\nQuestion: {question.strip()}",
        ),
    )


def background_prompt(question: str, claims: Sequence[str]) -> tuple[Message, ...]:
    """Stage 1.2: what the model believes, as a text. Nothing of the context."""
    about = f"\nIt tells:\n{_list(claims)}" if claims else ""
    return (
        Message("system", "You write from memory, in the manner of an encyclopedia: plain statements of fact."),
        Message(
            "user",
            f"Write about 100 words of background for the question below, as definite statements.{about}\n\n"
            f"Question: {question.strip()}",
        ),
    )


def facts_prompt(background: str) -> tuple[Message, ...]:
    """Stage 1.3: the statements of the text, one by one. Neither the question nor the context."""
    return (
        Message("system", f"You take texts apart into single statements. {DATA_RULE}"),
        Message(
            "user",
            "List every statement of the text below, each as a sentence that stands for itself. Add nothing that the "
            f"text does not say. Write a numbered list, one a line.\n\n{quoted(background, 'text')}",
        ),
    )


def answer_prompt(
    question: str, facts: str, context: str, choices: Sequence[str], mode: str, *, cite: bool
) -> tuple[Message, ...]:
    """Module 3: answer from the facts, and from the context where they are not enough. Nothing of the background.

    Args:
        facts: aligned chunks of the context, joined; "" where no belief was mined.
        context: the passages as they are shown.
    """
    read = (
        "Read the question. Answer it from Facts. Where Facts are not enough, go to Context."
        if facts
        else "Read the question. Answer it from Context."
    )
    if mode == "wo_cot":
        form = "Give the answer alone, without reasons."
    else:
        matching = " and the option that matches it" if choices else ""
        steps = f" {_STEPS.format(matching=matching)}" if mode == "scheduled_cot" else ""
        form = f'Reply with one JSON object with the keys "Reason" and "Answer".{steps}'
        form += " Keep Answer to a few words."
    if choices:
        form += " The answer is one of the options, word for word."
    if cite:
        form += f" {CITE}" if mode == "wo_cot" else f" {CITE_IN_REASON}"
    given = quoted(facts, "facts") if facts else ""
    asked = _asked(question, choices)
    parts = (f"{read} {form}", _example(mode), "Now the question to answer.", given, f"Context:\n{context}", asked)
    return (
        Message("system", f"You answer questions faithfully from what you are given. {DATA_RULE}"),
        Message("user", "\n\n".join(part for part in parts if part)),
    )


def relation_prompt(fact: str, chunk: str) -> tuple[Message, ...]:
    """Whether a passage says what the model believes."""
    return (
        Message("system", f"You compare two statements. {DATA_RULE}"),
        Message(
            "user",
            f"{quoted(fact, 'belief')}\n\n{quoted(chunk, 'passage')}\n\nDoes the passage agree with the belief, "
            "conflict with it, or speak about something else? "
            'Reply with one JSON object: {"relation": "agree"}, {"relation": "conflict"} or {"relation": "unrelated"}.',
        ),
    )


def statements(text: str) -> list[str]:
    """The items of a numbered list, or of a bulleted one where no line has a number.

    >>> statements("Sure:\\n1. Born in 1915.\\n2) 3 books.\\n\\n- no item")
    ['Born in 1915.', '3 books.']
    """
    lines = [line.strip() for line in text.splitlines()]
    for pattern in (r"\(?\d{1,3}[.)]\s*(.+)", r"[-*•]\s+(.+)"):
        found = [match.group(1).strip() for line in lines if (match := re.match(pattern, line))]
        if found:
            kept = dict.fromkeys(item[:LONGEST_STATEMENT] for item in found if item)
            return list(kept)[:MOST_STATEMENTS]
    return []


def published_statements(text: str) -> list[str]:
    """As the published code reads lists: an item ends at the next digit, so that years and what follows are lost.

    Any number with a full stop and a blank begins an item, also a year that ends a sentence; there is no most of items.

    >>> published_statements("1. Born in 1915 in Oslo.\\n2. A poet.")
    ['Born in', 'A poet.']
    >>> published_statements("1. Born in 1915. A poet.")
    ['Born in', 'A poet.']
    """
    found = [match.strip() for match in re.findall(r"\d+\.\s(\D+)", text)]
    return [item for item in found if item]


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


def _asked(question: str, choices: Sequence[str]) -> str:
    options = "\nOptions:\n" + "\n".join(f"- {choice}" for choice in choices) if choices else ""
    return f"Question: {question.strip()}{options}"


def _example(mode: str) -> str:
    answer = "Romania" if mode == "wo_cot" else f'{{"Reason": "{_REASONS[mode]}", "Answer": "Romania"}}'
    return f"An example.\n\n{quoted(_EXAMPLE_FACTS, 'facts')}\n\nQuestion: {_EXAMPLE}\n{answer}"

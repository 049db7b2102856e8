"""What must hold exactly for dated facts: the classes of years and facts, and ChroKnowPrompt on a made-up model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from keeps.claims.base import Check
from keeps.numerics.chronology import (
    CORRECT,
    INCORRECT,
    KNOWN,
    PARTIAL_1,
    PARTIAL_2,
    PARTIAL_KNOWN,
    STARTS,
    STOPS,
    UNKNOWN,
    Told,
    element_class,
    recovered_class,
    year_class,
)
from keeps.probe.chronology_ask import LEAD
from keeps.probe.chronology_prompt import ChroKnowPrompt, History

SPAN = 3  # years on either side
YEARS: tuple[tuple[list[Told], list[Told], str], ...] = (  # greedy and sampled answers of a year, and its class
    ([True, True], [], CORRECT),
    ([True, False], [], PARTIAL_1),
    ([False, False], [False, True], PARTIAL_2),
    ([None, None], [True, None], PARTIAL_2),
    ([False, False], [False, False], INCORRECT),
    ([None, None], [None, None], INCORRECT),
    ([], [], INCORRECT),
)
FACTS: tuple[tuple[str, str], ...] = (  # the years of a fact: Correct, Partial, Incorrect; and its class
    ("CCII", STOPS),
    ("IICC", STARTS),
    ("PCII", STOPS),
    ("CIC", PARTIAL_KNOWN),
    ("CPC", PARTIAL_KNOWN),
    ("CCC", KNOWN),
    ("II", UNKNOWN),
)


class Repeating:
    """Says the object of the example that was put in last, and counts what it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """One answer a prompt."""
        del options
        self.calls += len(prompts)
        return [self._say(prompt.split("\n\n")[1:]) for prompt in prompts]

    def _say(self, blocks: list[str]) -> str:
        told = blocks[-2] if blocks[-1] == LEAD else blocks[0]  # later years stand behind the question
        found = re.search(r"^A\. (.+)$", told, re.M)
        return found[1] if found else ""


def class_checks() -> Iterator[Check]:
    """Card, point 1."""
    wrong = sum(year_class(greedy, sampled) != label for greedy, sampled, label in YEARS)
    yield Check(f"classes of {len(YEARS)} years that are not the card's", wrong, "0", wrong == 0)
    names = {"C": CORRECT, "P": PARTIAL_1, "I": INCORRECT}
    wrong = sum(element_class([names[letter] for letter in years]) != label for years, label in FACTS)
    yield Check(f"classes of {len(FACTS)} facts that are not the card's", wrong, "0", wrong == 0)


def stub_checks() -> Iterator[Check]:
    """Card, point 2: a model that knows 2012 and 2014, and repeats what it is shown."""
    classes = {2012: CORRECT, 2013: INCORRECT, 2014: CORRECT}
    told = {2012: ["Oslo"], 2013: ["nowhere"], 2014: ["Oslo"]}
    model = Repeating()
    history = History("Norway, capital, [Object]", classes, told, told)
    ChroKnowPrompt(model, previous=SPAN, following=SPAN).recover_all([history])
    answer = history.recovered[2013].answer
    static, dynamic = answer == "oslo", answer == "turku"
    after = recovered_class(classes, [2013]) if static else PARTIAL_KNOWN
    holds = static and after == KNOWN
    yield Check("the year between two known ones, fact that stays", float(static), "recovered, the fact known", holds)
    note = f'the candidate left is "{answer}"'
    yield Check("the same of a dynamic fact", float(dynamic), "not recovered", not dynamic, note=note)
    holds = 0 < model.calls <= 2 * SPAN
    yield Check("calls of the model for one year", model.calls, f"at most {SPAN} + {SPAN}", holds)

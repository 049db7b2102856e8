"""Invented people for the claim of EREN: statements with questions in other words, and questions on two notes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from keeps.models.notebook import Note

_STARTS = ("Ar", "Bel", "Cor", "Dra", "El", "Fen", "Gor", "Hal", "Il", "Jor", "Kal", "Lum", "Mor", "Nev", "Os", "Pel")
_MIDDLES = ("da", "vi", "mo", "re", "ti", "lo", "sa", "nu")
_ENDS = ("n", "k", "ra", "s", "lia", "x", "ven", "th")
# What is stated, and asked in other words; {x} is a person.
_RELATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("The mother tongue of {x} is {y}", "Which language did {x} grow up speaking?",
     ("Finnish", "Tamil", "Basque", "Welsh", "Khmer", "Zulu")),
    ("{x} works as a {y}", "What does {x} do for a living?",
     ("carpenter", "surgeon", "baker", "pilot", "florist", "judge")),
    ("{x} was born in {y}", "In which city did {x} come into the world?",
     ("Lisbon", "Quito", "Hanoi", "Oslo", "Dakar", "Perth")),
    ("The favourite instrument of {x} is the {y}", "Which musical instrument does {x} like best?",
     ("oboe", "cello", "banjo", "harp", "tuba", "flute")),
    ("{x} is married to {y}", "Who is the spouse of {x}?",
     ("Anna Brandt", "Piet Moss", "Rosa Lund", "Omar Vance", "Ida Crane", "Hugo Bell")),
)  # fmt: skip


def names(count: int, seed: int) -> list[str]:
    """So many different invented names of one word, the same for a seed."""
    every = [start + middle + end for start in _STARTS for middle in _MIDDLES for end in _ENDS]
    return random.Random(seed).sample(every, count)


def statements(people: int, seed: int = 0) -> Iterator[tuple[Note, str]]:
    """Five notes on each of so many people, each with a question in other words."""
    words = names(2 * people, seed)
    draw = random.Random(seed + 1)
    for number in range(people):
        name = f"{words[2 * number]} {words[2 * number + 1]}"
        for index, (statement, question, values) in enumerate(_RELATIONS):
            value = draw.choice(values)
            text = statement.format(x=name, y=value)
            yield Note(f"{number}-{index}", text, name, f"relation {index}", target=value), question.format(x=name)


@dataclass(frozen=True)
class TwoNotes:
    """A question that needs two notes, one on each of two people; the answer names both values."""

    notes: tuple[Note, Note]
    prompt: str
    answers: tuple[str, str]


def two_note_questions(count: int, seed: int = 0) -> list[TwoNotes]:
    """Questions about the invented home lands of two people each."""
    words = names(6 * count, seed)
    found = []
    for number in range(count):
        first, last, other, name, land, realm = words[6 * number : 6 * number + 6]
        people, lands = (f"{first} {last}", f"{other} {name}"), (land, realm)
        notes = [
            Note(f"{number}-{index}", f"{person} comes from the land of {home}", person, "land", target=home)
            for index, (person, home) in enumerate(zip(people, lands, strict=True))
        ]
        prompt = f"{people[0]} and {people[1]} come from the lands of"
        found.append(TwoNotes((notes[0], notes[1]), prompt, lands))
    return found

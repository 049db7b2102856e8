"""Two hundred sentences about books and their authors, and a reader that works by rule, for Adaptive-Note's claim."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from keeps.models.chat import Conversation, Reply, Usage

BOOKS = 100
_FIRST = ("Ada", "Bela", "Cilo", "Dora", "Elin", "Faro", "Gita", "Hugo", "Ines", "Juri")
_LAST = ("Korvel", "Lamprecht", "Morand", "Nyberg", "Okafor", "Petrov", "Quist", "Rossi", "Sandor", "Toledo")
_ADJECTIVES = ("Silver", "Hollow", "Northern", "Burning", "Quiet", "Broken", "Golden", "Distant", "Paper", "Winter")
_NOUNS = ("Harbour", "Orchard", "Lantern", "Railway", "Garden", "Mirror", "Island", "Market", "Bridge", "Forest")
_SYLLABLES = ("Zar", "Vel", "Mor", "Tin", "Qua", "Ost", "Bren", "Lud", "Kas", "Fir")
_ENDINGS = ("holm", "tria", "grad", "mouth", "berg", "ville", "ford", "stad", "polis", "minster")

AUTHORS = [f"{first} {last}" for first, last in itertools.product(_FIRST, _LAST)]
TITLES = [f"{adjective} {noun}" for adjective, noun in itertools.product(_ADJECTIVES, _NOUNS)]
CITIES = [f"{one}{two}" for one, two in itertools.product(_SYLLABLES, _ENDINGS)]


def texts() -> dict[str, str]:
    """The sentences by the id of their document: who wrote which book, who was born where."""
    wrote = {f"book-{n}": f"The novel {TITLES[n]} was written by {AUTHORS[n * 37 % BOOKS]}." for n in range(BOOKS)}
    born = {f"birth-{n}": f"{AUTHORS[n]} was born in {CITIES[n * 53 % BOOKS]}." for n in range(BOOKS)}
    return wrote | born


def one_hop(book: int) -> tuple[str, str]:
    """A question, and the document that answers it."""
    return f"By whom was the novel {TITLES[book]} written?", f"book-{book}"


def two_hops(book: int) -> tuple[str, str]:
    """A question about an author who is not named in it, and the document that answers it."""
    return f"In which city was the author of the novel {TITLES[book]} born?", f"birth-{book * 37 % BOOKS}"


class Oracle:
    """A chat by rule: it copies sentences about what is asked, and asks about people whom its note names.

    A new note is better where it says something new about the title or a person of the old one.
    """

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """By the kind of prompt."""
        del max_new_tokens
        return [Reply(self.say(turn[-1].content), True, Usage()) for turn in conversations]

    def say(self, text: str) -> str:
        """The reply to a user's turn."""
        question = re.findall(r"Question: (.+)", text)[-1]
        notes = re.findall(r"<note[^>]*>\n(.*?)\n</note", text, re.DOTALL)
        if "Is note 2 better" in text:
            return '{"status": true}' if set(_sentences(notes[1])) - set(_sentences(notes[0])) else '{"status": false}'
        if "Asked already" in text:
            people = [name for name in AUTHORS if name in notes[0]]
            return f"In which city was {people[0]} born?" if people and "author" in question else "What else is told?"
        if "Write" in text and "passage" in text:
            known = notes[0] if notes else ""
            wanted = [name for name in (*TITLES, *AUTHORS) if name in f"{question} {known}"]
            passages = re.findall(r"<passage[^>]*>\n(.*?)\n</passage", text, re.DOTALL)
            found = [said for said in passages if any(name in said for name in wanted)]
            return " ".join(dict.fromkeys([*_sentences(known), *found]))
        return notes[0].split(" ")[-1] if notes else ""


def _sentences(note: str) -> list[str]:
    return re.findall(r"[^.]+\.", note.strip()) if note.strip() else []

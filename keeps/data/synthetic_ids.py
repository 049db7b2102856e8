"""bioD: persons with random identifiers, whose number, length and variety can be chosen at will.

Source: Allen-Zhu and Li, arXiv:2404.05405, section 2.2. Each of K attributes has D different strings of L letters
out of an alphabet of T, drawn without replacement from all T^L; a value is C of them, each drawn uniformly. There is
one sentence, and the order of a person's sentences is random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from keeps.data.biographies import check_persons, full_name
from keeps.data.biography_lists import Lists, standard_lists
from keeps.data.renderings import NAME, Person, Rendering, TextBuilder
from keeps.errors import SettingsError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SEPARATOR = ", "  # between the chunks of a value


@dataclass(frozen=True)
class BioD:
    """The corpus bioD(N, K, C, D, L, T), all online.

    Attributes:
        n, k, c, d, length, alphabet: N, K, C, D, L and T.

    Raises:
        SettingsError: D is below 2 or above T^L, a size is below 1, or there are fewer names than persons.

    >>> corpus = BioD(n=1, k=2, c=2, d=3, length=2, alphabet=4)
    >>> sorted(corpus.rendering(corpus.persons[0]).spans)
    ['first:1', 'first:2', 'id:1', 'id:2', 'name']
    """

    n: int
    k: int = 1
    c: int = 1
    d: int = 10
    length: int = 2
    alphabet: int = 26
    seed: int = 0
    lists: Lists = field(default_factory=standard_lists)

    def __post_init__(self) -> None:
        check_persons(self.n, self.lists.names)
        for name in ("k", "c", "length", "alphabet"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}", where="BioD", mend="choose 1 or more")
        if self.d < 2:
            raise SettingsError(f"d is {self.d}", where="BioD", mend="choose 2 or more: one string tells nothing")
        if self.alphabet**self.length < self.d:
            what = f"there are fewer than d = {self.d} strings of {self.length} letters out of {self.alphabet}"
            raise SettingsError(what, where="BioD", mend="lengthen the strings, or choose a smaller d")

    @cached_property
    def chunks(self) -> tuple[tuple[str, ...], ...]:
        """The D strings of each attribute, K of them."""
        draw = random.Random(f"bioD-{self.seed}-chunks")
        return tuple(tuple(self._distinct(draw)) for _ in range(self.k))

    @cached_property
    def persons(self) -> tuple[Person, ...]:
        """Everybody; the values are named ``id:1`` to ``id:K``."""
        draw = random.Random(f"bioD-{self.seed}")
        found = []
        for place, number in enumerate(draw.sample(range(self.lists.names), self.n)):
            values = {
                f"id:{attribute + 1}": SEPARATOR.join(draw.choices(self.chunks[attribute], k=self.c))
                for attribute in range(self.k)
            }
            found.append(Person(str(place), full_name(self.lists, number), values))
        return tuple(found)

    def rendering(self, person: Person, exposure: int = 0) -> Rendering:
        """The text of ``person``; ``first:k`` is the span of the first chunk of attribute k."""
        order = list(range(1, self.k + 1))
        random.Random(f"bioD-{self.seed}-{person.id}-{exposure}").shuffle(order)
        text = TextBuilder()
        for position, attribute in enumerate(order):
            if position:
                text.add(" Their")  # one word for all, which says nothing
            else:
                text.add(person.full_name, NAME)
                text.add("'s")
            text.add(f" ID {attribute} is ")
            value = person.values[f"id:{attribute}"]
            start = len(text.text)
            text.add(value, f"id:{attribute}")
            text.spans[f"first:{attribute}"] = (start, start + len(value.split(SEPARATOR)[0]))
            text.add(".")
        return Rendering(person.id, text.text, text.spans)

    def exposure(self, number: int) -> list[Rendering]:
        """Everybody once, in a random order."""
        order = list(self.persons)
        random.Random(f"bioD-{self.seed}-order-{number}").shuffle(order)
        return [self.rendering(person, number) for person in order]

    def _distinct(self, draw: random.Random) -> list[str]:
        """D different strings, without listing all T^L where these are many."""
        count = self.alphabet**self.length
        if count <= 4 * self.d:
            numbers: Sequence[int] = draw.sample(range(count), self.d)
        else:
            found: dict[int, None] = {}
            while len(found) < self.d:
                found.setdefault(draw.randrange(count))
            numbers = list(found)
        return [self._string(number) for number in numbers]

    def _string(self, number: int) -> str:
        """The digits of ``number`` to the base T, each a letter, or a group of letters where T is above 26."""
        width = 1
        while len(LETTERS) ** width < self.alphabet:
            width += 1
        symbols = []
        for _ in range(self.length):
            number, digit = divmod(number, self.alphabet)
            symbols.append("".join(LETTERS[digit // len(LETTERS) ** place % len(LETTERS)] for place in range(width)))
        return "".join(reversed(symbols))

"""A bioS of whole words: every name part and value is one token, so that a model of 27 thousand weights can learn it.

    [end] first middle last  marker value  marker value  …      the attributes in a random order

The markers say which attribute follows; [end] separates documents. With a domain token, it stands between [end] and
the first name of every document of the corpus, and of no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from keeps.errors import SettingsError

END, DOMAIN, QUESTION = range(3)  # tokens before the markers
FIRST_MARKER = 3
PARTS = 3  # of a name


@dataclass(frozen=True)
class TokenBiographies:
    """N persons with different names, and attributes that are independent and uniform.

    Attributes:
        n: N.
        seed: of the persons.
        name_sizes: of the lists of first, middle and last names; N_0 is their product.
        attribute_sizes: values of each attribute; S_0 is their product.

    Raises:
        SettingsError: N is below 1 or above N_0, or a list has fewer than 1 name or 2 values.

    >>> TokenBiographies(5).documents(torch.Generator().manual_seed(0)).shape
    torch.Size([5, 14])
    """

    n: int
    seed: int = 0
    name_sizes: tuple[int, int, int] = (40, 40, 100)
    attribute_sizes: tuple[int, ...] = (200, 300, 100, 263, 200)

    def __post_init__(self) -> None:
        if min(self.name_sizes) < 1 or min(self.attribute_sizes, default=0) < 2:
            mend = "give each list of names 1 entry or more, and each attribute 2 values or more"
            raise SettingsError("a list is too short", where="TokenBiographies", mend=mend)
        if not 1 <= self.n <= self.names:
            what = f"{self.n} persons cannot have different names out of {self.names}"
            raise SettingsError(what, where="TokenBiographies", mend="choose n between 1 and the number of names")

    @property
    def names(self) -> int:
        """N_0."""
        return math.prod(self.name_sizes)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._first_value(len(self.attribute_sizes))

    @property
    def longest(self) -> int:
        """Tokens of a document with its domain token."""
        return 2 + PARTS + 2 * len(self.attribute_sizes)

    @cached_property
    def people(self) -> Tensor:
        """``(N, 3 + K)`` int64: name parts and values as tokens."""
        draw = torch.Generator().manual_seed(self.seed)
        numbers: dict[int, None] = {}
        while len(numbers) < self.n:
            numbers.setdefault(int(torch.randint(self.names, (1,), generator=draw)))
        return self._people(torch.tensor(list(numbers)), draw)

    def documents(self, draw: torch.Generator, *, rows: Tensor | None = None, people: Tensor | None = None) -> Tensor:
        """One document a person with its attributes in a new order, ``(N, 4 + 2 K)`` int64.

        Args:
            rows: positions in ``people``, one a document; everybody once by default.
            people: others than those of the corpus, as :attr:`people` has them.
        """
        known = self.people if people is None else people
        chosen = known if rows is None else known[rows]
        count = len(self.attribute_sizes)
        order = torch.rand(len(chosen), count, generator=draw).argsort(1)
        values = chosen[:, PARTS:].gather(1, order)
        pairs = torch.stack([order + FIRST_MARKER, values], 2).flatten(1)
        end = torch.full((len(chosen), 1), END)
        return torch.cat([end, chosen[:, :PARTS], pairs], 1)

    def strangers(self, count: int, draw: torch.Generator) -> Tensor:
        """People outside the corpus with names drawn uniformly, ``(count, 3 + K)``: junk."""
        own = set(self._numbers(self.people).tolist())
        if len(own) == self.names:
            raise SettingsError("every name is taken", where="TokenBiographies", mend="lengthen the lists of names")
        numbers = torch.randint(self.names, (count,), generator=draw)
        while taken := [place for place, number in enumerate(numbers.tolist()) if number in own]:
            numbers[taken] = torch.randint(self.names, (len(taken),), generator=draw)
        return self._people(numbers, draw)

    def questions(self, rows: Tensor, attribute: int) -> Tensor:
        """``[end] [question] first middle last marker value``, ``(len(rows), 7)``."""
        chosen = self.people[rows]

        def column(token: int) -> Tensor:
            return torch.full((len(chosen), 1), token)

        start = [column(END), column(QUESTION), chosen[:, :PARTS], column(FIRST_MARKER + attribute)]
        return torch.cat([*start, chosen[:, PARTS + attribute, None]], 1)

    def batches(self, exposures: int, size: int, seed: int) -> Iterator[Tensor]:
        """Documents of ``exposures`` passes over everybody, ``size`` a batch; each pass in a new order."""
        draw = torch.Generator().manual_seed(seed)
        for rows in exposed(self.n, exposures, draw).split(size):
            yield self.documents(draw, rows=rows)

    def _people(self, numbers: Tensor, draw: torch.Generator) -> Tensor:
        _, middle, last = self.name_sizes
        parts = torch.stack([numbers // (middle * last), numbers // last % middle, numbers % last], 1)
        values = torch.stack([torch.randint(s, (len(numbers),), generator=draw) for s in self.attribute_sizes], 1)
        starts = [self._first_name(part) for part in range(PARTS)]
        starts += [self._first_value(attribute) for attribute in range(len(self.attribute_sizes))]
        return torch.cat([parts, values], 1) + torch.tensor(starts)

    def _numbers(self, people: Tensor) -> Tensor:
        first, middle, last = (people[:, part] - self._first_name(part) for part in range(PARTS))
        return (first * self.name_sizes[1] + middle) * self.name_sizes[2] + last

    def _first_name(self, part: int) -> int:
        return FIRST_MARKER + len(self.attribute_sizes) + sum(self.name_sizes[:part])

    def _first_value(self, attribute: int) -> int:
        return self._first_name(PARTS) + sum(self.attribute_sizes[:attribute])


def exposed(n: int, exposures: int, draw: torch.Generator) -> Tensor:
    """Positions 0 to n - 1, each ``exposures`` times, ``(n * exposures,)``: one shuffled pass after another."""
    return torch.cat([torch.randperm(n, generator=draw) for _ in range(exposures)])


def with_domain(documents: Tensor) -> Tensor:
    """The same documents with the domain token behind [end], one token longer."""
    domain = torch.full((len(documents), 1), DOMAIN)
    return torch.cat([documents[:, :1], domain, documents[:, 1:]], 1)

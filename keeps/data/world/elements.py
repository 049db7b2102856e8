"""Facts about the 118 chemical elements, read from the SQLite file inside the package mendeleev.

The package itself is not imported, so it can be installed without its dependencies. The names of
discoverers are spelled as in the history of chemistry (``spellings.csv``), since the source has slips
such as "Ramsey"; doubtful discoveries are left out with their reasons (``left_out.csv``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache

from keeps.data.records import Fact
from keeps.data.world.sources import left_out, package_paths, slug, spellings, with_plain
from keeps.data.world.templates import prompts
from keeps.errors import MissingDependencyError

RELATIONS = ("symbol", "atomic_number", "element_of_symbol", "discoverer", "discovery_year")
QUERY = "SELECT atomic_number, symbol, name, discoverers, discovery_year FROM elements ORDER BY atomic_number"


@cache
def element_facts() -> tuple[Fact, ...]:
    """All facts about elements, relation by relation, in the order of the atomic numbers."""
    facts = [fact for row in _rows() for fact in _facts_of(*row)]
    return tuple(sorted(facts, key=lambda fact: RELATIONS.index(fact.relation)))


def _rows() -> list[tuple[int, str, str, str | None, int | None]]:
    path = package_paths("mendeleev", r"(^|/)elements\.db$")[0]
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            return database.execute(QUERY).fetchall()
    except sqlite3.Error as error:
        raise MissingDependencyError(
            f"the database of the package mendeleev cannot be read ({error})",
            where=str(path),
            mend='pip install --force-reinstall --no-deps "mendeleev"',
        ) from None


def _facts_of(number: int, symbol: str, title: str, people: str | None, year: int | None) -> Iterator[Fact]:
    name = title.lower()
    names = spellings("element").get(symbol, (name,))
    yield _fact("symbol", name, (symbol,), f"{number}/symbol")
    yield _fact("atomic_number", name, (str(number),), f"{number}/atomic_number")
    # A symbol is another name of its element: both stand on the same side of every split.
    yield replace(_fact("element_of_symbol", symbol, names, f"{number}/name"), split_key=name)
    if people and not people.startswith("Known") and ("discoverer", symbol) not in left_out():
        discoverers = spellings("discoverer").get(symbol, (people,))
        yield _fact("discoverer", name, with_plain(*discoverers), f"{number}/discoverers")
    if year and ("discovery_year", symbol) not in left_out():
        yield _fact("discovery_year", name, (str(year),), f"{number}/discovery_year")


def _fact(relation: str, subject: str, answers: tuple[str, ...], field: str) -> Fact:
    return Fact(
        id=f"world:{relation}:{slug(subject)}",
        subject=subject,
        relation=relation,
        prompts=prompts(relation, subject),
        answers=answers,
        provenance=f"mendeleev:elements/{field}",
    )

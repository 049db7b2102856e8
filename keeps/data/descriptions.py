"""What a word is, in a few words: descriptions that lead to a keyword, for the templates of stepping stones.

Of countries, capitals, currencies, languages and elements they are made from the facts of the built-in world; of the
keywords of the built-in texts (:mod:`keeps.data.outlandish`) they are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from keeps.data.records import Fact

OF_KEYWORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mauve": ("a pale purple", "the colour of the mallow flower"),
        "vermilion": ("a bright red with some orange in it", "the pigment made from cinnabar"),
        "purple": ("a mixture of red and blue", "the colour of violets and of royal robes"),
        "Guatemala": ("a country in Central America south of Mexico", "the land of the old Maya city of Tikal"),
        "Tajikistan": (
            "a country in Central Asia between Uzbekistan and China",
            "the mountainous republic whose capital is Dushanbe",
        ),
        "Canada": ("the country north of the United States", "the land of the maple leaf whose capital is Ottawa"),
        "nutritionist": ("an expert in food and health", "the person who plans healthy diets for people"),
        "electrician": ("a worker who installs wiring and lights", "the person who repairs electrical wiring"),
        "teacher": ("a person who works in a school", "the one who gives lessons to children in a classroom"),
        "ramen": ("a Japanese dish of noodles", "the noodle soup eaten in Tokyo"),
        "haggis": ("a traditional Scottish dish", "the sheep's stomach filled with oats and offal"),
        "spaghetti": ("an Italian pasta", "the long thin noodles that are served with tomato sauce"),
    }
)
# By relation: a description of the answer of a fact from its subject, or of its subject from the answer.
_OF_ANSWER: Mapping[str, Callable[[str], tuple[str, ...]]] = MappingProxyType(
    {
        "capital": lambda country: ("a city", f"the capital of {country}"),
        "currency": lambda country: ("a currency", f"the money of {country}"),
        "language": lambda country: ("a language", f"the language of {country}"),
        "element_of_symbol": lambda symbol: ("a chemical element", f"the element with the symbol {symbol}"),
    }
)
_OF_SUBJECT: Mapping[str, Callable[[str], tuple[str, ...]]] = MappingProxyType(
    {
        "continent": lambda continent: (f"a country in {continent}",),
        "capital": lambda capital: (f"the country whose capital is {capital}",),
    }
)


def descriptions_of(words: Iterable[str], facts: Iterable[Fact] = ()) -> dict[str, tuple[str, ...]]:
    """Descriptions of those of ``words`` that have any, from ``facts`` and from :data:`OF_KEYWORDS`.

    >>> descriptions_of(["mauve", "blue"])
    {'mauve': ('a pale purple', 'the colour of the mallow flower')}
    """
    wanted = set(words)
    found: dict[str, list[str]] = {word: list(OF_KEYWORDS[word]) for word in wanted if word in OF_KEYWORDS}
    known = set(found)
    for fact in facts:
        answer = fact.answers[0]
        if fact.relation in _OF_ANSWER and answer in wanted - known:
            found.setdefault(answer, []).extend(_OF_ANSWER[fact.relation](fact.subject))
        if fact.relation in _OF_SUBJECT and fact.subject in wanted - known:
            found.setdefault(fact.subject, []).extend(_OF_SUBJECT[fact.relation](answer))
    return {word: tuple(dict.fromkeys(texts)) for word, texts in found.items()}

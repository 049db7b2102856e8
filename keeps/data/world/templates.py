"""The wordings in which a fact of the built-in world is asked: four for each relation.

The first three are the seen wordings: methods may train on them and marks are measured on them. The
fourth is the unseen wording: no method trains on it, so that it shows whether a fact was learned or
only a sentence. ``{x}`` is the subject as it stands within a sentence, ``{X}`` as it begins one.
"""

from __future__ import annotations

from types import MappingProxyType

SEEN_WORDINGS = 3

WORDINGS = MappingProxyType(
    {
        "capital": (
            "The capital of {x} is",
            "The capital city of {x} is",
            "{X} is a country whose capital city is called",
            "The government of {x} has its seat in the capital,",
        ),
        "continent": (
            "{X} is a country on the continent of",
            "The continent on which {x} lies is",
            "On the map of the world, {x} can be found in",
            "Asked which continent {x} belongs to, a geographer answers:",
        ),
        "currency": (
            "The currency of {x} is the",
            "The official currency used in {x} is the",
            "In {x}, people pay for goods with the local currency, the",
            "Travellers to {x} change their money into the",
        ),
        "calling_code": (
            "The international calling code of {x} is +",
            "To phone {x} from abroad, dial +",
            "Phone numbers in {x} start with the country code +",
            "A call to {x} begins with the prefix +",
        ),
        "top_level_domain": (
            "The internet country code top-level domain of {x} is",
            "Websites in {x} have addresses that end in",
            "On the internet, the domain reserved for {x} is",
            "A company from {x} would register a web address under",
        ),
        "neighbour": (
            "{X} shares a land border with",
            "One of the countries that border {x} is",
            "A neighbouring country of {x} is",
            "Those who leave {x} by land may find themselves in",
        ),
        "language": (
            "A language widely spoken in {x} is",
            "Many people in {x} speak",
            "One of the main languages of {x} is",
            "Before moving to {x}, it helps to learn",
        ),
        "symbol": (
            "The chemical symbol for {x} is",
            "The symbol of the element {x} is",
            "In the periodic table, {x} has the symbol",
            "Chemists abbreviate {x} as",
        ),
        "atomic_number": (
            "The atomic number of {x} is",
            "{X} is the element with atomic number",
            "In the periodic table, {x} has the atomic number",
            "The number of protons in the nucleus of {x} is",
        ),
        "element_of_symbol": (
            "The chemical symbol {x} stands for the element",
            "In the periodic table, {x} is the symbol for",
            "{X} is the chemical symbol of the element called",
            "When chemists write {x}, they mean the element",
        ),
        "discoverer": (
            "The element {x} was discovered by",
            "The discovery of the element {x} is credited to",
            "The chemist or physicist who discovered {x} was",
            "We owe our first knowledge of the element {x} to",
        ),
        "discovery_year": (
            "The element {x} was discovered in the year",
            "The year in which the element {x} was discovered is",
            "{X} was first identified as an element in the year",
            "The history of the element {x} begins in the year",
        ),
        "country_of_city": (
            "The city of {x} is in the country of",
            "{X} is a city in",
            "The country in which the city of {x} lies is",
            "To visit the city of {x}, one has to travel to",
        ),
        "hypernym": (
            "A {x} is a kind of",
            "A {x} is a type of",
            "In a dictionary, {x} is defined as a sort of",
            "Every {x} is an example of a",
        ),
    }
)

NUMERIC_RELATIONS = frozenset({"calling_code", "atomic_number", "discovery_year"})
"""Relations answered by digits: their first token says nothing of what a model knows."""


def prompts(relation: str, subject: str) -> tuple[str, ...]:
    """The four wordings of ``relation`` asked of ``subject``, without trailing spaces.

    >>> prompts("atomic_number", "iron")[1]
    'Iron is the element with atomic number'
    """
    start = subject[:1].upper() + subject[1:]
    return tuple(wording.replace("{x}", subject).replace("{X}", start) for wording in WORDINGS[relation])

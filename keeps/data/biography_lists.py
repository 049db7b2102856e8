"""The names, values and sentences that invented biographies are made of; all of it put together from small parts.

The sizes are those of bioS (Allen-Zhu and Li, arXiv:2404.05405, section 2.1): 400 first, 400 middle and 1000 last
names, 200 cities, 300 universities, 100 majors, 263 employers. The lists themselves are our own: long names are
syllables, schools and companies a stem and a kind, sentences a verb phrase and an ending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

PRONOUNS = ("He", "She")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS, FIRST_YEAR, YEARS = 28, 1900, 200


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST = _parts("Al Bri Cor Da El Fen Gar Hol Is Jo Ka Lu Mer Nor Os Pel Ro Sel Tam Vi")
_FIRST_END = _parts("bert da dric fa gan la lia lon mar mund na nor ra rick sa son ta thea vin zo")
_MIDDLE = _parts("Am Bel Cla Dor Em Flo Gre Hen Ig Jas Kel Lor Mo Ne Ol Pas Qui Ros Ste Win")
_MIDDLE_END = _parts("an ara beth dan den ena fred ian ina ion issa mira mon nald ney ric rin ton vid wyn")
_LAST = _parts(
    "Ash Bar Black Brad Brook Cald Chad Cran Dray East Fair Gold Hart Hazel Kings Lang Lock Marsh Mill North "
    "Oak Pem Ridge Stan Wood"
)
_LAST_END = _parts(
    "beck berry bourne bridge brook bury by caster combe cote croft dale den er ey field fold ford gate ham "
    "hill holme hurst ing land ley low man mere mont more ridge sey shaw stead stone ton well wick worth"
)
_CITY = _parts("Ald Bex Cald Dun Ever Fal Glen Har Inver Kel Lind Mar New Oak Pres Rock Stan Thorn Wal Yar")
_CITY_END = ("borough", "bridge", "cester", "haven", "minster", "mouth", "port", "stead", "ton", "ville")
_STEMS = _parts(
    "Aldine Barrow Bellmont Birchwood Calloway Carver Chester Clement Corwin Dalton Denholm Eastlake Edgerton Elmwood "
    "Fairfax Farrow Galen Garner Hadley Halden Hollis Huxton Irving Jarrow Keaton Kendrick Lambert Langdon Larkin "
    "Linwood Lowell Marlow Mercer Milford Norwood Oakley Orwin Parkhurst Pemberton Quincy Radley Redfern Rowan Selwyn "
    "Sherwin Tilden Upton Vernon Westbrook Yardley"
)
_SCHOOLS = (
    "University of {}",
    "{} College",
    "{} State University",
    "{} Institute of Technology",
    "{} Polytechnic",
    "{} Academy of Arts",
)
_COMPANIES = ("Foods", "Energy", "Motors", "Insurance", "Software", "Shipping")
_FIELDS = (
    *("Biology", "Chemistry", "Economics", "Geography", "History"),
    *("Linguistics", "Mathematics", "Philosophy", "Physics", "Sociology"),
)
_BRANCHES = (
    *("Applied", "Comparative", "Computational", "Environmental", "Experimental"),
    *("General", "Historical", "Industrial", "Medical", "Theoretical"),
)
EMPLOYERS = 263

ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "employer", "work_city")
_ENDINGS: Sequence[str] = (
    ".",
    ", as is well known.",
    ", according to the records.",
    ", by all accounts.",
    " in those years.",
    ", friends say.",
    ", as old letters show.",
)
_PHRASES: Mapping[str, Sequence[str]] = {
    "birth_date": (
        "was born on",
        "came into the world on",
        "has a birthday that goes back to",
        "first saw the light of day on",
        "began life on",
        "celebrates the day of birth,",
        "entered this world on",
    ),
    "birth_city": (
        "was born in",
        "comes from",
        "spent the first years of life in",
        "calls home the city of",
        "grew up as a child of",
        "has family roots in",
        "was a baby in",
    ),
    "university": (
        "studied at",
        "took a degree from",
        "completed an education at",
        "was a student of",
        "graduated from",
        "attended lectures at",
        "owes an academic training to",
        "passed the final examinations at",
    ),
    "major": (
        "majored in",
        "chose as a subject",
        "wrote a thesis in",
        "took a keen interest in",
        "specialised in",
        "read books day and night on",
        "holds a diploma in",
    ),
    "employer": (
        "works for",
        "found a position at",
        "earns a living at",
        "joined the staff of",
        "built a career at",
        "signed a contract with",
        "is employed by",
    ),
    "work_city": (
        "works in",
        "goes to the office in",
        "has a desk in",
        "moved for work to",
        "commutes every day to",
        "follows a profession in",
        "is kept busy in",
    ),
}
TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(f"{{subject}} {phrase} {{value}}{ending}" for phrase, ending in product(phrases, _ENDINGS))
        for name, phrases in _PHRASES.items()
    }
)


@dataclass(frozen=True)
class Lists:
    """What values are drawn from; shorter lists make smaller corpora.

    ``headquarters[i]`` is the position, in ``cities``, of the city of employer i.
    """

    first: tuple[str, ...]
    middle: tuple[str, ...]
    last: tuple[str, ...]
    cities: tuple[str, ...]
    universities: tuple[str, ...]
    majors: tuple[str, ...]
    employers: tuple[str, ...]
    headquarters: tuple[int, ...]
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: TEMPLATES)

    @property
    def names(self) -> int:
        """N_0, the number of full names."""
        return len(self.first) * len(self.middle) * len(self.last)

    @property
    def value_sizes(self) -> tuple[int, ...]:
        """Of pronoun, date, city, university, major, employer; the city of work follows from the employer."""
        date = len(MONTHS) * DAYS * YEARS
        lists = (self.cities, self.universities, self.majors, self.employers)
        return (len(PRONOUNS), date, *map(len, lists))


def standard_lists() -> Lists:
    """The lists of bioS.

    >>> standard_lists().names
    160000000
    """
    employers = [f"{stem} {kind}" for kind, stem in product(_COMPANIES, _STEMS)][:EMPLOYERS]
    cities = _joined(_CITY, _CITY_END)
    return Lists(
        first=_joined(_FIRST, _FIRST_END),
        middle=_joined(_MIDDLE, _MIDDLE_END),
        last=_joined(_LAST, _LAST_END),
        cities=cities,
        universities=tuple(kind.format(stem) for kind, stem in product(_SCHOOLS, _STEMS)),
        majors=tuple(f"{branch} {subject}" for branch, subject in product(_BRANCHES, _FIELDS)),
        employers=tuple(employers),
        headquarters=tuple((73 * number + 11) % len(cities) for number in range(EMPLOYERS)),
    )


def _joined(beginnings: Sequence[str], endings: Sequence[str]) -> tuple[str, ...]:
    return tuple(beginning + ending for beginning, ending in product(beginnings, endings))

"""Questions about countries in eight languages, with the translated names of pycountry; and what a country speaks.

Four relations of the built-in world: the continent of a country, one of its neighbours, its language and its internet
domain. Each question has three wrong options of the same relation, at the same places in every language. Countries
and answers that some language has no name for are left out of all.
"""

from __future__ import annotations

import gettext
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

from keeps.data.multilingual import LanguageQuestion, MultilingualSet
from keeps.data.records import Fact
from keeps.data.world import relation_facts
from keeps.data.world.countries import countries
from keeps.data.world.sources import package_json, package_paths, slug
from keeps.errors import UnknownNameError, nearest

OPTIONS = 4
LOCALES = MappingProxyType(
    {"en": "", "de": "de", "es": "es", "fr": "fr", "it": "it", "pt": "pt", "ru": "ru", "zh": "zh_CN"}
)
# The country stands apart, so that no language has to inflect its name.
WORDINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "continent": {
            "en": "{x}: on which continent does this country lie?",
            "de": "{x}: Auf welchem Kontinent liegt dieses Land?",
            "es": "{x}: ¿en qué continente está este país?",
            "fr": "{x} : sur quel continent se trouve ce pays ?",
            "it": "{x}: in quale continente si trova questo paese?",
            "pt": "{x}: em que continente fica este país?",
            "ru": "{x}: на каком континенте находится эта страна?",
            "zh": "{x}：这个国家位于哪个大洲？",
        },
        "neighbour": {
            "en": "{x}: which country borders on it?",
            "de": "{x}: Welches Land grenzt daran?",
            "es": "{x}: ¿qué país limita con él?",
            "fr": "{x} : quel pays a une frontière avec lui ?",
            "it": "{x}: quale paese confina con esso?",
            "pt": "{x}: que país faz fronteira com ele?",
            "ru": "{x}: какая страна с ней граничит?",
            "zh": "{x}：哪个国家与它接壤？",
        },
        "language": {
            "en": "{x}: which language do many people speak there?",
            "de": "{x}: Welche Sprache sprechen dort viele Menschen?",
            "es": "{x}: ¿qué idioma habla allí mucha gente?",
            "fr": "{x} : quelle langue beaucoup de gens y parlent-ils ?",
            "it": "{x}: quale lingua parlano lì molte persone?",
            "pt": "{x}: que língua muitas pessoas falam lá?",
            "ru": "{x}: на каком языке там говорят многие люди?",
            "zh": "{x}：那里很多人说哪种语言？",
        },
        "top_level_domain": {
            "en": "{x}: with what do internet addresses there end?",
            "de": "{x}: Womit enden dort Internetadressen?",
            "es": "{x}: ¿con qué terminan allí las direcciones de internet?",
            "fr": "{x} : par quoi se terminent les adresses internet là-bas ?",
            "it": "{x}: con che cosa finiscono lì gli indirizzi internet?",
            "pt": "{x}: com que terminam lá os endereços de internet?",
            "ru": "{x}: на что там оканчиваются интернет-адреса?",
            "zh": "{x}：那里的网址以什么结尾？",
        },
    }
)
CONTINENT_NAMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "Africa": ("Africa", "Afrika", "África", "Afrique", "Africa", "África", "Африка", "非洲"),
        "Asia": ("Asia", "Asien", "Asia", "Asie", "Asia", "Ásia", "Азия", "亚洲"),
        "Europe": ("Europe", "Europa", "Europa", "Europe", "Europa", "Europa", "Европа", "欧洲"),
        "North America": (
            *("North America", "Nordamerika", "América del Norte", "Amérique du Nord", "America del Nord"),
            *("América do Norte", "Северная Америка", "北美洲"),
        ),
        "Oceania": ("Oceania", "Ozeanien", "Oceanía", "Océanie", "Oceania", "Oceania", "Океания", "大洋洲"),
        "South America": (
            *("South America", "Südamerika", "América del Sur", "Amérique du Sud", "America del Sud"),
            *("América do Sul", "Южная Америка", "南美洲"),
        ),
    }
)
ALIASES = MappingProxyType({"uk": "GB", "usa": "US", "america": "US"})


def world_questions(relations: Sequence[str] = ()) -> MultilingualSet:
    """The built-in questions, of all relations or of some.

    Raises:
        UnknownNameError: a relation that is not asked in several languages.
        MissingDependencyError: a data package is not installed.

    >>> norway = next(q for q in world_questions(["continent"]).questions["fr"] if q.id == "world:continent:norway")
    >>> norway.text, norway.answers
    ('Norvège : sur quel continent se trouve ce pays ?', ('Europe',))
    """
    for name in relations:
        if name not in WORDINGS:
            mend = nearest(name, WORDINGS)
            raise UnknownNameError(f'"{name}" is not asked in several languages', where="world", mend=mend)
    chosen = list(relations) or list(WORDINGS)
    return MultilingualSet.of("world", [question for name in chosen for question in _questions(name)])


def country_languages(country: str) -> tuple[str, ...]:
    """Codes of the languages of a country, the main one first; empty for a name that is no country.

    >>> country_languages("Iran")[0], country_languages("Atlantis")
    ('fa', ())
    """
    code = _codes().get(slug(country.replace("_", " ")))
    if code is None:
        return ()
    listed = str(countries()[code].first["languages"]).split(",")
    return tuple(dict.fromkeys(name.split("-")[0] for name in listed if name))


@cache
def _codes() -> Mapping[str, str]:
    found = {slug(name): code for code, country in countries().items() for name in (*country.names, code)}
    return MappingProxyType({**found, **ALIASES})


@cache
def _questions(relation: str) -> tuple[LanguageQuestion, ...]:
    facts = [fact for fact in relation_facts(relation, marks={}) if all(_asked(fact, code) for code in LOCALES)]
    pool = list(dict.fromkeys(fact.answers[0] for fact in facts))
    found = []
    for fact in facts:
        taken = {*fact.answers, fact.subject}
        apart = [name for name in pool if name not in taken]
        options = [fact.answers[0], *sorted(apart, key=lambda name, own=fact.id: _hash(own, name))[: OPTIONS - 1]]
        options.sort(key=lambda name, own=fact.id: _hash(own, f"place {name}"))
        named = {code: tuple(_answer(relation, name, code) or "" for name in options) for code in LOCALES}
        if any(len(set(names)) < OPTIONS for names in named.values()):
            continue  # two languages that share a name in some translation
        for code, names in named.items():
            text = WORDINGS[relation][code].format(x=_country(fact.subject, code))
            right = (names[options.index(fact.answers[0])],)
            found.append(LanguageQuestion(fact.id, code, text, names, right, fact.subject, relation))
    return tuple(found)


def _asked(fact: Fact, code: str) -> bool:
    return bool(_country(fact.subject, code) and _answer(fact.relation, fact.answers[0], code))


def _answer(relation: str, name: str, code: str) -> str | None:
    if relation == "continent":
        return CONTINENT_NAMES[name][list(LOCALES).index(code)]
    if relation == "neighbour":
        return _country(name, code)
    return _language(name, code) if relation == "language" else name


def _country(name: str, code: str) -> str | None:
    if not LOCALES[code]:
        return name
    return next(
        (found for text in _iso_countries()[_codes()[slug(name)]] if (found := _said("iso3166-1", code, text))), None
    )


def _language(name: str, code: str) -> str | None:
    """The name without what stands in brackets, and the first of several."""
    if not LOCALES[code]:
        return name
    said = next((found for text in _iso_languages().get(name, ()) if (found := _said("iso639-3", code, text))), None)
    return re.sub(r"\s*[(（].*", "", said).split(";")[0].strip() if said else None


def _said(domain: str, code: str, text: str) -> str | None:
    """The translation of ``text``, which may be spelt alike; None where there is none."""
    return _catalogue(domain, code).get(text)


@cache
def _catalogue(domain: str, code: str) -> Mapping[str, str]:
    """English name to name in the language."""
    path = package_paths("pycountry", rf"locales/{LOCALES[code]}/LC_MESSAGES/{domain}\.mo$")[0]
    with path.open("rb") as stream:
        translations = gettext.GNUTranslations(stream)
    translations.add_fallback(_Missing())
    english = [name for names in _iso_countries().values() for name in names] + [
        name for names in _iso_languages().values() for name in names
    ]
    return {name: said for name in english if (said := translations.gettext(name))}


class _Missing(gettext.NullTranslations):
    """Says nothing where there is no translation, instead of the English text."""

    def gettext(self, message: str) -> str:
        del message
        return ""


@cache
def _iso_countries() -> Mapping[str, tuple[str, ...]]:
    rows = package_json("pycountry", r"databases/iso3166-1\.json$")["3166-1"]
    return {row["alpha_2"]: tuple(row[key] for key in ("common_name", "name") if key in row) for row in rows}


@cache
def _iso_languages() -> Mapping[str, tuple[str, ...]]:
    """Name without what stands in brackets, to the names of the standard."""
    found: dict[str, tuple[str, ...]] = {}
    for row in package_json("pycountry", r"databases/iso639-3\.json$")["639-3"]:
        bare = re.sub(r"\s*\(.*\)", "", row["name"])
        found[bare] = (*found.get(bare, ()), row["name"])
    return found


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

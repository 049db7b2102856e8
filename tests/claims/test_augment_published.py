"""The survey's claim on published questions: files are read as published, and what does not help is found out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.claims import augment_published
from keeps.claims.augment_published import (
    WithoutDocuments,
    answer_check,
    citation_check,
    contexts,
    first_cited,
    flip_check,
    measured,
    popularity,
    popularity_checks,
    ways_checks,
)
from keeps.claims.augment_published_data import (
    BINS,
    POPQA,
    SQUAD,
    Sought,
    by_popularity,
    contexts_with_questions,
    popular_questions,
)
from keeps.claims.augment_survey import CLAIM
from keeps.claims.base import ClaimRun
from keeps.claims.grounding_world import lexical_retriever, retrievers
from keeps.contracts import Answer
from keeps.errors import EmptySetError, InputFileError
from keeps.jobs.grounding_measures import stands_in
from keeps.sources import Hit, Retriever

FIRST = ("Adra", "Belo", "Cilo", "Dova", "Elun", "Faro", "Gita", "Hulo", "Inor", "Jura")
SUBJECTS = [f"{first} {last}" for first in FIRST for last in ("Korv", "Lamp", "Mora", "Nybe", "Okal", "Petu")]
TOWNS = [f"{name.split()[0]}{name.split()[1].lower()}stad" for name in SUBJECTS]


def write(folder: Path, name: str, rows: Sequence[Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def asked_for(place: int, **changed: Any) -> dict[str, Any]:
    """A row as published: who was born where, with a passage about the person and one about the town."""
    subject, town = SUBJECTS[place], TOWNS[place]
    passages = [{"title": subject, "text": f"{subject} was born in {town}.", "is_supporting": True},
                {"title": town, "text": f"{town} lies by the sea.", "is_supporting": False}]  # fmt: skip
    row = {"id": place, "question": f"In what city was {subject} born?", "answers": [town, f"City of {town}"]}
    return {**row, "property": "place of birth", "s_pop": 10**place, "passages": passages, **changed}


def popqa(folder: Path, count: int = len(SUBJECTS)) -> Path:
    return write(folder, POPQA, [asked_for(place) for place in range(count)])


class Reader:
    """Says what the best passage says, and from memory what it knows."""

    def __init__(self, known: Mapping[str, str] | None = None, cites: int = 0) -> None:
        self.known, self.cites = known or {}, cites

    def __call__(self, source: Retriever, questions: Sequence[str]) -> list[Answer]:
        return [self.answer(source.search(question, 2), question) for question in questions]

    def answer(self, hits: Sequence[Hit], question: str) -> Answer:
        text = hits[0].text if hits else self.known.get(question, "no idea")
        return told(text, hits, [hit.id for hit in hits[self.cites : self.cites + 1]])


def told(text: str, hits: Sequence[Hit], cited: Sequence[str]) -> Answer:
    passages = [{"id": h.id, "document": h.document, "span": list(h.span), "score": h.score} for h in hits]
    return Answer(text, tuple(cited), {"passages": passages})


def popular_ones_known(folder: Path) -> dict[str, str]:
    parts = by_popularity(popular_questions(folder)[0])
    return {each.question: each.answers[0] for each in parts["popular"]}


def test_questions_lead_to_their_passages_and_each_text_is_there_once(tmp_path: Path) -> None:
    rows = [asked_for(0), asked_for(1), asked_for(0, id=9)]
    rows += [asked_for(2, question=f"Was {SUBJECTS[2]} born in {TOWNS[2]}?")]
    questions, documents = popular_questions(write(tmp_path, POPQA, rows))
    assert [each.id for each in questions] == ["0", "1"]  # not the same again, nor one that says its answer
    assert len(documents) == len(set(documents.values())) == 6
    for each in questions:
        (name,) = each.supporting
        assert each.answers[0] in documents[name]
        assert each.kind == "place of birth"


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"passages": []}, "passages are not as published"),
        ({"passages": [{"title": "a", "text": "b"}]}, "passages are not as published"),
        ({"passages": [{"title": "a", "text": " ", "is_supporting": True}]}, "passages are not as published"),
        ({"passages": "text"}, "passages are not as published"),
        ({"answers": []}, "no answer"),
        ({"answers": "Oslo"}, "no texts"),
        ({"s_pop": "many"}, "s_pop"),
    ],
)
def test_rows_that_are_not_as_published_are_named(tmp_path: Path, changed: dict[str, Any], match: str) -> None:
    with pytest.raises(InputFileError, match=rf"{match}.*row 3"):
        popular_questions(write(tmp_path, POPQA, [asked_for(0), asked_for(3, **changed)]))


def test_files_without_a_question_to_ask_are_refused(tmp_path: Path) -> None:
    for name, read in ((POPQA, popular_questions), (SQUAD, contexts_with_questions)):
        with pytest.raises(InputFileError, match=f"no {Path(name).name}"):
            read(tmp_path)
    unsupported = asked_for(0, passages=[{"title": "a", "text": "b", "is_supporting": False}])
    with pytest.raises(EmptySetError, match="no question"):
        popular_questions(write(tmp_path, POPQA, [unsupported]))
    row = {"id": "a", "question": "Is it Oslo?", "answer": "Oslo", "context": "It is Oslo."}
    with pytest.raises(EmptySetError, match="no question"):
        contexts_with_questions(write(tmp_path, SQUAD, [row]))
    with pytest.raises(EmptySetError, match="is middle"):
        by_popularity([Sought("a", "q", ("x",), frozenset("d"), "kind", 1.0)])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=3, max_size=40))
def test_thirds_are_equal_within_a_kind_and_in_order_of_popularity(drawn: list[tuple[str, int]]) -> None:
    questions = [Sought(str(n), f"q{n}", ("x",), frozenset("d"), kind, pop) for n, (kind, pop) in enumerate(drawn)]
    questions += [Sought(f"c{n}", f"c{n}", ("x",), frozenset("d"), "c", n) for n in range(3)]
    parts = by_popularity(questions)
    assert sorted(each.id for part in parts.values() for each in part) == sorted(each.id for each in questions)
    for kind in "abc":
        mine = [[each.popularity for each in parts[name] if each.kind == kind] for name in BINS]
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
        assert [value for part in mine for value in part] == sorted(
            each.popularity for each in questions if each.kind == kind
        )


def test_passages_that_help_with_rare_subjects_alone_pass_every_check(tmp_path: Path) -> None:
    data = popqa(tmp_path)
    run = ClaimRun()
    checks = list(popularity(Reader(popular_ones_known(data)), data, run))
    held = {check.name.partition(" ")[0]: check.holds for check in checks}
    assert [check.name for check in checks if not check.holds] == [checks[2].name], held
    assert "popular" in checks[2].name  # known already: passages cannot help there
    assert checks[3].measured == 1.0
    table = run.tables["PopQA by popularity"]
    assert {name: row["closed book"]["value"] for name, row in table.items()} == {"rare": 0, "middle": 0, "popular": 1}
    assert run.tables["right answers that go wrong without the document cited first"] == {"place of birth": [32, 32]}


def test_passages_that_help_everywhere_alike_show_no_difference_by_popularity(tmp_path: Path) -> None:
    checks = list(popularity(Reader(), popqa(tmp_path), ClaimRun()))
    assert [check.holds for check in checks] == [True, True, True, False, True, True, True]
    assert (checks[3].measured, checks[3].interval) == (0.0, (0.0, 0.0))


def test_passages_that_help_nobody_are_found_out(tmp_path: Path) -> None:
    asked = by_popularity(popular_questions(popqa(tmp_path))[0])
    count = sum(map(len, asked.values()))
    checks = list(popularity_checks(asked, [True] * count, [False] * count, ClaimRun()))
    assert [check.holds for check in checks] == [False, False, False]


def test_passages_that_are_not_found_and_places_that_do_not_exist_are_found_out(tmp_path: Path) -> None:
    class Astray(Reader):
        def answer(self, hits: Sequence[Hit], question: str) -> Answer:
            return told("", [Hit("x#0-9999", "x", 1.0, "x", (0, 9999))], ["y#0-1"])

    rows = [asked_for(n, question=f"zzz {n}?") for n in range(6)]
    checks = list(popularity(Astray(), write(tmp_path, POPQA, rows), ClaimRun()))
    assert not any(check.holds for check in checks)
    assert (checks[0].measured, checks[5].measured) == (0.0, 6)
    assert checks[-1].measured is None


def test_citations_of_what_does_not_support_are_found_out(tmp_path: Path) -> None:
    questions, documents = popular_questions(popqa(tmp_path, 12))
    source, texts = lexical_retriever(documents), [each.question for each in questions]
    good = citation_check(questions, Reader(cites=0)(source, texts))
    assert (good.holds, good.measured) == (True, 1.0)
    assert good.baseline is not None
    assert good.baseline < 1
    assert not citation_check(questions, Reader(cites=1)(source, texts)).holds
    silent = citation_check(questions, Reader(cites=5)(source, texts))
    assert (silent.holds, silent.measured) == (False, None)


def test_of_cited_passages_the_best_counts_and_the_document_taken_away_is_not_found(tmp_path: Path) -> None:
    _, documents = popular_questions(popqa(tmp_path, 12))
    source, query = lexical_retriever(documents), asked_for(0)["question"]
    hits = source.search(query, 2)
    assert first_cited(told("", hits, [hits[1].id, hits[0].id])) == hits[0].document
    assert first_cited(told("", hits, [])) == ""
    without = WithoutDocuments(source, {query: hits[0].document})
    assert without.search(query, 3) == source.search(query, 4)[1:]
    other = asked_for(1)["question"]
    assert without.search(other, 3) == source.search(other, 3)


def test_answers_that_do_not_hang_on_what_they_cite_are_found_out() -> None:
    asked = [Sought(str(n), f"q{n}", ("Oslo",), frozenset("d"), "kind") for n in range(10)]
    gone, held = Answer("no idea"), Answer("It is Oslo.")
    assert flip_check(asked, [gone] * 6 + [held] * 4, ClaimRun()).holds
    check = flip_check(asked, [gone] * 5 + [held] * 5, ClaimRun())
    assert (check.holds, check.measured) == (False, 0.5)


def squad(folder: Path) -> Path:
    rows = [{"id": f"s{n}", "question": f"Where was {subject} born?", "answer": town, "answer_span": [0, 1],
             "context": f"{subject} was born in {town}, long ago."}
            for n, (subject, town) in enumerate(zip(SUBJECTS, TOWNS, strict=True))]  # fmt: skip
    return write(folder, SQUAD, [*rows, {**rows[0], "id": "again", "question": f"Of which town was {SUBJECTS[0]}?"}])


def test_contexts_are_one_corpus_and_found_by_their_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions, documents = contexts_with_questions(squad(tmp_path))
    assert (len(questions), len(documents)) == (len(SUBJECTS) + 1, len(SUBJECTS))
    assert questions[0].supporting == questions[-1].supporting
    words = retrievers(documents, ("lexical",))["lexical"]
    monkeypatch.setattr(augment_published, "retrievers", lambda documents, ways: dict.fromkeys(ways, words))
    run = ClaimRun()
    assert [check.holds for check in contexts(Reader(), tmp_path, run)] == [True, True, True]
    assert run.tables["SQuAD, contexts found"]["hybrid"]["hit@1"]["value"] == 1.0
    known = {each.question: each.answers[0] for each in questions}
    assert [check.holds for check in contexts(Reader(known), tmp_path, run)] == [True, True, False]


def test_a_fusion_that_loses_what_one_way_finds_is_found_out(tmp_path: Path) -> None:
    questions, documents = contexts_with_questions(squad(tmp_path))
    words = retrievers(documents, ("lexical",))["lexical"]
    worse = WithoutDocuments(words, {each.question: next(iter(each.supporting)) for each in questions[:2]})
    found = measured(questions, {"lexical": words, "dense": worse, "hybrid": worse})
    assert [check.holds for check in ways_checks(found, ClaimRun())] == [False, False]
    found = measured(questions, {"lexical": worse, "dense": worse, "hybrid": words})
    assert [check.holds for check in ways_checks(found, ClaimRun())] == [True, True]


def test_a_gain_that_may_be_chance_is_none() -> None:
    assert answer_check([False] * 10, [True] * 6 + [False] * 4).holds
    assert not answer_check([False] * 10, [True] * 5 + [False] * 5).holds


@pytest.mark.shared_data
def test_published_files_give_what_the_claim_asks(shared_data: Path) -> None:
    questions, documents = popular_questions(shared_data)
    assert len(questions) > 900
    assert all(each.supporting <= documents.keys() for each in questions)
    parts = by_popularity(questions)
    assert all(len(part) >= augment_published.ASKED[name] for name, part in parts.items())
    asked, texts = contexts_with_questions(shared_data)
    assert len(asked) > 900
    told = [stands_in(each.answers[0], texts[next(iter(each.supporting))]) for each in asked]
    assert sum(told) > 0.97 * len(told)  # a few spans end within a word


def test_the_claim_names_the_files_that_it_reads() -> None:
    assert CLAIM.files == (POPQA, SQUAD)

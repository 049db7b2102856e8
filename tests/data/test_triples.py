"""Triples from tables, RDF and the world: what is read, what is refused and where, and what is true of a head."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.data.triple_files import read_templates, read_triples
from keeps.data.triples import Triple, TripleSet, relation_label, template_of
from keeps.errors import EmptySetError, InputFileError, MissingDependencyError, RecordError, UnknownNameError

OSLO, ROME = Triple("Norway", "has capital", "Oslo"), Triple("Italy", "has capital", "Rome")


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bare.tsv", "Norway\thas capital\tOslo\nItaly\thas capital\tRome\n"),
        ("headed.tsv", "subject\tpredicate\tobject\nNorway\thas capital\tOslo\n\nItaly\thas capital\tRome\n"),
        ("turned.csv", 'tail,head,relation\nOslo,Norway,has capital\n"Rome",Italy, has  capital\n'),
        (
            "lines.jsonl",
            '{"h": "Norway", "r": "has capital", "t": "Oslo"}\n{"h": "Italy", "r": "has capital", "t": "Rome"}\n',
        ),
        (
            "list.json",
            '[{"head": "Norway", "relation": "has capital", "tail": "Oslo"},\n'
            '{"head": "Italy", "relation": "has capital", "tail": "Rome"}]',
        ),
    ],
)
def test_every_form_of_table_gives_the_same_triples(tmp_path: Path, name: str, text: str) -> None:
    found = read_triples(written(tmp_path, name, text))
    assert found.triples == (OSLO, ROME)
    assert found.statement(OSLO) == "Norway has capital Oslo"


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("a.tsv", "Norway\thas capital\tOslo\nItaly\tRome\n", "line 2", "2 cells, not 3"),
        ("a.tsv", "head\trelation\ttail\nNorway\t \tOslo\n", "line 2", "relation is empty"),
        ("a.tsv", "head\ttail\nNorway\tOslo\n", "line 2", "no relation among the columns"),
        ("a.csv", 'head,relation,tail\nNorway,"has,Oslo\n', "line 2", "cannot be read"),
        (
            "a.jsonl",
            '{"head": "Norway", "relation": "r", "tail": "Oslo"}\n{"head": "Italy"}\n',
            "line 2",
            "no relation",
        ),
        ("a.jsonl", '{"head": "Norway", "relation": "r", "tail": ["Oslo"]}\n', "line 1", "tail is empty or no text"),
        ("a.jsonl", '{"head": oslo}\n', "line 1", "JSON is not valid"),
        ("a.xlsx", "", "a.xlsx", "no known format"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, name: str, text: str, where: str, what: str) -> None:
    with pytest.raises((InputFileError, RecordError)) as caught:
        read_triples(written(tmp_path, name, text))
    assert where in caught.value.where
    assert what in caught.value.what
    assert caught.value.mend


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    for text in ("", "head\trelation\ttail\n", "\n\n"):
        with pytest.raises(EmptySetError, match="no triple"):
            read_triples(written(tmp_path, "a.tsv", text))
    with pytest.raises(InputFileError, match="no such file"):
        read_triples(tmp_path / "b.tsv")


def test_white_space_is_made_single_and_repeated_triples_are_counted() -> None:
    found = TripleSet.of("it", [OSLO, Triple(" Norway ", "has  capital", "Oslo\t"), ROME])
    assert (found.triples, found.duplicates) == ((OSLO, ROME), 1)
    for broken in (Triple("", "r", "t"), Triple("h", " ", "t"), Triple("h", "r", "\t"), Triple("h", "r", "[MASK]")):
        with pytest.raises(RecordError, match="triple 2"):
            TripleSet.of("it", [OSLO, broken])
    with pytest.raises(EmptySetError):
        TripleSet.of("it", [])


def test_a_relation_without_template_is_named(tmp_path: Path) -> None:
    graph = written(tmp_path, "a.tsv", "Norway\thas capital\tOslo\nNorway\tlies in\tEurope\n")
    templates = written(tmp_path, "templates.json", '{"has capital": "{t} is the capital of {h}."}')
    with pytest.raises(RecordError, match='1 of 2 relations have no template: "lies in"'):
        read_triples(graph, templates=templates)
    full = written(
        tmp_path, "templates.tsv", "relation\ttemplate\nhas capital\t{t} is the capital of {h}.\nlies in\tis in\n"
    )
    found = read_triples(graph, templates=full)
    assert [found.statement(triple) for triple in found.triples] == [
        "Oslo is the capital of Norway.",
        "Norway is in Europe",
    ]
    assert found.masked(found.triples[0]) == "[MASK] is the capital of Norway."
    twice = written(tmp_path, "twice.tsv", "relation\ttemplate\nr\ta\nr\tb\n")
    with pytest.raises(RecordError, match="stands twice"):
        read_templates(twice)
    with pytest.raises(InputFileError, match="no object"):
        read_templates(written(tmp_path, "list.json", "[1]"))


@pytest.mark.parametrize("text", ["{h} only", "{h} and {h} {t}", "{h} {t} {x}", "{", ""])
def test_a_template_has_head_and_tail_once(text: str) -> None:
    with pytest.raises(RecordError, match="no template"):
        template_of(text, "here")


def test_templates_may_be_written_as_others_do() -> None:
    assert template_of("[X] was born in [Y].", "here") == "{h} was born in {t}."
    assert template_of(" plays  for ", "here") == "{h} plays for {t}"
    assert [relation_label(name) for name in ("isAffiliatedTo", "_has_part", "isa", "part of")] == [
        "is affiliated to",
        "has part",
        "isa",
        "part of",
    ]


def test_names_are_put_in_once_whatever_stands_in_them() -> None:
    odd = Triple("{t}", "r", "{h}")
    found = TripleSet.of("it", [odd, Triple("apple", "r", "fruit")], templates={"r": "A {h} is a kind of {t}"})
    assert found.statement(odd) == "A {t} is a kind of {h}"
    assert found.statement(found.triples[1]) == "An apple is a kind of fruit"


def test_what_holds_knows_case_inverses_symmetry_and_other_names() -> None:
    graph = TripleSet.of(
        "it",
        [
            Triple("Oslo", "capital of", "Norway"),
            Triple("Norway", "capital", "Oslo"),
            Triple("Norway", "borders", "Sweden"),
        ],
        accepted={("Norway", "capital"): ("Christiania",)},
        symmetric=("borders",),
        inverses={"capital of": "capital"},
    )
    assert graph.holds("Norway", "capital", "OSLO")
    assert graph.holds("Norway", "capital", "christiania")
    assert graph.holds("Sweden", "borders", "Norway")
    assert not graph.holds("Sweden", "capital", "Oslo")
    assert graph.tails("Norway", "capital") == ("Oslo", "Christiania")
    assert graph.entities == ("Oslo", "Norway", "Sweden")
    alone = TripleSet.of(
        "it", [Triple("Oslo", "capital of", "Norway"), Triple("x", "capital", "y")], inverses={"capital": "capital of"}
    )
    assert alone.tails("Norway", "capital") == ("Oslo",)
    with pytest.raises(UnknownNameError, match="border"):
        TripleSet.of("it", [OSLO], symmetric=("borders",))


def test_the_fingerprint_tells_contents_apart_and_not_files() -> None:
    same = TripleSet.of("one", [OSLO, ROME]).fingerprint
    assert same == TripleSet.of("two", [OSLO, ROME, ROME]).fingerprint
    others = [
        TripleSet.of("it", [OSLO]),
        TripleSet.of("it", [OSLO, ROME], templates={"has capital": "{t}, {h}"}),
        TripleSet.of("it", [OSLO, ROME], symmetric=("has capital",)),
        TripleSet.of("it", [OSLO, ROME], accepted={("Italy", "has capital"): ("Roma",)}),
    ]
    assert len({same, *(graph.fingerprint for graph in others)}) == 5


def test_the_world_becomes_triples_whose_other_answers_are_right_too() -> None:
    graph = TripleSet.from_facts(
        fact for fact in load_records("world:capital,world:neighbour") if isinstance(fact, Fact)
    )
    assert graph.templates["capital"] == "The capital of {h} is {t}"
    assert Triple("Norway", "capital", "Oslo") in graph.triples
    borders = graph.tails("Norway", "neighbour")
    assert {"Sweden", "Finland", "Russia"} <= set(borders)
    assert sum(triple.head == "Norway" and triple.relation == "neighbour" for triple in graph.triples) == 1


def test_facts_whose_wording_lacks_the_subject_are_said_in_the_words_of_the_relation() -> None:
    fact = Fact("1", "Norway", "hasCapital", ("Its capital is",), ("Oslo",))
    graph = TripleSet.from_facts([fact])
    assert graph.statement(graph.triples[0]) == "Norway has capital Oslo"


TURTLE = """@prefix e: <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
e:Q1 rdfs:label "Parigi"@it, "Paris"@en ; e:capitalOf e:French_Republic ; e:population 2000000 .
e:Q2 rdfs:label "Paris" ; e:sonOf e:Priam_of_Troy .
_:b e:near e:Q1 .
"""


def test_an_rdf_graph_is_read_by_its_labels(tmp_path: Path) -> None:
    pytest.importorskip("pyoxigraph")
    graph = read_triples(written(tmp_path, "a.ttl", TURTLE))
    assert graph.triples == (
        Triple("Paris (Q1)", "capital of", "French Republic"),
        Triple("Paris (Q1)", "population", "2000000"),
        Triple("Paris (Q2)", "son of", "Priam of Troy"),
    )
    with pytest.raises(InputFileError) as caught:
        read_triples(written(tmp_path, "b.ttl", TURTLE + "e:a e:b oops .\n"))
    assert "line 6" in caught.value.where
    with pytest.raises(EmptySetError, match="no fact"):
        read_triples(written(tmp_path, "c.nt", ""))


def test_without_its_reader_an_rdf_file_says_which_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyoxigraph", None)
    with pytest.raises(MissingDependencyError, match=r"keeps\[rdf\]"):
        read_triples(written(tmp_path, "a.ttl", TURTLE))

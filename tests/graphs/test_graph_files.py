"""Graphs go into files and come back; bad files and failing disks cost nothing; WordNet becomes a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keeps.weights.files as files
from keeps.data.triples import Triple
from keeps.errors import EmptySetError, InputFileError, MissingDependencyError, RecordError, StorageError
from keeps.graphs import KnowledgeGraph, read_graph, wordnet_graph, write_graph

NAMES = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=12).filter(
    lambda name: bool(name.split()) and "[MASK]" not in name
)
GRAPHS = st.lists(st.builds(Triple, NAMES, NAMES, NAMES), min_size=1, max_size=6)


def graph_of(triples: list[Triple], source: str = "x") -> KnowledgeGraph:
    graph = KnowledgeGraph()
    graph.add(triples, source)
    return graph


@pytest.mark.parametrize("ending", [".jsonl", ".tsv", ".csv"])
@given(triples=GRAPHS)
def test_a_graph_comes_back_from_its_file(
    triples: list[Triple], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("graph") / f"graph{ending}"
    graph = graph_of(triples)
    if ending != ".jsonl" and any(set("{}") & set(triple.relation) for triple in triples):
        with pytest.raises(RecordError, match="braces"):
            write_graph(graph, path)
        return
    write_graph(graph, path)
    assert list(read_graph(path, source="x")) == list(graph)


def test_n_triples_come_back_by_their_labels(tmp_path: Path) -> None:
    pytest.importorskip("pyoxigraph")
    names = ['a "quoted" \\ name', "with_underscore/slash#sign", "Ünï 東京", "<b>"]
    graph = graph_of([Triple(name, "isPartOf some_thing", "Norway") for name in names])
    write_graph(graph, tmp_path / "graph.nt")
    assert list(read_graph(tmp_path / "graph.nt", source="x")) == list(graph)


def test_jsonl_keeps_who_states_what(tmp_path: Path) -> None:
    graph = graph_of([Triple("Oslo", "in", "Norway")], "atlas")
    graph.add([Triple("Oslo", "in", "Norway"), Triple("Bergen", "in", "Norway")], "almanac")
    write_graph(graph, tmp_path / "graph.jsonl")
    assert list(read_graph(tmp_path / "graph.jsonl")) == list(graph)


def test_rows_without_sources_beside_rows_with_them_are_stated_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text(
        '{"head": "Oslo", "relation": "in", "tail": "Norway", "sources": ["atlas"]}\n'
        '{"subject": "Bergen", "relation": "in", "object": "Norway"}\n'
    )
    found = {edge.head: edge.sources for edge in read_graph(path)}
    assert found == {"Oslo": ("atlas",), "Bergen": ("mixed.jsonl",)}


def test_other_files_are_the_source_of_their_triples(tmp_path: Path) -> None:
    (tmp_path / "facts.tsv").write_text("Oslo\tcapital of\tNorway\n")
    assert [edge.sources for edge in read_graph(tmp_path / "facts.tsv")] == [("facts.tsv",)]
    (tmp_path / "facts.jsonl").write_text('{"subject": "Oslo", "relation": "in", "object": "Norway"}\n')
    assert [edge.sources for edge in read_graph(tmp_path / "facts.jsonl")] == [("facts.jsonl",)]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.tsv", b"only two\tcells\n", InputFileError),
        ("a.csv", b"a,b,c\xff\n", InputFileError),
        ("a.jsonl", b'{"head": "a", "relation": "r", "tail": "t", "sources": []}\n', RecordError),
        ("a.jsonl", b'{"head": 1, "relation": "r", "tail": "t", "sources": ["x"]}\n', RecordError),
        ("a.jsonl", b'{"head": "a", "relation": "r", "tail": "t", "sources": ["x", " "]}\n', RecordError),
        ("a.jsonl", b'{"head": "a", "relation": "r", "tail": "t", "sources": ["x"]}\n{"head": "a"}\n', RecordError),
        ("a.tsv", b"", EmptySetError),
        ("a.doc", b"a", InputFileError),
    ],
)
def test_a_bad_file_is_an_error_that_names_it(
    name: str, content: bytes, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=name):
        read_graph(tmp_path / name)


def test_a_disk_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "graph.tsv"
    write_graph(graph_of([Triple("a", "r", "b")]), path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(StorageError, match="full"):
        write_graph(graph_of([Triple("c", "r", "d")]), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["graph.tsv"]
    with pytest.raises(InputFileError, match=r"\.jsonl"):
        write_graph(graph_of([Triple("c", "r", "d")]), tmp_path / "graph.xml")


DATA = """  1 This is the licence.
00000100 05 n 02 dog 0 hound 0 002 @ 00000200 n 0000 #m 00000300 n 0000 | a pet
00000200 05 n 01 canine 0 002 ~ 00000100 n 0000 %p 00000400 n 0000 | an animal
00000300 05 n 01 pack 0 001 %m 00000100 n 0000 | a group
00000400 05 n 01 fang 0 000 | a tooth
00000500 05 n 01 dog 1 001 @ 00000200 n 0000 | another sense
"""
INDEX = """  1 This is the licence.
canine n 1 1 ~ 1 0 00000200
dog n 2 1 @ 2 1 00000100 00000500
fang n 1 0 1 0 00000400
hound n 1 1 @ 1 0 00000100
pack n 1 1 %m 1 0 00000300
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    return tmp_path


def test_senses_of_wordnet_are_told_apart_and_each_edge_names_its_place(wordnet: Path) -> None:
    found = [(edge.head, edge.relation, edge.tail, edge.sources) for edge in wordnet_graph(wordnet, ("noun",))]
    assert found == [
        ("canine.n.1", "part meronym", "fang.n.1", ("wordnet:data.noun@00000200",)),
        ("dog.n.1", "hypernym", "canine.n.1", ("wordnet:data.noun@00000100",)),
        ("dog.n.2", "hypernym", "canine.n.1", ("wordnet:data.noun@00000500",)),
        ("pack.n.1", "member meronym", "dog.n.1", ("wordnet:data.noun@00000300",)),
    ]


@pytest.mark.parametrize("damage", ["00000600 05 n 01 x 0 009 @ 1 n\n", "short\n", "00000600 05 n zz x 0 000 |\n"])
def test_damaged_files_of_wordnet_are_an_error(damage: str, wordnet: Path) -> None:
    (wordnet / "data.noun").write_text(DATA + damage)
    with pytest.raises(InputFileError, match="install WordNet again"):
        wordnet_graph(wordnet, ("noun",))


def test_a_missing_part_of_wordnet_is_an_error(wordnet: Path) -> None:
    with pytest.raises(InputFileError, match=r"index\.verb"):
        wordnet_graph(wordnet)


def test_the_installed_wordnet_is_read_whole() -> None:
    try:
        graph = wordnet_graph(parts=("noun",))
    except MissingDependencyError:
        pytest.skip("WordNet is not installed")
    assert len(graph) > 80_000
    assert "entity.n.1" in graph.k_hop("dog.n.1", 20, "out")

"""Neighbours, distances and paths against networkx; provenance of every edge through adding and taking back."""

from __future__ import annotations

from itertools import pairwise

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.triples import Triple
from keeps.errors import RecordError, SettingsError, UnknownNameError
from keeps.graphs import KnowledgeGraph

NODES = st.sampled_from("abcdef")
TRIPLES = st.builds(Triple, NODES, st.sampled_from(["r", "s"]), NODES)
STATED = st.lists(st.tuples(TRIPLES, st.sampled_from(["one", "two"])), max_size=25)


def graph_of(stated: list[tuple[Triple, str]]) -> KnowledgeGraph:
    graph = KnowledgeGraph()
    for triple, source in stated:
        graph.add([triple], source)
    return graph


def as_networkx(graph: KnowledgeGraph, direction: str) -> networkx.DiGraph:
    made = networkx.DiGraph(graph.to_networkx())
    return {"out": made, "in": made.reverse(), "both": made.to_undirected().to_directed()}[direction]


@given(STATED, st.sampled_from(["out", "in", "both"]), st.integers(0, 4))
def test_distances_within_k_steps_are_those_of_networkx(
    stated: list[tuple[Triple, str]], direction: str, k: int
) -> None:
    graph = graph_of(stated)
    for node in graph.nodes:
        wanted = networkx.single_source_shortest_path_length(as_networkx(graph, direction), node, cutoff=k)
        assert graph.k_hop(node, k, direction) == {name: far for name, far in wanted.items() if far}


@given(STATED, NODES, NODES, st.sampled_from(["out", "in", "both"]), st.integers(1, 4))
def test_shortest_paths_are_those_of_networkx(
    stated: list[tuple[Triple, str]], start: str, end: str, direction: str, longest: int
) -> None:
    graph = graph_of(stated)
    found = graph.shortest_paths(start, end, longest, direction, limit=None)
    plain = as_networkx(graph, direction)
    wanted: set[tuple[str, ...]] = set()
    if start != end and start in graph and end in graph and networkx.has_path(plain, start, end):
        paths = {tuple(path) for path in networkx.all_shortest_paths(plain, start, end)}
        wanted = {path for path in paths if len(path) - 1 <= longest}
    assert {(path[0].start, *(step.end for step in path)) for path in found} == wanted
    assert len(set(found)) == len(found)
    for path in found:
        assert all(first.end == second.start for first, second in pairwise(path))
        assert all(step.edge in list(graph) for step in path)


@given(STATED, st.randoms())
def test_the_order_in_which_triples_come_changes_no_answer(stated: list[tuple[Triple, str]], chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(stated)
    chance.shuffle(shuffled)
    first, second = graph_of(stated), graph_of(shuffled)
    assert list(first) == list(second)
    for node in first.nodes:
        for rank_by in ("name", "degree", "sources"):
            assert first.neighbours(node, rank_by=rank_by) == second.neighbours(node, rank_by=rank_by)
        assert list(first.k_hop(node, 2).items()) == list(second.k_hop(node, 2).items())
    assert first.shortest_paths("a", "b") == second.shortest_paths("a", "b")


@given(STATED)
def test_taking_back_what_one_source_states_leaves_what_the_other_states(stated: list[tuple[Triple, str]]) -> None:
    graph = graph_of(stated)
    if "one" in graph.sources:
        graph.remove(source="one")
    assert list(graph) == list(graph_of([item for item in stated if item[1] == "two"]))
    assert set(graph.nodes) == {name for edge in graph for name in (edge.head, edge.tail)}


def test_every_edge_names_its_sources_and_goes_with_the_last() -> None:
    graph, triple = KnowledgeGraph(), Triple("Oslo", "capital of", "Norway")
    assert graph.add([triple], "atlas") == 1
    assert graph.add([Triple(" Oslo ", "capital  of", "Norway")], "almanac") == 0
    assert graph.edge(triple).sources == ("almanac", "atlas")
    assert graph.remove([triple], source="atlas") == 0
    assert graph.neighbours("Norway", "in")[0].sources == ("almanac",)
    assert graph.remove([triple]) == 1
    assert "Oslo" not in graph


def test_neighbours_are_chosen_by_direction_relation_degree_and_number() -> None:
    graph = KnowledgeGraph()
    graph.add([Triple("a", "r", "b"), Triple("c", "r", "a"), Triple("a", "s", "d"), Triple("d", "r", "e")], "x")
    assert [edge.tail for edge in graph.neighbours("a", "out")] == ["b", "d"]
    assert [edge.head for edge in graph.neighbours("a", "in")] == ["c"]
    assert [edge.tail for edge in graph.neighbours("a", "out", 1, rank_by="degree")] == ["d"]
    assert [edge.relation for edge in graph.neighbours("a", relations=["s"])] == ["s"]
    assert graph.neighbours("unknown") == []


def test_an_edge_that_leads_to_itself_is_one_neighbour() -> None:
    graph = KnowledgeGraph()
    graph.add([Triple("a", "likes", "a")], "x")
    assert len(graph.neighbours("a")) == 1
    assert graph.degree("a") == 2
    assert graph.k_hop("a", 3) == {}


def test_a_path_over_parallel_edges_is_found_once_for_each_relation() -> None:
    graph = KnowledgeGraph()
    graph.add([Triple("a", "r", "b"), Triple("a", "s", "b"), Triple("b", "r", "c")], "x")
    found = graph.shortest_paths("a", "c")
    assert [[step.edge.relation for step in path] for path in found] == [["r", "r"], ["s", "r"]]
    assert len(graph.shortest_paths("a", "c", limit=1)) == 1
    assert graph.shortest_paths("c", "a", direction="out") == []
    assert all(not step.forward for step in graph.shortest_paths("c", "a")[0])


def test_the_number_of_paths_may_be_astronomic_and_the_limit_is_kept() -> None:
    graph = KnowledgeGraph()
    for layer in range(30):
        graph.add([Triple(f"{layer}{x}", "r", f"{layer + 1}{y}") for x in "abcd" for y in "abcd"], "x")
    graph.add([Triple("30a", "r", "end")], "x")
    assert len(graph.shortest_paths("0a", "end", 40, "out", limit=7)) == 7


def test_a_limit_of_k_hop_is_kept() -> None:
    graph = KnowledgeGraph()
    graph.add([Triple("hub", "r", f"n{number}") for number in range(50)], "x")
    assert len(graph.k_hop("hub", 2, limit=10)) == 10


def test_of_triples_with_a_bad_one_among_them_none_is_added_or_removed() -> None:
    graph = KnowledgeGraph()
    with pytest.raises(RecordError):
        graph.add([Triple("a", "r", "b"), Triple("a", " ", "b")], "x")
    with pytest.raises(RecordError):
        graph.add([Triple("a", "r", "b")], " ")
    assert len(graph) == 0
    graph.add([Triple("a", "r", "b")], "x")
    for options in (
        {"triples": [Triple("a", "r", "b"), Triple("a", "r", "z")]},
        {"source": "y"},
        {"triples": [Triple("a", "r", "b")], "source": "y"},
    ):
        with pytest.raises(UnknownNameError):
            graph.remove(**options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError):
        graph.remove()
    with pytest.raises(SettingsError):
        graph.neighbours("a", "sideways")
    assert len(graph) == 1

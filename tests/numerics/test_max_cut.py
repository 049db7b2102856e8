"""Local search finds cuts of at least half of all weight, the largest ones of small graphs, the same for a seed."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.max_cut import cut_weight, max_cut

GRAPHS = st.integers(2, 7).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.dictionaries(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda edge: edge[0] < edge[1]),
            st.floats(0, 10),
            max_size=12,
        ),
    )
)


@given(GRAPHS, st.integers(0, 5))
def test_at_least_half_of_all_weight_is_cut_and_never_more_than_the_largest_cut(
    graph: tuple[int, dict[tuple[int, int], float]], seed: int
) -> None:
    nodes, weights = graph
    sides = max_cut(weights, nodes, seed=seed)
    total = sum(weights.values())
    largest = max(sum(w for (a, b), w in weights.items() if s[a] != s[b]) for s in product((True, False), repeat=nodes))
    assert total / 2 - 1e-6 <= cut_weight(weights, sides) <= largest + 1e-9
    assert sides == max_cut(weights, nodes, seed=seed)
    for node in range(nodes):  # no single move makes it larger: the reason for the half
        moved = [not side if place == node else side for place, side in enumerate(sides)]
        assert cut_weight(weights, moved) <= cut_weight(weights, sides) + 1e-6


def test_a_bipartite_graph_is_cut_whole() -> None:
    weights = {(a, b): 1.0 + a for a in range(4) for b in range(4, 8)}
    assert cut_weight(weights, max_cut(weights, 8, seed=1)) == sum(weights.values())


@pytest.mark.parametrize("edge", [(0, 0), (0, 5), (-1, 1)])
def test_edges_that_are_none_are_refused(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="none between two of 3 nodes"):
        max_cut({edge: 1.0}, 3, seed=0)
    with pytest.raises(ValueError, match="weight -1"):
        max_cut({(0, 1): -1.0}, 3, seed=0)

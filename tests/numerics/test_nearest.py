"""Nearest vectors and the probabilities made of them, against loops that write the formulas down."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics import nearest as module
from keeps.numerics.nearest import adaptive_share, interpolated, nearest, neighbour_weights, token_probabilities

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.integers(1, 15))


@given(SIZES, st.integers(0, 10_000))
def test_blocks_find_what_a_loop_over_all_vectors_finds(sizes: tuple[int, ...], seed: int) -> None:
    rows, count, width, k, block = sizes
    draw = torch.Generator().manual_seed(seed)
    vectors, queries = torch.randn(count, width, generator=draw), torch.randn(rows, width, generator=draw)
    distances, places = nearest(queries, vectors.split(block), k)
    assert distances.shape == places.shape == (rows, min(k, count))
    for query, found, which in zip(queries, distances, places, strict=True):
        wanted = sorted(math.fsum((float(a) - float(b)) ** 2 for a, b in zip(query, v, strict=True)) for v in vectors)
        assert found.tolist() == pytest.approx(wanted[:k], rel=1e-4, abs=1e-6)
        assert len(set(which.tolist())) == len(which)
        again = [float(((query - vectors[number]) ** 2).sum()) for number in which]
        assert again == pytest.approx(found.tolist(), rel=1e-4, abs=1e-6)


def test_close_vectors_far_from_zero_have_exact_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELEMENTS", 10)  # one query at a time
    vectors = torch.full((3, 4), 1000.0) + torch.tensor([0.0, 0.25, 0.5])[:, None]
    distances, places = nearest(vectors[:2].clone(), [vectors], 1)
    assert (distances.tolist(), places.tolist()) == ([[0.0], [0.0]], [[0], [1]])
    distances, _ = nearest(vectors[:1], [vectors], 3)
    assert distances.tolist() == [[0.0, 0.25, 1.0]]


@given(
    st.integers(1, 4), st.integers(1, 12), st.integers(2, 7), st.floats(0.1, 5), st.floats(0, 1), st.integers(0, 999)
)
def test_the_mixture_is_the_one_of_a_naive_loop_and_sums_to_one(
    rows: int, k: int, vocabulary: int, temperature: float, share: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    distances = torch.rand(rows, k, generator=draw, dtype=torch.float64) * 20
    tokens = torch.randint(vocabulary, (rows, k), generator=draw)
    lm = torch.randn(rows, vocabulary, generator=draw, dtype=torch.float64).log_softmax(-1)
    p_knn = token_probabilities(neighbour_weights(distances, temperature), tokens, vocabulary)
    mixed = interpolated(lm, p_knn, share).exp()
    assert mixed.sum(-1).tolist() == pytest.approx([1.0] * rows, abs=1e-9)
    for row in range(rows):
        parts = [math.exp(-float(d) / temperature) for d in distances[row]]
        for token in range(vocabulary):
            votes = sum(p for p, t in zip(parts, tokens[row].tolist(), strict=True) if t == token) / sum(parts)
            expected = share * votes + (1 - share) * math.exp(float(lm[row, token]))
            assert float(mixed[row, token]) == pytest.approx(expected, abs=1e-9)


def test_a_share_of_nothing_is_the_model_bit_for_bit_and_one_of_all_is_the_neighbours() -> None:
    lm = torch.randn(2, 5).log_softmax(-1)
    p_knn = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0]])
    assert torch.equal(interpolated(lm, p_knn, 0.0), lm)
    torch.testing.assert_close(interpolated(lm, p_knn, 1.0).exp(), p_knn)
    rows = interpolated(lm, p_knn, torch.tensor([[0.0], [1.0]]))
    assert torch.equal(rows[0], lm[0])
    torch.testing.assert_close(rows[1].exp(), p_knn[1])


def test_an_adaptive_share_falls_with_the_distance() -> None:
    found = adaptive_share(0.5, torch.tensor([0.0, 2.0, 1e6]), 2.0)
    assert found.tolist() == pytest.approx([0.5, 0.5 / math.e, 0.0])

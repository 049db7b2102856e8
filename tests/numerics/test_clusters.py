"""Spherical k-means and density clusters against what must hold of any clustering, and against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import EmptySetError, SettingsError
from keeps.numerics.clusters import density_clusters, inertia, nearest_centres, spherical_kmeans, unit_rows


def around(seed: int = 0, topics: int = 4, each: int = 15, noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    centres = unit_rows(torch.randn(topics, 16, generator=chance))
    labels = torch.arange(topics).repeat(each)
    return unit_rows(centres[labels] + noise * torch.randn(len(labels), 16, generator=chance)), labels


def partition(labels: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset((labels == label).nonzero()[:, 0].tolist()) for label in labels.unique()}


def test_planted_topics_are_found_by_all_and_agree_with_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    vectors, labels = around()
    other = KMeans(4, n_init=5, random_state=0).fit(vectors.numpy())  # pyright: ignore[reportArgumentType]
    assert partition(torch.from_numpy(other.labels_)) == partition(labels)
    for found in (spherical_kmeans(vectors, 4), density_clusters(vectors)):
        assert partition(found.labels) == partition(labels)
        assert found.sizes.tolist() == [15] * 4
        torch.testing.assert_close(found.centres.norm(dim=1), torch.ones(4).double())


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_full_kmeans_never_has_more_inertia_than_its_seeding(seed: int, k: int) -> None:
    vectors = torch.randn(20, 5, generator=torch.Generator().manual_seed(seed))
    seeded = spherical_kmeans(vectors, k, seed=seed, init_only=True)
    full = spherical_kmeans(vectors, k, seed=seed, restarts=1)
    assert inertia(vectors, full.centres) <= inertia(vectors, seeded.centres) + 1e-9
    assert all(bool((unit_rows(vectors) == centre).all(1).any()) for centre in seeded.centres)


def test_seeding_picks_what_the_official_code_would_pick() -> None:
    from sklearn.cluster import kmeans_plusplus

    vectors, _ = around(3)
    expected, _ = kmeans_plusplus(vectors.numpy(), n_clusters=5, random_state=512)
    torch.testing.assert_close(
        spherical_kmeans(vectors, 5, seed=512, init_only=True).centres, torch.from_numpy(expected)
    )


def test_inertia_is_the_sum_of_squared_distances_to_the_nearest_centre() -> None:
    vectors, _ = around(1)
    centres = vectors[:3]
    expected = torch.cdist(vectors, centres).square().min(1).values.sum()
    assert inertia(vectors, centres) == pytest.approx(float(expected))
    assert torch.equal(nearest_centres(vectors, centres), torch.cdist(vectors, centres).argmin(1))


def test_noise_moves_no_centre_unless_it_shall_be_a_cluster_of_its_own() -> None:
    vectors, _ = around(2, topics=3, each=20, noise=0.02)
    far = unit_rows(torch.randn(4, 16, generator=torch.Generator().manual_seed(9)))
    together = torch.cat([vectors, far])
    found = density_clusters(together)
    assert len(found.centres) == 3
    assert len(found.labels) == 64
    for label in found.labels[:60].unique():
        expected = unit_rows(vectors[found.labels[:60] == label].mean(0, keepdim=True))[0]
        torch.testing.assert_close(found.centres[label], expected)
    assert len(density_clusters(together, noise_as_cluster=True).centres) == 4


def test_more_clusters_than_vectors_and_clusters_of_nothing_are_refused() -> None:
    vectors, _ = around(each=1)
    for k in (0, 5):
        with pytest.raises(SettingsError, match=f"{k} clusters cannot be made of 4 questions"):
            spherical_kmeans(vectors, k)
    with pytest.raises(SettingsError, match="too few for HDBSCAN"):
        density_clusters(vectors)
    with pytest.raises(EmptySetError, match="finds no cluster"):
        density_clusters(torch.eye(12))

"""Groups of unit vectors: spherical k-means, density-based clusters, the nearest centre by cosine.

Sources:
    Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", Machine Learning 42
    (2001): spherical k-means. Arthur and Vassilvitskii, SODA 2007: k-means++ seeding. Campello, Moulavi and Sander,
    PAKDD 2013: HDBSCAN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeps.errors import EmptySetError, MissingDependencyError, SettingsError

RESTARTS = 10
ITERATIONS = 100
MIN_CLUSTER = 5  # members of a cluster of HDBSCAN, and neighbours of its core points


@dataclass(frozen=True)
class Clusters:
    """Centres ``(k, d)`` of length 1, float64, and the nearest one of each vector ``(n,)``, int64."""

    centres: Tensor
    labels: Tensor

    @property
    def sizes(self) -> Tensor:
        """Members of each cluster, ``(k,)``."""
        return torch.bincount(self.labels, minlength=len(self.centres))


def unit_rows(vectors: Tensor) -> Tensor:
    """``vectors`` ``(n, d)`` in float64 at length 1; a zero vector stays zero."""
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def nearest_centres(vectors: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre with the highest cosine for each vector, ``(n,)``; the first of equal ones."""
    cosines = unit_rows(vectors) @ unit_rows(centres).T
    return (cosines == cosines.max(1, keepdim=True).values).int().argmax(1)


def inertia(vectors: Tensor, centres: Tensor) -> float:
    """Sum over vectors of the squared distance to the nearest centre, Σ (2 - 2 cos), all at length 1."""
    return float((2 - 2 * (unit_rows(vectors) @ unit_rows(centres).T).max(1).values).clamp(min=0).sum())


def spherical_kmeans(
    vectors: Tensor, k: int, *, seed: int = 0, init_only: bool = False, restarts: int = RESTARTS
) -> Clusters:
    """k-means on the sphere: a centre is the mean of its members, scaled to length 1.

    The first restart begins at the seeding of ``seed``, so that the inertia is never above that of the seeding.

    Args:
        vectors: ``(n, d)``.
        init_only: stop after the k-means++ seeding, as the official code of LSKExtractor does; centres are then
            k of the vectors.

    Raises:
        SettingsError: ``k`` is below 1 or above the number of vectors.
        MissingDependencyError: scikit-learn is not installed.
    """
    if not 1 <= k <= len(vectors):
        mend = f"choose 1 to {len(vectors)} clusters, or give more questions"
        raise SettingsError(f"{k} clusters cannot be made of {len(vectors)} questions", where="clusters", mend=mend)
    rows = unit_rows(vectors)
    if init_only:
        centres = _seeding(rows, k, seed)
        return Clusters(centres, nearest_centres(rows, centres))
    found = [_lloyd(rows, _seeding(rows, k, seed + 7919 * turn)) for turn in range(max(restarts, 1))]
    best = min(found, key=lambda centres: inertia(rows, centres))
    return Clusters(best, nearest_centres(rows, best))


def density_clusters(
    vectors: Tensor, *, min_cluster: int = MIN_CLUSTER, min_samples: int = MIN_CLUSTER, noise_as_cluster: bool = False
) -> Clusters:
    """HDBSCAN on vectors at length 1; what it calls noise joins the nearest centre and moves none.

    Args:
        noise_as_cluster: give the noise a centre of its own, as the official code does by shifting its label from
            -1 to 0.

    Raises:
        EmptySetError: everything is noise.
        SettingsError: fewer vectors than a cluster needs.
        MissingDependencyError: scikit-learn is not installed.
    """
    if len(vectors) <= max(min_cluster, min_samples):
        mend = "lower min_cluster, choose k-means, or give more questions"
        raise SettingsError(f"{len(vectors)} questions are too few for HDBSCAN", where="clustering", mend=mend)
    rows = unit_rows(vectors)
    model = _sklearn().HDBSCAN(min_cluster_size=min_cluster, min_samples=min_samples, copy=True)
    given = torch.from_numpy(model.fit_predict(rows.numpy())).long()
    names = [label for label in given.unique().tolist() if label >= 0 or (noise_as_cluster and label == -1)]
    if not names:
        mend = "choose k-means, or lower min_cluster"
        raise EmptySetError("HDBSCAN finds no cluster in these questions", where="clustering", mend=mend)
    centres = unit_rows(torch.stack([rows[given == label].mean(0) for label in names]))
    return Clusters(centres, nearest_centres(rows, centres))


def _lloyd(rows: Tensor, centres: Tensor) -> Tensor:
    """Assign and average until no vector moves; an empty centre moves to the vector that is farthest from its own."""
    labels = nearest_centres(rows, centres)
    for _ in range(ITERATIONS):
        sums = torch.zeros_like(centres).index_add_(0, labels, rows)
        empty = torch.bincount(labels, minlength=len(centres)) == 0
        centres = torch.where(empty[:, None] | (sums.norm(dim=1, keepdim=True) == 0), centres, unit_rows(sums))
        for index in empty.nonzero()[:, 0].tolist():
            centres[index] = rows[(rows @ centres.T).max(1).values.argmin()]
        moved = nearest_centres(rows, centres)
        if bool((moved == labels).all()):
            break
        labels = moved
    return centres


def _seeding(rows: Tensor, k: int, seed: int) -> Tensor:
    centres, _ = _sklearn().kmeans_plusplus(rows.numpy(), n_clusters=k, random_state=seed % 2**32)
    return torch.from_numpy(centres)


def _sklearn() -> Any:
    try:
        from sklearn import cluster
    except ImportError:
        mend = "pip install scikit-learn"
        raise MissingDependencyError("clustering needs scikit-learn", where="clustering", mend=mend) from None
    return cluster

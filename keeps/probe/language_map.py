"""A map from topics to expert languages: centres of meaning, and what each language knows of each topic.

Agarwal et al. 2025 (arXiv:2505.14990), stage 1: English questions are embedded and clustered, and each cluster gets
the language in which most of its questions were answered rightly. The map is a JSON file with what it was made of,
and a safetensors file with centres and table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.errors import RecordError, SettingsError, StorageError
from keeps.numerics.clusters import MIN_CLUSTER, Clusters, density_clusters, nearest_centres, spherical_kmeans
from keeps.numerics.routing import RoutingTable, routing_table
from keeps.probe.similarity import TextSimilarity
from keeps.weights.files import atomic_write_bytes, load_tensors, save_tensors

FORMAT = 1
JSON_FILE, TENSOR_FILE = "map.json", "map.safetensors"
KMEANS, SEEDING, DENSITY = "kmeans", "seeding", "hdbscan"
CLUSTERINGS = (KMEANS, SEEDING, DENSITY)
ENGLISH = "en"


@dataclass(frozen=True)
class LanguageMap:
    """Which language answers a question best, by the nearest centre.

    Attributes:
        languages: codes, in the order of the table's columns.
        centres: ``(k, d)`` float64, length 1.
        table: accuracy by cluster and language.
        encoder: name of the sentence encoder, "" for the embedded one.
        prefix: what stands before each question when it is embedded.
        made_of: settings and number of questions, for people to read.
    """

    languages: tuple[str, ...]
    centres: Tensor
    table: RoutingTable
    encoder: str = ""
    prefix: str = ""
    made_of: Mapping[str, Any] = field(default_factory=dict)

    @property
    def experts(self) -> list[str]:
        """The expert language of each cluster."""
        return [self.languages[index] for index in self.table.experts.tolist()]

    @property
    def best_single(self) -> str:
        """The language that is best over all topics."""
        return self.languages[self.table.best_single]

    def clusters_of(self, vectors: Tensor) -> Tensor:
        """The cluster of each vector, ``(n,)``.

        Raises:
            SettingsError: the vectors are of another encoder.
        """
        if vectors.shape[1] != self.centres.shape[1]:
            what = f"the map has vectors of {self.centres.shape[1]} numbers, these have {vectors.shape[1]}"
            raise SettingsError(what, where="encoder", mend="use the encoder of the map")
        return nearest_centres(vectors, self.centres)

    def route(self, questions: Sequence[str], encoder: Any = None) -> list[str]:
        """The expert language of each English question; exactly one each.

        Args:
            encoder: anything with ``encode``; by default the map's own one.
        """
        if not questions:
            return []
        vectors = question_vectors(questions, TextSimilarity(encoder, name=self.encoder), self.prefix)
        return [self.experts[cluster] for cluster in self.clusters_of(vectors).tolist()]

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``map.json`` and ``map.safetensors`` into a folder, which is made if need be."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the folder cannot be made ({error})", where=str(folder), mend="name another") from None
        table = self.table
        tensors = {
            "centres": self.centres,
            **{name: getattr(table, name) for name in RoutingTable.__dataclass_fields__},
        }
        save_tensors(folder / TENSOR_FILE, tensors)
        plain = {
            "format": FORMAT,
            "languages": list(self.languages),
            "encoder": self.encoder,
            "prefix": self.prefix,
            "experts": self.experts,
            "best_single": self.best_single,
            "made_of": dict(self.made_of),
        }
        text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
        atomic_write_bytes(folder / JSON_FILE, text.encode())
        return [folder / JSON_FILE, folder / TENSOR_FILE]

    @classmethod
    def load(cls, folder: str | Path) -> LanguageMap:
        """Read a folder that :meth:`save` wrote.

        Raises:
            StorageError: a file is missing or damaged, or of another format.
        """
        folder = Path(folder)
        mend = "name a folder with a map, or make it again"
        try:
            plain = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"there is no map that can be read ({error})", where=str(folder), mend=mend) from None
        tensors = load_tensors(folder / TENSOR_FILE)
        names = list(RoutingTable.__dataclass_fields__)
        if not isinstance(plain, dict) or plain.get("format") != FORMAT or not {"centres", *names} <= set(tensors):
            raise StorageError("the map is of another format, or damaged", where=str(folder), mend=mend)
        languages = tuple(plain.get("languages", ()))
        table = RoutingTable(**{name: tensors[name] for name in names})
        if tuple(table.ranked.shape) != (len(tensors["centres"]), len(languages)):
            raise StorageError("centres, table and languages of the map do not fit", where=str(folder), mend=mend)
        own = {name: plain.get(name, "") for name in ("encoder", "prefix")}
        return cls(languages, tensors["centres"], table, **own, made_of=plain.get("made_of", {}))


def clustered(
    vectors: Tensor, *, clusters: int, clustering: str = KMEANS, min_cluster: int = MIN_CLUSTER, seed: int = 0
) -> Clusters:
    """Clusters by one of :data:`CLUSTERINGS`; see :mod:`keeps.numerics.clusters`."""
    if clustering == DENSITY:
        return density_clusters(vectors, min_cluster=min_cluster, min_samples=min_cluster)
    return spherical_kmeans(vectors, clusters, seed=seed, init_only=clustering == SEEDING)


def fit_map(
    vectors: Tensor,
    correct: Tensor,
    languages: Sequence[str],
    *,
    clusters: int,
    clustering: str = KMEANS,
    min_cluster: int = MIN_CLUSTER,
    support: int = 20,
    shrink: float = 20.0,
    seed: int = 0,
    encoder: str = "",
    prefix: str = "",
) -> LanguageMap:
    """The map of vectors ``(n, d)`` and correctness ``(n, L)``; the paper has no ``support`` and no ``shrink``."""
    found = clustered(vectors, clusters=clusters, clustering=clustering, min_cluster=min_cluster, seed=seed)
    english = list(languages).index(ENGLISH) if ENGLISH in languages else 0
    table = routing_table(found.labels, correct, len(found.centres), english=english, support=support, shrink=shrink)
    made_of = {
        "questions": len(vectors),
        "clustering": clustering,
        "clusters": len(found.centres),
        "support": support,
        "shrink": shrink,
        "seed": seed,
    }
    return LanguageMap(tuple(languages), found.centres, table, encoder, prefix, made_of)


def map_of_questions(
    questions: Sequence[str],
    correct: Mapping[str, Sequence[bool]],
    *,
    encoder: Any = None,
    encoder_name: str = "",
    prefix: str = "",
    clusters: int = 48,
    **options: Any,
) -> LanguageMap:
    """The map of English questions and of what each language got right, without a probe.

    Args:
        correct: language code to one flag a question.
        encoder: anything with ``encode``; by default the one called ``encoder_name``, and the embedded one for "".
        clusters: the paper's 48 are for 5,000 questions.
        options: as of :func:`fit_map`.

    Raises:
        RecordError: a language has another number of flags than there are questions.
        SettingsError: more clusters than questions.
    """
    for code, flags in correct.items():
        if len(flags) != len(questions):
            what = f"{len(flags)} answers for {len(questions)} questions"
            raise RecordError(what, where=code, mend="give one flag a question")
    vectors = question_vectors(questions, TextSimilarity(encoder, name=encoder_name), prefix)
    table = torch.tensor([list(flags) for flags in correct.values()], dtype=torch.bool).T
    named = {"encoder": encoder_name, "prefix": prefix}
    return fit_map(vectors, table, tuple(correct), clusters=clusters, **named, **options)


def question_vectors(questions: Sequence[str], similarity: TextSimilarity, prefix: str = "") -> Tensor:
    """Questions with the encoder's prefix as vectors of length 1, ``(n, d)`` float32."""
    return similarity.vectors([prefix + text for text in questions])

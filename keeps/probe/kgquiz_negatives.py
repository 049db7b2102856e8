"""Wrong tails for a triple: at random, alike in meaning, of the same relation, or near in the graph.

None of them is a fact of the graph, in whatever case it is written, and none is the head. Source: KGQuiz (Bai et al.
2024, arXiv:2310.09725), section 3.1.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from keeps.data.triples import Triple, TripleSet, name_key
from keeps.errors import EmptySetError
from keeps.probe.similarity import TextSimilarity

if TYPE_CHECKING:
    from torch import Tensor

STRATEGIES = ("ss", "random", "rs", "np")
NAMES = {"ss": "semantic similarity", "random": "random", "rs": "relation sharing", "np": "network proximity"}
RESERVOIR = 20  # pools that fit into what is embedded of a large graph


class Negatives:
    """Draws wrong tails; what is drawn for a triple depends on graph, seed and strategy alone.

    Args:
        graph: whose facts are true.
        pool: entities drawn at random, of which semantic similarity takes the nearest ones. A small pool makes it
            the same as random.
        similarity: embeds names.
    """

    def __init__(self, graph: TripleSet, *, pool: int, seed: int, similarity: TextSimilarity | None = None) -> None:
        self.graph, self.pool, self.seed = graph, pool, seed
        self.similarity = similarity or TextSimilarity()

    def enough(self, triple: Triple, strategy: str, count: int) -> bool:
        """Whether there are ``count`` different wrong tails; embeds nothing."""
        return len(list(islice(self._candidates(triple, strategy), count))) == count

    def draw(self, triple: Triple, strategy: str, count: int) -> tuple[str, ...]:
        """``count`` different wrong tails.

        Raises:
            EmptySetError: there are fewer.
        """
        wanted = max(self.pool, count) if strategy == "ss" else count
        found = list(islice(self._candidates(triple, strategy), wanted))
        if len(found) < count:
            what = f'"{self.graph.statement(triple)}" has {len(found)} wrong tails by {NAMES[strategy]}, not {count}'
            raise EmptySetError(what, where=self.graph.source, mend="choose another strategy or fewer options")
        return tuple(self._nearest(triple.tail, found, count) if strategy == "ss" else found)

    def _nearest(self, tail: str, names: Sequence[str], count: int) -> list[str]:
        matrix, places = self._embedded
        rows = matrix[[places[name] for name in names]]
        cosines = (rows @ self.similarity.vectors([tail])[0]).tolist()
        order = sorted(range(len(names)), key=lambda index: (-cosines[index], names[index]))
        return [names[index] for index in order[:count]]

    def _candidates(self, triple: Triple, strategy: str) -> Iterator[str]:
        """Wrong tails in random order, each name once."""
        source = random.Random(_seed(self.seed, strategy, triple.id))
        seen = {name_key(triple.tail), name_key(triple.head)}
        for name in self._source(triple, strategy, source):
            key = name_key(name)
            if key not in seen and not self.graph.holds(triple.head, triple.relation, name):
                seen.add(key)
                yield name

    def _source(self, triple: Triple, strategy: str, source: random.Random) -> Iterator[str]:
        if strategy == "random":
            yield from _shuffled(self.graph.entities, source)
        elif strategy == "ss":
            yield from _shuffled(self._reservoir, source)
        elif strategy == "rs":
            yield from _shuffled(self.graph.tails_of[triple.relation], source)
        else:
            yield from self._near(triple, source)

    def _near(self, triple: Triple, source: random.Random) -> Iterator[str]:
        """Entities joined to the head by another relation; then those two hops away."""
        one = [name for relation, name in self._joined(triple.head) if relation != triple.relation]
        yield from _shuffled(tuple(dict.fromkeys(one)), source)
        joined = dict.fromkeys(name for _, name in self._joined(triple.head))
        two = dict.fromkeys(name for middle in joined for _, name in self._joined(middle))
        yield from _shuffled(tuple(two), source)

    def _joined(self, name: str) -> Iterator[tuple[str, str]]:
        for triple in self.graph.outgoing.get(name, ()):
            yield triple.relation, triple.tail
        for triple in self.graph.incoming.get(name, ()):
            yield triple.relation, triple.head

    @cached_property
    def _reservoir(self) -> tuple[str, ...]:
        """What pools are drawn from: all entities, or so many that embedding them does not take hours."""
        entities = self.graph.entities
        if len(entities) <= RESERVOIR * self.pool:
            return entities
        return tuple(random.Random(_seed(self.seed, "reservoir")).sample(entities, RESERVOIR * self.pool))

    @cached_property
    def _embedded(self) -> tuple[Tensor, dict[str, int]]:
        """The reservoir's vectors, and the row of each name."""
        return self.similarity.vectors(self._reservoir), {name: row for row, name in enumerate(self._reservoir)}


def _shuffled(names: Sequence[str], source: random.Random) -> Iterator[str]:
    """``names`` in random order, drawn in growing parts so that a long list is not shuffled for a few."""
    taken: set[int] = set()
    size = 16
    while len(taken) < len(names):
        for index in source.sample(range(len(names)), min(size, len(names))):
            if index not in taken:
                taken.add(index)
                yield names[index]
        size *= 4


def _seed(*words: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, words)).encode()).digest()[:8], "big")

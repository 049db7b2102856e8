"""Walks through a knowledge graph: edges in both directions, distances, shortest paths, names found in texts.

An edge that is walked against its direction is said as "is RELATION of". All searches are bounded, know what they
have seen, and therefore end on graphs with cycles.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from keeps.data.triples import Triple, TripleSet, name_key, relation_label, squeezed
from keeps.errors import EmptySetError, SettingsError

LONGEST_NAME = 200  # characters of a name in a prompt
MOST_WORDS = 12  # of a name that is looked for in a text
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Hop:
    """An edge as it is walked.

    Attributes:
        inverse: from the tail of the triple to its head.
        sources: who says so: what the graph gives, else the id of the triple.
        text: the triple in words; where it is empty, relation and end stand for it.
    """

    start: str
    relation: str
    end: str
    inverse: bool = False
    sources: tuple[str, ...] = ()
    text: str = ""

    @property
    def label(self) -> str:
        """The relation in words, in the direction of walking.

        >>> Hop("Oslo", "capitalOf", "Norway").label, Hop("Norway", "capitalOf", "Oslo", inverse=True).label
        ('capital of', 'is capital of of')
        """
        words = one_line(relation_label(self.relation))
        return f"is {words} of" if self.inverse else words

    @property
    def arrow(self) -> str:
        """``relation -> entity``."""
        return f"{self.label} -> {one_line(self.end)}"

    @property
    def line(self) -> str:
        """What is offered and replied: the triple in words, else :attr:`arrow`."""
        return one_line(self.text) or self.arrow

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in a trace: the triple as the graph has it, and the direction."""
        head, tail = (self.end, self.start) if self.inverse else (self.start, self.end)
        return {
            "head": head,
            "relation": self.relation,
            "tail": tail,
            "inverse": self.inverse,
            "sources": list(self.sources),
        }


@runtime_checkable
class Walkable(Protocol):
    """What a walk asks of a graph."""

    @property
    def nodes(self) -> Sequence[str]:
        """Every entity once, in a fixed order."""
        ...

    def hops(self, node: str) -> Sequence[Hop]:
        """The edges of ``node``, in a fixed order; none where it is not in the graph."""
        ...


class TripleWalk:
    """Triples as something to walk on.

    Args:
        inverse: walk edges against their direction too.

    >>> graph = TripleWalk.of([Triple("Norway", "has capital", "Oslo")])
    >>> [hop.line for hop in graph.hops("Norway")], [hop.arrow for hop in graph.hops("Oslo")]
    (['Norway has capital Oslo'], ['is has capital of -> Norway'])
    """

    def __init__(self, triples: TripleSet, *, inverse: bool = True) -> None:
        self.triples, self.inverse = triples, inverse
        self._made: dict[str, tuple[Hop, ...]] = {}  # a search through a large graph asks for a node again and again

    @classmethod
    def of(cls, triples: Iterable[Triple], *, inverse: bool = True) -> TripleWalk:
        """See the class; repeated triples count once."""
        return cls(TripleSet.of("graph", triples), inverse=inverse)

    @property
    def nodes(self) -> Sequence[str]:
        """See :class:`Walkable`."""
        return self.triples.entities

    def hops(self, node: str) -> list[Hop]:
        """See :class:`Walkable`; outgoing edges first."""
        if node not in self._made:
            said, rows = self.triples.statement, self.triples.outgoing.get(node, ())
            found = [Hop(node, item.relation, item.tail, False, (item.id,), said(item)) for item in rows]
            rows = [item for item in self.triples.incoming.get(node, ()) if self.inverse and item.head != node]
            found += [Hop(node, item.relation, item.head, True, (item.id,), said(item)) for item in rows]
            self._made[node] = tuple(found)
        return list(self._made[node])


class StepWalk:
    """A :class:`keeps.graphs.KnowledgeGraph`, or what has its ``nodes`` and ``neighbours``, as something to walk on."""

    def __init__(self, graph: Any, *, inverse: bool = True) -> None:
        self.graph, self.direction = graph, "both" if inverse else "out"

    @property
    def nodes(self) -> Sequence[str]:
        """See :class:`Walkable`."""
        return self.graph.nodes

    def hops(self, node: str) -> list[Hop]:
        """See :class:`Walkable`; every edge in the words of its relation."""
        if node not in self.graph:
            return []
        found = []
        for edge in self.graph.neighbours(node, direction=self.direction):
            inverse = edge.head != node
            text = f"{edge.head} {relation_label(edge.relation)} {edge.tail}"
            end = edge.head if inverse else edge.tail
            found.append(Hop(node, edge.relation, end, inverse, tuple(edge.sources), text))
        return found


def walkable(source: Any, *, inverse: bool = True) -> Walkable:
    """``source`` as something to walk on: a knowledge graph, triples, or a set of them.

    Raises:
        SettingsError: it is none of these.
        EmptySetError: it holds no triple.
    """
    if isinstance(source, Walkable):
        return source
    if isinstance(source, TripleSet):
        return TripleWalk(source, inverse=inverse)
    if all(hasattr(source, name) for name in ("nodes", "neighbours", "__contains__")):
        if not source.nodes:
            raise EmptySetError("the graph holds no triple", where="source", mend="add at least one")
        return StepWalk(source, inverse=inverse)
    if not isinstance(source, Iterable) or isinstance(source, (str, bytes, Mapping)):
        mend = "give a knowledge graph, or triples"
        raise SettingsError(f"{type(source).__name__} is no knowledge graph", where="source", mend=mend)
    rows = [_triple(item) for item in source]
    if not rows:
        raise EmptySetError("the graph holds no triple", where="source", mend="add at least one")
    return TripleWalk.of(rows, inverse=inverse)


def _triple(item: Any) -> Triple:
    if isinstance(item, Triple):
        return item
    parts = [getattr(item, name, None) for name in ("head", "relation", "tail")]
    parts = list(item) if None in parts and isinstance(item, (tuple, list)) and len(item) == 3 else parts
    if not all(isinstance(part, str) for part in parts):
        raise SettingsError("an edge has no head, relation and tail", where=repr(item)[:60], mend="give triples")
    return Triple(*(str(part) for part in parts))


def distances(graph: Walkable, sources: Collection[str], limit: int) -> dict[str, int]:
    """Edges from the nearest of ``sources`` to every node at most ``limit`` away."""
    return dict(nearest_first(sources, lambda node: (hop.end for hop in graph.hops(node)), limit))


def nearest_first(
    sources: Collection[str], ends: Callable[[str], Iterable[str]], limit: int
) -> Iterator[tuple[str, int]]:
    """Every node at most ``limit`` edges away and its distance, nearest first; ``ends``: where a node's edges lead."""
    found = dict.fromkeys(sources, 0)
    yield from list(found.items())
    queue = deque(found)
    while queue and found[queue[0]] < limit:
        node = queue.popleft()
        for end in ends(node):
            if end not in found:
                found[end] = found[node] + 1
                queue.append(end)
                yield end, found[end]


def shortest_path(
    graph: Walkable, start: str, goals: Collection[str], limit: int, inside: Collection[str] | None = None
) -> list[Hop] | None:
    """The fewest edges from ``start`` to one of ``goals``; None where it takes more than ``limit``.

    Of several shortest paths the first in the graph's order; an empty one where ``start`` is a goal.

    Args:
        inside: walk through these nodes only.
    """
    came: dict[str, Hop | None] = {start: None}
    depth = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if node in goals:
            path: list[Hop] = []
            while (hop := came[node]) is not None:
                path.append(hop)
                node = hop.start
            return path[::-1]
        if depth[node] == limit:
            continue
        for hop in graph.hops(node):
            if hop.end not in came and (inside is None or hop.end in inside):
                came[hop.end], depth[hop.end] = hop, depth[node] + 1
                queue.append(hop.end)
    return None


def between(graph: Walkable, starts: Collection[str], ends: Collection[str], limit: int) -> list[str]:
    """Nodes on walks of at most ``limit`` edges from a start to an end, after both; edges as they may be walked."""
    here = distances(graph, starts, limit)
    before: dict[str, list[str]] = {}
    for node, far in here.items():
        for hop in graph.hops(node) if far < limit else ():
            before.setdefault(hop.end, []).append(node)
    there = dict.fromkeys(ends, 0)
    queue = deque(there)
    while queue:
        node = queue.popleft()
        for earlier in before.get(node, ()):
            if earlier not in there and here[earlier] + there[node] + 1 <= limit:
                there[earlier] = there[node] + 1
                queue.append(earlier)
    return list(dict.fromkeys([*starts, *ends, *(node for node in here if node in there)]))


class ExactLinker:
    """Finds the names of a graph's nodes in texts: whole words, whatever case; longer names before shorter ones.

    >>> linker = ExactLinker(["York", "New York", "Oslo"])
    >>> linker.find("Is new york, or is Oslo, the larger one?"), linker.find("Yorkshire")
    (['New York', 'Oslo'], [])
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        for node in nodes:
            self._names.setdefault(tuple(_words(node)), node)

    @cached_property
    def _longest(self) -> int:
        return min(max(map(len, self._names), default=0), MOST_WORDS)

    def whole(self, text: str) -> str | None:
        """The node whose name is ``text``."""
        return self._names.get(tuple(_words(text)))

    def find(self, text: str) -> list[str]:
        """The nodes named in ``text``, in its order, each once."""
        words, place = _words(text), 0
        found: dict[str, None] = {}
        while place < len(words):
            for length in range(min(self._longest, len(words) - place), 0, -1):
                node = self._names.get(tuple(words[place : place + length]))
                if node is not None:
                    found[node] = None
                    place += length - 1
                    break
            place += 1
        return list(found)


def one_line(name: str) -> str:
    """A name as it stands in a prompt: one line of limited length, so that it cannot pass for another line.

    >>> one_line("Oslo\\n\\nQuestion: who?")
    'Oslo Question: who?'
    """
    flat = squeezed(name)
    return flat if len(flat) <= LONGEST_NAME else flat[: LONGEST_NAME - 1] + "…"


def _words(text: str) -> list[str]:
    return _WORDS.findall(name_key(text))

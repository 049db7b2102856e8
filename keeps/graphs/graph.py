"""A knowledge graph in memory: edges with their sources, neighbours, what lies within some steps, shortest paths.

    graph = KnowledgeGraph()
    graph.add([Triple("Oslo", "capital of", "Norway")], source="atlas.tsv")
    graph.neighbours("Norway", direction="in")

Every edge knows who says so, and goes when its last source is taken back. Answers are in one order, whatever order the
triples came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from keeps.data.triples import Triple, squeezed
from keeps.data.walks import nearest_first
from keeps.errors import RecordError, SettingsError, UnknownNameError, nearest

DIRECTIONS = ("out", "in", "both")
RANKINGS = ("name", "degree", "sources")


@dataclass(frozen=True)
class Edge:
    """A triple and those who say so, in alphabetical order."""

    head: str
    relation: str
    tail: str
    sources: tuple[str, ...]

    @property
    def triple(self) -> Triple:
        """The edge without its sources."""
        return Triple(self.head, self.relation, self.tail)


@dataclass(frozen=True)
class Step:
    """One edge on a path, from ``start`` to ``end``; ``forward`` if that is its own direction."""

    edge: Edge
    forward: bool

    @property
    def start(self) -> str:
        return self.edge.head if self.forward else self.edge.tail

    @property
    def end(self) -> str:
        return self.edge.tail if self.forward else self.edge.head


class KnowledgeGraph:
    """Triples with provenance. ``len`` is the number of edges, ``in`` asks for a node, iteration gives edges."""

    def __init__(self) -> None:
        self._sources: dict[Triple, set[str]] = {}
        self._out: dict[str, set[Triple]] = {}
        self._in: dict[str, set[Triple]] = {}

    # --- changing ---------------------------------------------------------------------------------

    def add(self, triples: Iterable[Triple], source: str) -> int:
        """Add triples that ``source`` states; all of them, or none if one is refused.

        Returns:
            How many edges are new.

        Raises:
            RecordError: ``source`` or a part of a triple is empty.
        """
        if not source.strip():
            raise RecordError("the source is empty", where="KnowledgeGraph.add", mend="say where the triples are from")
        given = [_checked(triple, number) for number, triple in enumerate(triples, 1)]
        before = len(self)
        for triple in given:
            self._sources.setdefault(triple, set()).add(source)
            self._out.setdefault(triple.head, set()).add(triple)
            self._in.setdefault(triple.tail, set()).add(triple)
        return len(self) - before

    def remove(self, triples: Iterable[Triple] | None = None, source: str | None = None) -> int:
        """Take back what ``source`` states (of ``triples``, or all of it), or ``triples`` whoever states them.

        Returns:
            How many edges are gone: those that nobody states any more.

        Raises:
            SettingsError: neither triples nor a source are given.
            UnknownNameError: a triple, or the source, is not in the graph; nothing is removed.
        """
        if triples is None and source is None:
            raise SettingsError("nothing is named", where="KnowledgeGraph.remove", mend="give triples or a source")
        if triples is None:
            chosen = [triple for triple, sources in self._sources.items() if source in sources]
        else:
            chosen = [_checked(triple, number) for number, triple in enumerate(triples, 1)]
        for triple in chosen:
            if triple not in self._sources or (source is not None and source not in self._sources[triple]):
                what = f'no such edge: "{triple.head}" "{triple.relation}" "{triple.tail}"'
                raise UnknownNameError(what, where="KnowledgeGraph.remove", mend="check names and source")
        if not chosen and source is not None:
            mend = nearest(source, self.sources)
            raise UnknownNameError(f'there is no source "{source}"', where="KnowledgeGraph.remove", mend=mend)
        before = len(self)
        for triple in dict.fromkeys(chosen):
            if source is not None:
                self._sources[triple].discard(source)
            if source is None or not self._sources[triple]:
                del self._sources[triple]
                for side, node in ((self._out, triple.head), (self._in, triple.tail)):
                    side[node].discard(triple)
                    if not side[node]:
                        del side[node]
        return before - len(self)

    # --- reading ----------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[str]:
        """Every head and tail, in alphabetical order."""
        return sorted({*self._out, *self._in})

    @property
    def sources(self) -> list[str]:
        """Everyone who states something, in alphabetical order."""
        return sorted(set().union(*self._sources.values())) if self._sources else []

    def edge(self, triple: Triple) -> Edge:
        """The edge of a triple.

        Raises:
            UnknownNameError: there is none.
        """
        if triple not in self._sources:
            what = f'no such edge: "{triple.head}" "{triple.relation}" "{triple.tail}"'
            raise UnknownNameError(what, where="graph", mend="check the names")
        return Edge(triple.head, triple.relation, triple.tail, tuple(sorted(self._sources[triple])))

    def neighbours(
        self,
        node: str,
        direction: str = "both",
        limit: int | None = None,
        *,
        rank_by: str = "name",
        relations: Sequence[str] | None = None,
    ) -> list[Edge]:
        """The edges at ``node``; an unknown node has none.

        Args:
            direction: ``"out"``, ``"in"`` or ``"both"``.
            limit: at most so many.
            rank_by: which come first: by ``"name"``, by the other node's ``"degree"``, by number of ``"sources"``.
            relations: only these.
        """
        _choice("direction", direction, DIRECTIONS)
        _choice("rank_by", rank_by, RANKINGS)
        steps = self._steps(node, direction)
        if relations is not None:
            steps = [step for step in steps if step.edge.relation in relations]
        if rank_by == "degree":
            steps.sort(key=lambda step: -self.degree(step.end))
        elif rank_by == "sources":
            steps.sort(key=lambda step: -len(step.edge.sources))
        return list(dict.fromkeys(step.edge for step in steps))[:limit]

    def degree(self, node: str) -> int:
        """Edges at ``node``, in both directions; one that leads to itself counts twice."""
        return len(self._out.get(node, ())) + len(self._in.get(node, ()))

    def k_hop(self, node: str, k: int, direction: str = "both", limit: int | None = None) -> dict[str, int]:
        """Nodes within ``k`` steps of ``node`` and their distance, nearest first, ``node`` itself not among them.

        Args:
            limit: at most so many; farther ones are not visited.
        """
        _choice("direction", direction, DIRECTIONS)
        found = nearest_first([node], lambda at: (step.end for step in self._steps(at, direction)), k)
        return dict(islice(found, 1, None if limit is None else limit + 1))

    def shortest_paths(
        self, start: str, end: str, max_length: int = 4, direction: str = "both", limit: int | None = 100
    ) -> list[tuple[Step, ...]]:
        """Every shortest path from ``start`` to ``end``, in alphabetical order; none if there is none so short.

        Args:
            max_length: steps.
            limit: at most so many paths.
        """
        _choice("direction", direction, DIRECTIONS)
        if start == end or start not in self or end not in self:
            return []
        distances = {start: 0, **self.k_hop(start, max_length, direction)}
        if end not in distances:
            return []
        # from the end back, only over nodes that lie on a shortest path, so that no dead end is followed
        back = {"out": "in", "in": "out", "both": "both"}[direction]
        on_path = {end}
        frontier = [end]
        for far in range(distances[end] - 1, -1, -1):
            frontier = sorted(
                {step.end for node in frontier for step in self._steps(node, back) if distances.get(step.end) == far}
            )
            on_path.update(frontier)
        paths: list[tuple[Step, ...]] = []
        stack: list[tuple[Step, ...]] = [()]
        while stack and (limit is None or len(paths) < limit):
            path = stack.pop()
            at = path[-1].end if path else start
            if at == end:
                paths.append(path)
                continue
            further = [
                step
                for step in self._steps(at, direction)
                if step.end in on_path and distances[step.end] == len(path) + 1
            ]
            stack += [(*path, step) for step in reversed(further)]
        return paths

    def to_networkx(self) -> Any:
        """A ``networkx.MultiDiGraph`` whose edges have the relation as key and the attribute ``sources``."""
        import networkx

        made = networkx.MultiDiGraph()
        for edge in self:
            made.add_edge(edge.head, edge.tail, key=edge.relation, sources=list(edge.sources))
        return made

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, node: object) -> bool:
        return node in self._out or node in self._in

    def __iter__(self) -> Iterator[Edge]:
        for triple in sorted(self._sources, key=_key):
            yield self.edge(triple)

    def _steps(self, node: str, direction: str) -> list[Step]:
        """Steps from ``node``, by relation, other node and direction."""
        forward = sorted(self._out.get(node, ()), key=_key) if direction != "in" else []
        backward = sorted(self._in.get(node, ()), key=_key) if direction != "out" else []
        steps = [Step(self.edge(triple), True) for triple in forward]
        steps += [Step(self.edge(triple), False) for triple in backward]
        return sorted(steps, key=lambda step: (step.edge.relation, step.end, not step.forward))


def _key(triple: Triple) -> tuple[str, str, str]:
    return triple.head, triple.relation, triple.tail


def _checked(triple: Triple, number: int) -> Triple:
    made = Triple(squeezed(triple.head), squeezed(triple.relation), squeezed(triple.tail))
    if not (made.head and made.relation and made.tail):
        raise RecordError("a part of the triple is empty", where=f"triple {number}", mend="fill it in")
    return made


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SettingsError(f'{name} is "{value}"', where="KnowledgeGraph", mend=f"use {', '.join(known)}")

"""Graphs and questions for the claim of Knowledge Solver: names that no model has met, answers some hops away."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from keeps.data.triples import Triple, TripleSet
from keeps.data.walk_dialogues import WalkQuestion
from keeps.data.walks import Hop, TripleWalk, distances, shortest_path

SYLLABLES = "bra ke lo mi tun sar vel qui zor dan pel ru fi gos".split(" ")  # noqa: SIM905  (one line for each kind)
RELATIONS = "mentor rival neighbour cousin employer tailor doctor landlord patron pupil".split(" ")  # noqa: SIM905
NODES, EDGES, CHOICES = 200, 600, 4


@dataclass(frozen=True)
class Placed:
    """A question of which the shortest way is known; it passes no other choice."""

    question: WalkQuestion
    start: str
    way: tuple[Hop, ...]


def blank_graph(seed: int, count: int = 100) -> tuple[TripleWalk, list[Placed]]:
    """200 nodes, 600 edges, and ``count`` questions whose answer is two or three hops away."""
    chance = random.Random(seed)
    nodes = [f"Node{number}x" for number in range(NODES)]
    edges: set[tuple[str, str, str]] = set()
    while len(edges) < EDGES:
        head, tail = chance.sample(nodes, 2)
        edges.add((head, f"r{chance.randrange(9)}", tail))
    graph = TripleWalk.of([Triple(*edge) for edge in sorted(edges)], inverse=False)
    found: list[Placed] = []
    while len(found) < count:
        start = chance.choice(nodes)
        near = [node for node, steps in distances(graph, [start], 3).items() if steps >= 2]
        if len(near) < CHOICES:
            continue
        gold, *wrong = chance.sample(near, CHOICES)
        way = shortest_path(graph, start, {gold}, 3, set(nodes) - set(wrong))
        if way is not None and len(way) >= 2:
            asked = WalkQuestion(f"Where does {start} lead?", tuple(sorted([gold, *wrong])), gold)
            found.append(Placed(asked, start, tuple(way)))
    return graph, found


def people_graph(seed: int, *, shuffled: bool = False) -> TripleWalk:
    """200 invented people with three relations each; ``shuffled`` gives every edge another end."""
    chance = random.Random(seed)
    names: list[str] = []
    while len(names) < NODES:
        name = "".join(chance.choice(SYLLABLES) for _ in range(3)).capitalize()
        if name not in names:
            names.append(name)
    rows = [
        (name, relation, chance.choice([other for other in names if other != name]))
        for name in names
        for relation in chance.sample(RELATIONS, 3)
    ]
    if shuffled:
        ends = [end for *_, end in rows]
        chance.shuffle(ends)
        rows = [(head, relation, end) for (head, relation, _), end in zip(rows, ends, strict=True)]
    templates = {relation: f"The {relation} of {{h}} is {{t}}" for relation in sorted({row[1] for row in rows})}
    return TripleWalk(TripleSet.of("people", [Triple(*row) for row in rows], templates=templates), inverse=False)


def two_hop_questions(graph: TripleWalk, seed: int, count: int) -> list[WalkQuestion]:
    """``count`` questions; all choices are two hops from the person asked about, one by the named relations."""
    chance = random.Random(seed)
    found: list[WalkQuestion] = []
    for name in chance.sample(list(graph.nodes), len(graph.nodes)):
        ways = [
            (first.relation, second.relation, second.end)
            for first in graph.hops(name)
            for second in graph.hops(first.end)
            if second.end != name
        ]
        if not ways:
            continue
        first, second, gold = chance.choice(ways)
        wrong = sorted({end for *_, end in ways if end != gold})
        if len(wrong) < CHOICES - 1 or [way[:2] for way in ways].count((first, second)) > 1:
            continue
        options = [gold, *chance.sample(wrong, CHOICES - 1)]
        chance.shuffle(options)
        found.append(WalkQuestion(f"Who is the {second} of the {first} of {name}?", tuple(options), gold))
        if len(found) == count:
            break
    return found


def columns(questions: Sequence[WalkQuestion]) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
    """Questions, choices and answers."""
    return ([q.question for q in questions], [q.choices for q in questions], [q.answer for q in questions])

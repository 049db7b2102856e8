"""Knowledge Solver's claim on WN18RR: kinds of kinds of things that the graph holds, and CommonsenseQA.

The model walks as it is, and is compared with itself without knowledge, and on a graph whose edges lead elsewhere. For
questions of two hops the choices of each question have changed places there, so that the wrong graph has the shape of
the right one and leads to a wrong choice; for CommonsenseQA ends are exchanged among all edges of a relation. A wrong
graph may mislead below no knowledge: what is claimed is that it does not help.

How the relation of kinds is said, and asked for, was chosen on other questions than those reported (in words other than
those of the edges, such as "X is a kind of a kind of what?", a small model is led to other things of the same kind).

The paper's graph for CommonsenseQA is ConceptNet. WN18RR says little of everyday life and links fewer concepts; what
is linked is told. A choice that names no node can be answered by the last prompt alone (``fallback`` llm); the default
setting refuses such questions. The subgraph of three edges is the smallest in which most questions reach a choice
at all; a list of ten edges and three hops keep the claim within minutes. No answer was looked at for any of these.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.ksl_graphs import columns
from keeps.claims.ksl_wordnet import (
    Around,
    Linked,
    WordNet,
    commonsense_questions,
    displaced,
    exchanged,
    kind_questions,
    linked,
    read_wordnet,
    walk_of,
)
from keeps.contracts import Answer, Run
from keeps.data.triples import Triple
from keeps.data.walk_dialogues import WalkQuestion
from keeps.data.walks import TripleWalk
from keeps.errors import RecordError
from keeps.ground.kg_search import KGSearch, KGSearchSettings
from keeps.ground.walking import Chooser
from keeps.numerics.statistics import flips, mcnemar_exact, wilson

KINDS = {"default": 120, "full": 600}
SEED = 0  # of the questions, and of what is exchanged
GAIN, CONTROL = 0.10, 0.05  # the card's
PLAIN: Mapping[str, Any] = {"ranker": "order", "fallback": "llm"}
OPEN: Mapping[str, Any] = {"subgraph": 3, "max_neighbours": 10, "max_hops": 3, "fallback": "llm"}
NOTHING = "no knowledge"
WALK, WRONG = "walk", "walk, wrong graph"
Answers = Mapping[str, Sequence[Answer]]


def published_checks(model: Any, first: Chooser, data: Path, run: ClaimRun) -> Iterator[Check]:
    """Questions of two hops, then CommonsenseQA; ``first`` takes the first of what is offered, at no cost."""
    net = read_wordnet(data)
    graph = net.graph
    yield from kinds(model, net, graph, run)
    questions = commonsense_questions(data)
    yield refused(first, graph, questions)
    yield from commonsense(model, net, graph, questions, run)


# --- two hops ---------------------------------------------------------------------------------------


def kinds(model: Any, net: WordNet, graph: TripleWalk, run: ClaimRun) -> Iterator[Check]:
    """The graph holds every answer."""
    around = kind_questions(net, graph, SEED, KINDS[run.size])
    questions = [item.question for item in around]
    answers = three_ways(model, questions, graph, wrong_around(around), PLAIN, run, "two hops")
    run.tables["two hops"] = table(answers, questions)
    yield gained(f"{len(questions)} questions for the kind of a kind", answers, questions, GAIN)
    yield no_help("the same where the choices have changed places in the graph", answers, questions)
    yield replace(edges_known(graph, answers[WALK]), name="edges of the paths of two hops that are in WN18RR")


def wrong_around(around: Sequence[Around]) -> TripleWalk:
    """The edges around each question, its choices in each other's places."""
    chance = random.Random(SEED)
    return walk_of([triple for item in around for triple in displaced(item, chance)])


# --- CommonsenseQA ----------------------------------------------------------------------------------


def commonsense(
    model: Any, net: WordNet, graph: TripleWalk, questions: Sequence[WalkQuestion], run: ClaimRun
) -> Iterator[Check]:
    """Questions that the graph was not made for."""
    found = linked(graph, questions)
    answers = three_ways(model, questions, graph, wrong_everywhere(net), OPEN, run, "CommonsenseQA")
    run.tables["CommonsenseQA"] = table(answers, questions)
    run.tables["CommonsenseQA, linked"] = linking(found)
    yield gained(f"{len(questions)} questions of CommonsenseQA", answers, questions, 0.0)
    yield no_help("CommonsenseQA with the ends of edges exchanged", answers, questions)


def wrong_everywhere(net: WordNet) -> TripleWalk:
    """All edges, the ends exchanged among those of each relation."""
    chance = random.Random(SEED)
    by_relation: dict[str, list[Triple]] = defaultdict(list)
    for triple in net.triples:
        by_relation[triple.relation].append(triple)
    return walk_of([triple for own in by_relation.values() for triple in exchanged(own, chance)])


def linking(found: Linked) -> dict[str, float]:
    """What of questions and choices names a node."""
    count = len(found.starts)
    return {
        "share of choices": found.share,
        "share of questions with a start": sum(map(bool, found.starts)) / count,
        "share of questions with a start and every choice": sum(found.whole) / count,
        "starts of a question, mean": sum(map(len, found.starts)) / count,
    }


def refused(first: Chooser, graph: TripleWalk, questions: Sequence[WalkQuestion]) -> Check:
    """By default a question is refused exactly where it, or one of its choices, names no node."""
    found, wrong = linked(graph, questions), 0
    solver = KGSearch(KGSearchSettings(max_hops=1, subgraph=0, ranker="order"))(first, graph, run=Run(Path()))
    for item, whole in zip(questions, found.whole, strict=True):
        try:
            solver.choose([item.question], [item.choices])
            wrong += not whole
        except RecordError:
            wrong += whole
    note = f"{found.share:.2f} of the choices name a node; {sum(found.whole)} of {len(questions)} questions are linked"
    return Check("questions that are refused though linked, or walked though not", wrong, "0", wrong == 0, note=note)


# --- both -------------------------------------------------------------------------------------------


def three_ways(
    model: Any,
    questions: Sequence[WalkQuestion],
    graph: TripleWalk,
    wrong: TripleWalk,
    options: Mapping[str, Any],
    run: ClaimRun,
    name: str,
) -> dict[str, list[Answer]]:
    """Answers without knowledge, by walking, and by walking where edges lead elsewhere."""
    ways = {
        NOTHING: (graph, {"ranker": "order", "knowledge": "no_knowledge"}),
        WALK: (graph, options),
        WRONG: (wrong, options),
    }
    asked, choices, _ = columns(questions)
    found = {}
    for way, (source, settings) in ways.items():
        run.progress.message(f"{name}, {way}: {len(questions)} questions")
        solver = KGSearch(KGSearchSettings(**settings))(model, source, run=run.inside(Path()))
        found[way] = solver.choose(asked, choices)
    return found


def right(answers: Sequence[Answer], questions: Sequence[WalkQuestion]) -> list[bool]:
    """Which answers are right."""
    return [answer.text == item.answer for answer, item in zip(answers, questions, strict=True)]


def share(answers: Sequence[Answer], questions: Sequence[WalkQuestion]) -> float:
    """Of right answers."""
    return sum(right(answers, questions)) / len(questions)


def table(answers: Answers, questions: Sequence[WalkQuestion]) -> dict[str, Any]:
    """Of each way its share of right answers, of those supported by edges, and why walks ended."""
    return {
        way: {
            "right": share(own, questions),
            "supported": sum(bool(answer.trace["supported"]) for answer in own) / len(own),
            "stops": dict(Counter(answer.trace["stop"] for answer in own)),
        }
        for way, own in answers.items()
    }


def gained(name: str, answers: Answers, questions: Sequence[WalkQuestion], least: float) -> Check:
    """The walk against no knowledge; above it by any amount where ``least`` is 0."""
    before, after = right(answers[NOTHING], questions), right(answers[WALK], questions)
    learned, lost = flips(after, before)
    found, count = wilson(sum(after), len(after)), len(questions)
    note = f"{learned} gained, {lost} lost, exact McNemar p = {mcnemar_exact(learned, lost):.2g}"
    threshold = f"at least no knowledge + {least:.2f}" if least else "above no knowledge"
    holds = learned > lost and learned - lost >= least * count
    return Check(f"share of {name} answered rightly by walking", found.value, threshold, holds,
                 share(answers[NOTHING], questions), (found.low, found.high), note)  # fmt: skip


def no_help(name: str, answers: Answers, questions: Sequence[WalkQuestion]) -> Check:
    """What is wrong in the graph must not help."""
    value, nothing = share(answers[WRONG], questions), share(answers[NOTHING], questions)
    reached = sum(bool(answer.trace["supported"]) for answer in answers[WRONG])
    return Check(name, value, f"at most no knowledge + {CONTROL}", value <= nothing + CONTROL, nothing,
                 note=f"{reached} of {len(questions)} walks reached a choice")  # fmt: skip


def edges_known(graph: TripleWalk, answers: Sequence[Answer]) -> Check:
    """Every edge of a path is one of the graph."""
    known = set(graph.triples.triples)
    edges = [Triple(hop["head"], hop["relation"], hop["tail"]) for one in answers for hop in one.trace["path"]]
    there = sum(edge in known for edge in edges) / len(edges) if edges else 0.0
    return Check("edges of the paths that are in the graph", there, "1", there == 1, note=f"{len(edges)} edges")

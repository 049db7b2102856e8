"""Knowledge Solver: the model itself walks through a knowledge graph, hop by hop, and shows the path that it took.

From an entity of the question the model is offered the edges there, chooses one, and is asked again at the node that
it reached, until that node is an answer (Feng et al. 2023, arXiv:2309.03118). No retriever and no graph network is
trained. A model on this machine does not reply freely: every offered edge is scored,

    S(c) = log P(c | dialogue) - log P(c | dialogue without the question),   summed over the tokens of c,

so that a choice is always one that exists. Chats are read: the same words, then the name, then the most alike.

Use when: the knowledge is a graph of triples, such as WordNet or an export of Wikidata; questions take several hops;
an answer must come with the full path of facts behind it.

It stops, and says so: at an answer (``answer_node``), where the reply names an answer that is not offered
(``direct_answer``), after ``max_hops``, where no unvisited neighbour is left even one step back (``dead_end``), after
two replies that are no line of the list (``invalid_reply``), or before the first hop where no entity is linked
(``no_start``). In all but the first two a last prompt with the path chooses. Walks never visit a node twice unless
``returns`` allows it, so that cycles end. Paper and library leave open what is not published: prompts, stop rules and
the cut of long lists are this library's own. Without choices every node on the way is a possible answer.

A small model learns to walk from instruction data: ``keeps.data.walk_dialogues.walk_data`` makes them from
questions and the graph, ``keeps adapt --learn FILE --method lora`` trains on them, and the adapted model walks here.

Needs: a graph of triples; a language model on this machine, or any chat. Guarantees: every edge of the path is in the
graph; ``supported`` says whether the answer was reached by edges; a last reply that names no choice counts as the one
that it is most like; names in the graph are data on one line each.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keeps.contracts import Answer, Run
from keeps.data.walks import ExactLinker, Hop, Walkable, between, distances, walkable
from keeps.errors import RecordError, SettingsError
from keeps.ground.graph_walk import Task, Walked, WalkRules, facts_of, last_ask, walk
from keeps.ground.walking import Walking, answer_of, chooser_of, led
from keeps.models.checks import check_lengths, check_questions, short
from keeps.models.in_step import Cost
from keeps.registry import method
from keeps.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class KGSearchSettings(Settings):
    """Settings of the walk."""

    knowledge: str = setting(
        "walk",
        "Walk; or the baselines: no_knowledge (question and choices alone), all_triples (the whole subgraph in the "
        "prompt)",
        choices=("walk", "no_knowledge", "all_triples"),
    )
    max_hops: int = setting(5, "Most edges of a walk", ge=1, le=50)
    max_neighbours: int = setting(20, "Most edges offered at a node; those to answers are never cut", ge=1, le=1000)
    subgraph: int = setting(
        2, "Walk among nodes on paths of so many edges between question and choices; 0: anywhere", ge=0, le=20
    )
    max_nodes: int = setting(200, "Most nodes of the subgraph, those most like the question", ge=2)
    ranker: str = setting(
        "encoder", "What cuts long lists: likeness to the question, or their order", choices=("encoder", "order")
    )
    starts: int = setting(1, "Walks from different entities of the question; the answer of most of them counts", ge=1)
    inverse: bool = setting(True, "Walk edges against their direction too")
    returns: bool = setting(False, "Offer nodes that were visited", advanced=True)
    contrast: bool = setting(True, "Score by what the question adds; else by log-probability a token", advanced=True)
    scoring: str = setting("auto", "Score options where the model can, or read its replies", choices=("auto", "reply"))
    fallback: str = setting(
        "refuse", "Where question or choices name no node: refuse, or ask the model alone", choices=("refuse", "llm")
    )


@method(
    "kg_search",
    verb="ground",
    paper="arXiv:2309.03118",
    card="ksl",
    summary="Let the model walk through a knowledge graph hop by hop; the path is the explanation.",
    needs=("graph",),
    fits=("causal-lm", "chat"),
)
class KGSearch:
    """The model as the walker."""

    Settings = KGSearchSettings

    def __init__(self, settings: KGSearchSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Any = None, *, run: Run) -> KnowledgeSolver:
        """See :class:`keeps.sources.GroundMethod`; ``source`` is a graph, or triples.

        Raises:
            SettingsError: there is no graph, or the model is nothing that chats.
            EmptySetError: the graph holds no triple.
        """
        if source is None:
            raise SettingsError("there is no graph to walk on", where="kg_search", mend="give a graph of triples")
        return KnowledgeSolver(model, walkable(source, inverse=self.settings.inverse), self.settings, run)


class KnowledgeSolver:
    """An Answerer that walks. Many questions walk side by side, so that their choices are scored in batches."""

    def __init__(self, model: Any, graph: Walkable, settings: KGSearchSettings, run: Run, encoder: Any = None) -> None:
        self.chooser = chooser_of(model, settings.scoring)
        self.graph, self.settings, self.run = graph, settings, run
        self.linker = ExactLinker(graph.nodes)
        self._given = encoder

    @cached_property
    def encoder(self) -> Any:
        """What measures likeness to the question; loaded when a list is first cut."""
        from keeps.models.encoder import SentenceEncoder

        return self._given or SentenceEncoder.load(device=self.run.device)

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question: a node on the path that was walked, the model's choice of them in the end.

        ``citations`` are the sources of the edges on the path. The ``trace`` has ``path`` (triples), ``explanation``
        (the path in words), ``stop``, ``supported``, ``turns`` (what was offered and replied), ``starts``, ``calls``,
        ``prompt_tokens``, ``completion_tokens``, ``seconds``.

        Raises:
            RecordError: a question is empty, or names no node and ``fallback`` is ``"refuse"``.
            SettingsError: contexts are given, which are not read.
        """
        check_questions(questions)
        return self._answers(questions, [()] * len(questions), contexts)

    def choose(
        self, questions: Sequence[str], choices: Sequence[Sequence[str]], contexts: Sequence[str] | None = None
    ) -> list[Answer]:
        """As :meth:`answer`, where the answer is one of the ``choices`` of each question.

        Raises:
            RecordError: as :meth:`answer`; a question has no choices or one twice; a choice names no node and
                ``fallback`` is ``"refuse"``.
        """
        check_lengths(questions, choices, "choices")
        check_questions(questions)
        for place, options in enumerate(choices):
            if isinstance(options, str) or not options or len(set(options)) < len(options):
                mend = "give a list of different choices"
                raise RecordError("a question has no choices, or one twice", where=f"item {place + 1}", mend=mend)
        return self._answers(questions, [tuple(options) for options in choices], contexts)

    def _answers(
        self, questions: Sequence[str], choices: Sequence[tuple[str, ...]], contexts: Sequence[str] | None
    ) -> list[Answer]:
        if contexts is not None and any(context.strip() for context in contexts):
            mend = "leave the contexts out, or take a method that reads passages"
            raise SettingsError("contexts are not read by a walk through a graph", where="kg_search", mend=mend)
        tasks = [self._tasks(place, *pair) for place, pair in enumerate(zip(questions, choices, strict=True))]
        with self.run.progress.task("walking", len(questions)) as bar:
            flat = [task for own in tasks for task in own]
            done = iter(led(self.chooser, [self._led(task) for task in flat]))
            found = [self._answer([next(done) for _ in own]) for own in tasks]
            bar.advance(len(questions))
        return found

    def _tasks(self, place: int, question: str, choices: tuple[str, ...]) -> list[Task]:
        """One walk for each start of a question."""
        where = f"item {place + 1}: {short(question)}"
        whole = {choice: self.linker.whole(choice) for choice in choices}
        linked = {choice: (node,) if node else tuple(self.linker.find(choice)) for choice, node in whole.items()}
        missing = [choice for choice, nodes in linked.items() if not nodes]
        goals = _decisive(linked) | {node: choice for choice, node in whole.items() if node}
        starts = [node for node in self.linker.find(question) if node not in goals]
        if self.settings.fallback == "refuse" and self.settings.knowledge != "no_knowledge":
            mend = "write names as the graph has them, or choose fallback llm"
            if missing:
                raise RecordError(f"a choice names no node of the graph: {short(missing[0])}", where=where, mend=mend)
            if not starts:
                raise RecordError("the question names no node of the graph", where=where, mend=mend)
        chance = random.Random(f"{self.run.seed}:{place}")
        heads: list[str | None] = list(chance.sample(starts, min(self.settings.starts, len(starts)))) or [None]
        inside = self._inside(question, starts, list(goals))
        return [Task(question, choices, goals, head, inside) for head in heads]

    def _inside(self, question: str, starts: Sequence[str], goals: Sequence[str]) -> frozenset[str] | None:
        limit = self.settings.subgraph
        if not limit or not starts:
            return None
        if goals:
            nodes = between(self.graph, starts, goals, limit)
        else:
            nodes = list(distances(self.graph, starts, self.settings.max_hops))
        if len(nodes) <= self.settings.max_nodes:
            return frozenset(nodes)
        fixed = dict.fromkeys([*starts, *goals])
        others = [node for node in nodes if node not in fixed]
        room = max(self.settings.max_nodes - len(fixed), 0)
        return frozenset([*fixed, *self.ranked(question, others, others)[:room]])

    def ranked(self, question: str, items: Sequence[Any], texts: Sequence[str]) -> list[Any]:
        """``items`` by the likeness of their texts to the question, or in their order."""
        if self.settings.ranker == "order" or not items:
            return list(items)
        vectors = self.encoder.encode([text[:500] for text in (question, *texts)]).double()
        likeness = (vectors[1:] @ vectors[0]).tolist()
        return [items[n] for n in sorted(range(len(items)), key=lambda n: (-likeness[n], n))]

    def _led(self, task: Task) -> Walking[Walked]:
        if self.settings.knowledge == "walk":
            settings = self.settings
            rules = WalkRules(settings.max_hops, settings.max_neighbours, settings.returns, settings.contrast)
            return walk(self.graph, task, rules, self.ranked)
        return self._unwalked(task)

    def _unwalked(self, task: Task) -> Walking[Walked]:
        """The baselines: the choice with no fact, or with all facts of the subgraph, in the prompt."""
        facts: list[Hop] = []
        if self.settings.knowledge == "all_triples":
            facts = facts_of(self.graph, task.inside or (task.start,))
        options = task.choices or tuple(node for node in task.inside or () if node != task.start)
        if not options:
            return Walked("", [], "no_start", False, [])
        pick = yield last_ask(task.question, options, facts, contrast=self.settings.contrast)
        return Walked(answer_of(pick, options), [], self.settings.knowledge, False, [])

    def _answer(self, walks: Sequence[tuple[Walked, Cost]]) -> Answer:
        """The answer of most walks (the first of equally many), with the first of the walks that gave it."""
        votes = Counter(walked.answer for walked, _ in walks)
        most = max(votes.values())
        best = next(walked for walked, _ in walks if votes[walked.answer] == most)
        total = sum((cost for _, cost in walks), Cost())
        trace = {
            "method": "kg_search",
            **total.to_mapping(),
            "retrievals": 0,
            "passages": [],
            "stop": best.stop,
            "supported": best.supported,
            "unsupported": not best.supported,
            "path": [hop.to_mapping() for hop in best.path],
            "explanation": best.explanation,
            "turns": best.turns,
            "starts": [{"answer": w.answer, "stop": w.stop, "hops": len(w.path)} for w, _ in walks],
        }
        return Answer(best.answer, tuple(dict.fromkeys(source for hop in best.path for source in hop.sources)), trace)


def _decisive(linked: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Node to choice, for every node that one choice alone names.

    >>> _decisive({"red wine": ("red", "wine"), "white wine": ("white", "wine")})
    {'red': 'red wine', 'white': 'white wine'}
    """
    named = Counter(node for nodes in linked.values() for node in nodes)
    return {node: choice for choice, nodes in linked.items() for node in nodes if named[node] == 1}

"""One walk of Knowledge Solver: offers, choices, steps back, the reasons to stop, and the last prompt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keeps.data.walk_dialogues import Messages, Turn, choice_messages, choice_text, offers_at, walk_messages, walk_text
from keeps.data.walks import Hop, Walkable, one_line
from keeps.ground.walking import AGAIN, Ask, Pick, Walking, answer_of

STOPS = ("answer_node", "direct_answer", "max_hops", "dead_end", "invalid_reply", "no_start")
INVALID = 2  # replies in a row that are no option end a walk
MOST_FACTS = 400  # of the subgraph in one prompt

Ranked = Callable[[str, Sequence[Any], Sequence[str]], list[Any]]


@dataclass(frozen=True)
class WalkRules:
    """How far a walk goes and what it is offered."""

    max_hops: int = 5
    max_neighbours: int = 20
    returns: bool = False
    contrast: bool = True


@dataclass(frozen=True)
class Task:
    """A walk to do.

    Attributes:
        choices: empty where every node may be the answer.
        goals: node to choice.
        start: None where the question names no node.
        inside: nodes that may be walked through; None allows all.
    """

    question: str
    choices: tuple[str, ...]
    goals: Mapping[str, str]
    start: str | None
    inside: Collection[str] | None = None


@dataclass(frozen=True)
class Walked:
    """Where a walk ended.

    Attributes:
        supported: whether the answer is on the path, so that edges lead to it.
        turns: what was offered and replied, step by step.
    """

    answer: str
    path: list[Hop]
    stop: str
    supported: bool
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def explanation(self) -> str:
        """The path in words."""
        if not self.path:
            return ""
        return " ".join([one_line(self.path[0].start), *(f"-> {hop.arrow}" for hop in self.path)])


@dataclass
class _State:
    node: str
    path: list[Hop] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)


def walk(graph: Walkable, task: Task, rules: WalkRules, ranked: Ranked) -> Walking[Walked]:
    """Walk from ``task.start``; see :data:`STOPS` for how it ends."""
    if task.start is None:
        return (yield from _last(task, _State(""), "no_start", rules))
    state = _State(task.start, seen=[task.start])
    stop = "max_hops"
    while len(state.path) < rules.max_hops:
        offers = _offers(graph, task, state, rules, ranked)
        if not offers:
            stop = "dead_end"
            break
        pick = yield from _replied(task, state, offers, rules)
        if pick.other is not None:
            choice = task.choices[pick.other]
            state.trace.append({"at": state.node, "said": pick.said, "answer": choice})
            return Walked(choice, state.path, "direct_answer", _on_path(task, state, choice), state.trace)
        if pick.option is None:
            stop = "invalid_reply"
            break
        hop = offers[pick.option]
        state.turns.append(Turn(state.node, tuple(offers), hop.line))
        state.path.append(hop)
        state.seen.append(hop.end)
        state.node = hop.end
        if hop.end in task.goals:
            return Walked(task.goals[hop.end], state.path, "answer_node", True, state.trace)
    return (yield from _last(task, state, stop, rules))


def facts_of(graph: Walkable, nodes: Collection[str | None]) -> list[Hop]:
    """The edges among ``nodes`` in their own direction, at most :data:`MOST_FACTS`."""
    known = {node for node in nodes if node is not None}
    found = (hop for node in nodes if node is not None for hop in graph.hops(node))
    inside = [hop for hop in found if not hop.inverse and (hop.end in known or len(known) == 1)]
    return inside[:MOST_FACTS]


def _offers(graph: Walkable, task: Task, state: _State, rules: WalkRules, ranked: Ranked) -> list[Hop]:
    """The edges at the node, or one step back where there are none; then the walk goes on from there."""
    offers = offers_at(graph, state.node, state.seen, task.inside, returns=rules.returns)
    if not offers and state.path:
        back = state.path.pop()
        state.trace.append({"at": state.node, "back_to": back.start})
        state.node = back.start
        offers = offers_at(graph, state.node, state.seen, task.inside, returns=rules.returns)
    if len(offers) <= rules.max_neighbours:
        return offers
    goals = [hop for hop in offers if hop.end in task.goals]
    others = [hop for hop in offers if hop.end not in task.goals]
    best = ranked(task.question, others, [hop.line for hop in others])
    return [*goals, *best[: max(rules.max_neighbours - len(goals), 0)]]


def _replied(task: Task, state: _State, offers: Sequence[Hop], rules: WalkRules) -> Walking[Pick]:
    """The choice, asked twice where the first reply means nothing."""
    turns = [*state.turns, Turn(state.node, tuple(offers))]
    messages = walk_messages(task.question, task.choices, turns)
    text = walk_text(task.question, task.choices, turns)
    bare = walk_text(None, task.choices, turns) if rules.contrast else None
    options = tuple(hop.line for hop in offers)
    offered = {task.goals.get(hop.end) for hop in offers}
    others = tuple("" if choice in offered else choice for choice in task.choices)
    ask = Ask(messages, text, bare, options, tuple(hop.end for hop in offers), others)
    for _ in range(INVALID):
        pick = yield ask
        state.trace.append({"at": state.node, "offered": list(options), "said": pick.said, "scores": list(pick.scores)})
        if pick.option is not None or pick.other is not None:
            return pick
        ask = replace(ask, messages=_again(messages, pick.said))
    return Pick(None, pick.said)


def _again(messages: Messages, said: str) -> Messages:
    return (*messages, ("assistant", one_line(said) or "…"), ("user", AGAIN))


def _last(task: Task, state: _State, stop: str, rules: WalkRules) -> Walking[Walked]:
    """The last prompt: one of the choices, or of the nodes on the path, from the path."""
    options = task.choices or tuple(dict.fromkeys(hop.end for hop in state.path))
    if not options:
        return Walked("", state.path, stop, False, state.trace)
    pick = yield last_ask(task.question, options, state.path, contrast=rules.contrast)
    answer = answer_of(pick, options)
    state.trace.append({"at": state.node, "choices": list(options), "said": pick.said, "scores": list(pick.scores)})
    return Walked(answer, state.path, stop, _on_path(task, state, answer), state.trace)


def last_ask(question: str, options: tuple[str, ...], facts: Sequence[Hop], *, contrast: bool) -> Ask:
    """The choice of an answer from facts."""
    bare = choice_text(None, options, facts) if contrast else None
    return Ask(choice_messages(question, options, facts), choice_text(question, options, facts), bare, options)


def _on_path(task: Task, state: _State, answer: str) -> bool:
    return any(task.goals.get(hop.end, hop.end if not task.choices else None) == answer for hop in state.path)

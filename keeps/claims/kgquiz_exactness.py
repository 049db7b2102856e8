"""What KGQuiz must do exactly, without a model: scores of gold and empty answers, and what wrong names are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.contracts import Answer
from keeps.data.triples import Triple, TripleSet
from keeps.numerics.statistics import mean_interval
from keeps.probe.base import ModelRows
from keeps.probe.kgquiz import KGQuiz, KGQuizSettings, QuizProbe
from keeps.probe.kgquiz_items import EDITING, OPEN, Builder, Item
from keeps.probe.kgquiz_negatives import STRATEGIES, Negatives
from keeps.probe.kgquiz_plan import Domain, plan
from keeps.probe.sampling import stratified
from keeps.probe.similarity import TextSimilarity

EVERYTHING = KGQuizSettings(tasks=(1, 2, 3, 4, 5), negatives=STRATEGIES, extractor="sentences")
ASKED = 240  # questions of each kind in the check of the scores
ITEMS = 1000  # multiple choices whose gold option is located
SUBSET, POOL = 2000, 1000  # triples and pool in the check of the cosines
SCORES = ("accuracy", "exact_match", "f1", "lcs", "semantic_match", "any", "precision", "recall")


class Lookup:
    """Answers every question by ``rule``; what a perfect memory of the graph, or none, would say."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """See :class:`keeps.contracts.Answerer`."""
        del contexts
        return [Answer(self.rule(question)) for question in questions]


def exactness_checks(graph: TripleSet, run: ClaimRun) -> Iterator[Check]:
    """Checks 1 and 2 of the card."""
    probe = QuizProbe(plan([Domain("world", graph)], EVERYTHING, 0, ASKED), EVERYTHING, 0, [])
    items = [item for several in probe.items() for item in several]
    gold = {item.prompt: gold_text(item) for item in items}
    for name, rule, value in (("gold answers", gold.__getitem__, 1.0), ("empty answers", lambda _: "", 0.0)):
        found = _scores(probe, Lookup(rule))
        worst = max(abs(score - value) for score in found.values())
        holds = worst == 0 and len(found) > 0
        note = f"{len(items)} questions of all five tasks; {len(found)} figures by task and kind of wrong names"
        yield Check(f"scores of {name}", value if holds else worst, f"all {value:g}", holds, note=note)
    yield _balance(items)
    triples = stratified(graph.triples, SUBSET, 0, group=lambda t: t.relation, identity=lambda t: t.id)
    yield from _options(graph, triples[:ITEMS])
    yield from _negatives(graph, triples, run)


def gold_text(item: Item) -> str:
    """What a perfect memory of the graph answers."""
    if item.task == EDITING:
        return " | ".join([*item.parts[: item.slot], item.answer, *item.parts[item.slot + 1 :]])
    return "\n".join(item.facts) if item.task == OPEN else item.answer


def uniform_p(counts: Sequence[int]) -> float:
    """p of Pearson's test that four places are alike: P(χ² ≥ x) for 3 degrees of freedom, in closed form.

    >>> uniform_p([250, 250, 250, 250])
    1.0
    """
    if len(counts) != 4:
        raise ValueError(f"{len(counts)} places, not four")
    expected = sum(counts) / 4
    x = sum((count - expected) ** 2 for count in counts) / expected
    return math.erfc(math.sqrt(x / 2)) + math.sqrt(2 * x / math.pi) * math.exp(-x / 2)


def _scores(probe: QuizProbe, answerer: Any) -> dict[tuple[str, str], float]:
    measures = KGQuiz(probe.settings).measure([ModelRows("lookup", probe(answerer))]).measures
    return {
        (measure.metric, measure.group): measure.value
        for measure in measures
        if measure.metric.rpartition(".")[2] in SCORES and measure.value is not None
    }


def _balance(items: Sequence[Item]) -> Check:
    told = Counter((item.strategy, item.answer) for item in items if item.task == 1)
    worst = max(abs(told[name, "True"] - told[name, "False"]) for name in STRATEGIES)
    return Check("true less false statements of task 1", float(worst), "0 with every kind of wrong names", worst == 0)


def _options(graph: TripleSet, triples: Sequence[Triple]) -> Iterator[Check]:
    builder = Builder(graph, "world", Negatives(graph, pool=POOL, seed=0), seed=0)
    items = [builder.choice(triple, "random") for triple in triples]
    different = sum(len({name.casefold() for name in item.choices}) == 4 for item in items)
    threshold = f"all {len(items)} questions"
    yield Check("questions of four different options", float(different), threshold, different == len(items))
    places = Counter(item.choices.index(item.answer) for item in items)
    p = uniform_p([places[number] for number in range(4)])
    note = f"gold option at A to D: {[places[number] for number in range(4)]}"
    yield Check("p of a uniform place of the gold option", p, "above 0.01", p > 0.01, note=note)


def _negatives(graph: TripleSet, triples: Sequence[Triple], run: ClaimRun) -> Iterator[Check]:
    similarity = TextSimilarity()
    drawer = Negatives(graph, pool=POOL, seed=0, similarity=similarity)
    cosines: dict[str, list[float]] = {}
    false, typed, drawn = 0, 0, 0
    for strategy in STRATEGIES:
        pairs = [
            (triple, drawer.draw(triple, strategy, 1)[0]) for triple in triples if drawer.enough(triple, strategy, 1)
        ]
        false += sum(graph.holds(triple.head, triple.relation, name) for triple, name in pairs)
        drawn += len(pairs)
        if strategy == "rs":
            typed = len(pairs) - sum(name in graph.tails_of[triple.relation] for triple, name in pairs)
        tails, names = [triple.tail for triple, _ in pairs], [name for _, name in pairs]
        cosines[strategy] = similarity.cosines(tails, names)
    means = {name: mean_interval(values) for name, values in cosines.items()}
    run.tables["cosine of right and wrong tail"] = {name: vars(found) for name, found in means.items()}
    yield Check("wrong tails that are facts", float(false), f"none of {drawn}", false == 0)
    yield Check("wrong tails by relation that are no tail of it", float(typed), "none", typed == 0)
    ss, rs, rd = (means[name].value for name in ("ss", "rs", "random"))
    ends = (means["ss"].low or 0.0, means["ss"].high or 0.0)
    note = f"SS {ss:.3f}, RS {rs:.3f}, RD {rd:.3f}, NP {means['np'].value:.3f}; {len(triples)} triples, pool {POOL}"
    yield Check("mean cosine by semantic similarity", ss, "SS > RS >= RD", ss > rs >= rd, rs, ends, note)

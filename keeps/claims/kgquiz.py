"""KGQuiz's claim: recognising is easier than recalling, near names are harder than random ones, teaching shows.

Three hundred facts of the built-in world are asked of the default model: true or false, four options with random
and with similar wrong names, and without options. Then a third of them is taught with LoRA, and all are asked again.
What is taught is each fact as a statement to complete, and as a true and a false statement with another wrong name
than the one that is asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keeps.adapt.lora import LoRA
from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.kgquiz_exactness import POOL, exactness_checks
from keeps.contracts import Row, Run
from keeps.data.records import Example, Fact, RecordSet
from keeps.data.select import load_records
from keeps.data.triples import Triple, TripleSet
from keeps.jobs.asking import asked
from keeps.ledger.workspace import Workspace
from keeps.models.language_model import LanguageModel
from keeps.numerics.discrimination import roc_area
from keeps.numerics.statistics import mean_interval, paired_shift, wilson
from keeps.probe.kgquiz import KGQuizSettings, QuizProbe
from keeps.probe.kgquiz_items import BLANK, CHOICE, TRUE_FALSE, lead_of, true_false_prompt
from keeps.probe.kgquiz_negatives import Negatives
from keeps.probe.kgquiz_plan import Block, Domain
from keeps.probe.sampling import stratified
from keeps.training.adapter import AdapterSettings

SEEDS = (0, 1)
LESSON_SEEDS = SEEDS[:1]  # training is most of the time
SETTINGS = KGQuizSettings(negatives=("ss", "random"), blank_form="completion", pool=POOL)
TASKS = (TRUE_FALSE, CHOICE, BLANK)
ASKED_OF = ((TRUE_FALSE, "ss"), (CHOICE, "ss"), (CHOICE, "random"), (BLANK, ""))
LESSON = AdapterSettings(rank=16, learning_rate=5e-4, epochs=16, batch_size=16)  # chosen on 40 facts of the train part


@dataclass(frozen=True)
class Sizes:
    """How much is asked and taught."""

    asked: int = 300
    taught: int = 100


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Exactness, then what the model knows, then what it is taught."""
    yield from model_checks(run, Sizes(), exact=True)


def model_checks(run: ClaimRun, sizes: Sizes, *, exact: bool) -> Iterator[Check]:
    """The checks at some size; without ``exact`` only those that need the language model."""
    graph, test = world_graph(), {triple.id for triple in _triples(load_records("world").part("test"))}
    if exact:
        yield from exactness_checks(graph, run)
    model = run.model()
    before, after, taught = {}, {}, {}
    for seed in SEEDS:
        candidates = [triple for triple in graph.triples if triple.id in test]
        triples = _evenly(candidates, sizes.asked, seed)
        probe = quiz(graph, triples, seed)
        before[seed] = _rows(run, model, probe, seed)
        if seed not in LESSON_SEEDS:
            continue
        lesson = _evenly(triples, sizes.taught, seed + 100)
        taught[seed] = {triple.id for triple in lesson}
        after[seed] = _taught_rows(run, model, probe, lessons(graph, lesson, probe, seed), seed)
    yield from recognition_checks(list(before.values()), run)
    yield from lesson_checks(before, after, taught, run)


def world_graph() -> TripleSet:
    """All facts of the built-in world."""
    return TripleSet.from_facts((fact for fact in load_records("world") if isinstance(fact, Fact)), source="world")


def quiz(graph: TripleSet, triples: Sequence[Triple], seed: int) -> QuizProbe:
    """Tasks 1, 2 and 3 about the same triples; the whole graph says what is wrong."""
    domain = Domain("world", graph)
    blocks = [Block(domain, task, strategy, tuple(triples)) for task, strategy in ASKED_OF]
    return QuizProbe(blocks, SETTINGS, seed, [])


def lessons(graph: TripleSet, triples: Sequence[Triple], probe: QuizProbe, seed: int) -> RecordSet:
    """Three examples a triple; the false statement has a wrong name of the same relation that is not asked."""
    asked_prompts = {item.prompt for several in probe.items() for item in several if item.task == TRUE_FALSE}
    drawer = Negatives(graph, pool=POOL, seed=seed + 100)
    made = []
    for triple in triples:
        made.append(Example(f"{triple.id}:tail", lead_of(graph.masked(triple)), triple.tail))
        made.append(Example(f"{triple.id}:true", true_false_prompt(graph.statement(triple)), "True"))
        strategy = "rs" if drawer.enough(triple, "rs", 5) else "random"
        wrong = (Triple(triple.head, triple.relation, name) for name in drawer.draw(triple, strategy, 5))
        prompts = (true_false_prompt(graph.statement(other)) for other in wrong)
        prompt = next(prompt for prompt in prompts if prompt not in asked_prompts)
        made.append(Example(f"{triple.id}:false", prompt, "False"))
    return RecordSet("facts as lessons", tuple(made))


def recognition_checks(rows: Sequence[Sequence[Row]], run: ClaimRun) -> Iterator[Check]:
    """Check 3 of the card, over all seeds together."""
    share = {key: [_share(several, *key) for several in rows] for key in ASKED_OF}
    run.tables["right before teaching, by seed"] = {
        f"task {task} {name}": found for (task, name), found in share.items()
    }
    everything = [row for several in rows for row in several]
    means = {key: _share(everything, *key) for key in ASKED_OF}
    random, near = means[CHOICE, "random"], means[CHOICE, "ss"]
    threshold = "at least 3 points above that with similar names, and both above 25 %"
    low = {name: _low(everything, CHOICE, name) for name in ("random", "ss")}
    holds = random >= near + 0.03 and min(low.values()) > 0.25
    note = f"by seed: {share[CHOICE, 'random']} against {share[CHOICE, 'ss']}; lower ends of the intervals {low}"
    yield Check("multiple choice with random wrong names", random, threshold, holds, near, note=note)
    told = [row for row in everything if row.details["task"] == TRUE_FALSE]
    odds, labels = [row.details["log_odds"] for row in told], [row.details["label"] for row in told]
    area = roc_area(odds, labels, [row.details["fact"] for row in told])
    error = area.error or 0.0
    note = (
        f"standard error {error:.4f}, clustered by fact; {len(told)} statements; accuracy {means[TRUE_FALSE, 'ss']:.3f}"
    )
    holds = error > 0 and area.value > 0.5 + 2 * error
    threshold = "above 0.5 + 2 standard errors"
    yield Check("area under the curve of true or false", area.value, threshold, holds, 0.5, area.interval(), note)
    blank = means[BLANK, ""]
    note = f"by seed: {share[BLANK, '']}"
    threshold = "below the accuracy of multiple choice"
    yield Check("semantic match of blanks", blank, threshold, blank < min(random, near), near, note=note)


def lesson_checks(
    before: Mapping[int, Sequence[Row]],
    after: Mapping[int, Sequence[Row]],
    taught: Mapping[int, set[str]],
    run: ClaimRun,
) -> Iterator[Check]:
    """Check 4 of the card, over all lessons together."""
    told = run.tables.setdefault("right before and after teaching", {})
    for task in TASKS:
        for own in (True, False):
            pairs = [
                (float(one.correct), float(other.correct))
                for seed in after
                for one, other in zip(before[seed], after[seed], strict=True)
                if one.details["task"] == task and (one.details["fact"] in taught[seed]) is own
            ]
            start, end = ([pair[side] for pair in pairs] for side in (0, 1))
            shift = paired_shift(start, end)
            told[f"task {task}, {'taught' if own else 'other'} facts"] = [_mean(start), _mean(end), len(pairs)]
            ends = (shift.low or shift.value, shift.high or shift.value)
            name = f"change of the share right in task {task} on {'taught' if own else 'other'} facts"
            threshold = "above 0" if own else "no fall of more than 5 points"
            holds = shift.value > 0 if own else shift.value >= -0.05
            yield Check(name, shift.value, threshold, holds, interval=ends, note=f"{_mean(start):.3f} before")


def _rows(run: ClaimRun, model: LanguageModel, probe: QuizProbe, seed: int) -> list[Row]:
    """The rows of an untouched model, from the ledger where it was asked before."""
    with Workspace(run.workspace).ledger() as ledger:
        result, _ = asked(ledger, model, probe, model.name, run.progress, seed=seed)
        return ledger.rows(result)


def _taught_rows(run: ClaimRun, model: LanguageModel, probe: QuizProbe, learn: RecordSet, seed: int) -> list[Row]:
    """The rows after LoRA."""
    with tempfile.TemporaryDirectory() as folder:
        circumstances = Run(Path(folder) / "adapter", seed, str(model.device), progress=run.progress)
        circumstances.folder.mkdir()
        changed = LoRA(LESSON)(model, learn, run=circumstances).apply(model)
        run.tables[f"last loss, seed {seed}"] = circumstances.curves[-1][2] if circumstances.curves else None
        try:
            return probe(changed, run=circumstances)
        finally:
            changed.undo()


def _triples(records: RecordSet) -> tuple[Triple, ...]:
    return TripleSet.from_facts(record for record in records if isinstance(record, Fact)).triples


def _evenly(triples: Sequence[Triple], count: int, seed: int) -> list[Triple]:
    return stratified(triples, count, seed, group=lambda triple: triple.relation, identity=lambda triple: triple.id)


def _flags(rows: Sequence[Row], task: int, strategy: str) -> list[bool]:
    return [row.correct for row in rows if row.details["task"] == task and row.details["strategy"] == strategy]


def _share(rows: Sequence[Row], task: int, strategy: str) -> float:
    return _mean(_flags(rows, task, strategy))


def _low(rows: Sequence[Row], task: int, strategy: str) -> float:
    flags = _flags(rows, task, strategy)
    return wilson(sum(flags), len(flags)).low


def _mean(values: Sequence[float]) -> float:
    return mean_interval([float(value) for value in values]).value


CLAIM = Claim(
    card="kgquiz",
    statement="Options are told apart more easily than blanks are filled, wrong names of similar meaning make it "
    "harder than random ones, and facts that are taught rise in tasks 1 to 3 while others stay.",
    published="Strong instruct models exceed 80 % on true or false and multiple choice of YAGO, yet the semantic match "
    "of blanks stays well below; similar and type-sharing wrong names cost several points against random ones",
    paper="arXiv:2310.09725",
    seeds=SEEDS,
    minutes=25,
    experiment=experiment,
)

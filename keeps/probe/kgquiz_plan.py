"""Which questions are asked: the graphs that a specification names, and how a limit is shared out over the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.data.formats import ROWS
from keeps.data.rdf import RDF_ENDINGS
from keeps.data.records import Fact, RecordSet
from keeps.data.select import load_records
from keeps.data.triple_files import read_triples
from keeps.data.triples import Triple, TripleSet
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.probe.kgquiz_items import BLANK, CHOICE, EDITING, OPEN, TASKS, TRUE_FALSE, Chain, Item, chains, rich_entities
from keeps.probe.kgquiz_negatives import NAMES, Negatives
from keeps.probe.kgquiz_published import read_published
from keeps.probe.sampling import stratified

if TYPE_CHECKING:
    from keeps.probe.kgquiz import KGQuizSettings

PUBLISHED_SIZE = {
    TRUE_FALSE: 5_000,
    CHOICE: 10_000,
    BLANK: 10_000,
    EDITING: 10_000,
    OPEN: 1_000,
}  # facts, not questions
Unit = Triple | Chain | Item | str


@dataclass(frozen=True)
class Domain:
    """A graph and the ready items that came with it."""

    name: str
    graph: TripleSet
    items: Mapping[int, tuple[Item, ...]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Everything that one task asks about one domain with one kind of wrong tails."""

    domain: Domain
    task: int
    strategy: str
    units: tuple[Unit, ...]

    @property
    def weight(self) -> int:
        """Questions that a unit becomes."""
        return 2 if self.task == TRUE_FALSE and TRUE_FALSE not in self.domain.items else 1


def domains_of(
    data: str | RecordSet | TripleSet, settings: KGQuizSettings, marks: Mapping[str, str] | None
) -> list[Domain]:
    """The graphs that ``data`` names, with commas between them; all parts of the world are one.

    Raises:
        KeepsError: a bad set or file; templates or declarations that no file of triples would use.
    """
    if isinstance(data, TripleSet):
        return [Domain(Path(data.source).stem or "triples", data)]
    if isinstance(data, RecordSet):
        return [Domain("facts", _of_facts(data))]
    whole = Path(data).exists()
    parts = [data] if whole else [part.strip() for part in data.split(",") if part.strip()]
    found: dict[str, Domain] = {}
    world = [part for part in parts if part.partition(":")[0].partition("#")[0] == "world" and not Path(part).exists()]
    used = False
    for part in parts:
        if part in world:
            if part == world[0]:
                found["world"] = Domain("world", _of_facts(load_records(",".join(world), marks=marks)))
            continue
        path = Path(part)
        if path.is_dir():
            published = read_published(path)
            domain = Domain(path.name, published.graph, published.items, published.left_out)
        elif path.exists() or path.suffix.lower() in (*ROWS, *RDF_ENDINGS):
            declared: dict[str, Any] = {"symmetric": settings.symmetric, "inverses": settings.inverses}
            domain = Domain(path.stem, read_triples(path, templates=settings.templates or None, **declared))
            used = True
        else:
            domain = Domain(part, _of_facts(load_records(part, marks=marks)))
        if domain.name in found:
            mend = "rename one of the files: the figures of both would bear one name"
            raise SettingsError(f'two graphs are called "{domain.name}"', where=part, mend=mend)
        found[domain.name] = domain
    if not found:
        raise EmptySetError("no data is named", where=repr(data), mend="name a file of triples, a folder or world")
    if not used and (settings.templates or settings.symmetric or settings.inverses):
        mend = "leave them out, or name a file of triples"
        raise SettingsError("templates and declarations are for files of triples alone", where=str(data), mend=mend)
    return list(found.values())


def plan(domains: Sequence[Domain], settings: KGQuizSettings, seed: int, limit: int | None) -> list[Block]:
    """The blocks with their chosen units; the same facts in tasks 1, 2 and 3.

    Raises:
        SettingsError: fewer entities than options, or a limit that leaves a task without a question.
        EmptySetError: a graph gives a task nothing to ask.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}", where="limit", mend="choose 1 or more, or leave it out")
    blocks = [
        _block(domain, task, strategy, settings, seed, limit)
        for domain in domains
        for task in sorted(set(settings.tasks))
        for strategy in _strategies(domain, task, settings)
    ]
    if limit is None:
        return blocks
    counts = _shares(blocks, limit)
    if not all(counts):
        empty = blocks[counts.index(0)]
        what = f"a limit of {limit} leaves no question for task {empty.task} ({TASKS[empty.task]})"
        mend = f"choose {2 * len(blocks)} or more, or fewer tasks"
        raise SettingsError(what, where=f"{len(blocks)} tasks and kinds of wrong tails", mend=mend)
    return [_cut(block, count, seed) for block, count in zip(blocks, counts, strict=True)]


def _strategies(domain: Domain, task: int, settings: KGQuizSettings) -> Sequence[str]:
    if task in domain.items or task in (BLANK, OPEN):
        return ("",)
    return tuple(dict.fromkeys(settings.negatives))[: 1 if task == EDITING else None]


def _block(domain: Domain, task: int, strategy: str, settings: KGQuizSettings, seed: int, limit: int | None) -> Block:
    graph = domain.graph
    if strategy and task == CHOICE and len(graph.entities) < settings.options:
        what = f"the graph has {len(graph.entities)} entities, fewer than the {settings.options} options"
        raise SettingsError(what, where=graph.source, mend="choose fewer options, or a larger graph")
    most = PUBLISHED_SIZE[task] if limit is None else min(limit, PUBLISHED_SIZE[task])
    units: Sequence[Unit]
    if task in domain.items:
        units = domain.items[task]
    elif task == OPEN:
        units = rich_entities(graph, settings.min_facts, seed)[:most]
        mend = f"lower min_facts from {settings.min_facts}, or leave task 5 out"
    elif task == EDITING:
        units = _editable(graph, settings, strategy, seed, most)
        mend = f"choose fewer hops than {settings.hops}, or leave task 4 out"
    else:
        count = {TRUE_FALSE: 1, CHOICE: settings.options - 1, BLANK: 0}[task]
        drawer = Negatives(graph, pool=settings.pool, seed=seed)
        able = [triple for triple in graph.triples if not strategy or drawer.enough(triple, strategy, count)]
        units = _evenly(able, most, seed)
        mend = "choose another strategy with --negatives, or a larger graph"
    if not units:
        by = f" with wrong names by {NAMES[strategy]}" if strategy else ""
        what = f"nothing can be asked in task {task} ({TASKS[task]}){by}"
        raise EmptySetError(what, where=graph.source, mend=mend)
    return Block(domain, task, strategy, tuple(units))


def _editable(graph: TripleSet, settings: KGQuizSettings, strategy: str, seed: int, most: int) -> list[Chain]:
    drawer = Negatives(graph, pool=settings.pool, seed=seed)
    walks = chains(graph, settings.hops, None if len(graph) < 100_000 else 2 * most, seed)
    return [walk for walk in walks if drawer.enough(walk.triples[walk.slot], strategy, settings.hops)][:most]


def _shares(blocks: Sequence[Block], limit: int) -> list[int]:
    """Units of each block, so that their questions are ``limit`` or less, as evenly as the blocks allow."""
    counts, left = [0] * len(blocks), limit
    waiting = [(0, number) for number in range(len(blocks))]  # a heap: those with fewest questions come first
    while waiting:
        questions, number = heappop(waiting)
        block = blocks[number]
        if counts[number] == len(block.units) or block.weight > left:
            continue
        counts[number] += 1
        left -= block.weight
        heappush(waiting, (questions + block.weight, number))
    return counts


def _cut(block: Block, count: int, seed: int) -> Block:
    """The first ``count`` units; those of triples and ready items evenly over the relations."""
    units: Sequence[Any] = block.units
    if block.task == TRUE_FALSE and TRUE_FALSE in block.domain.items:  # as many false ones as true ones
        units = stratified(units, count, seed, group=lambda unit: unit.answer, identity=lambda unit: unit.id)
    elif block.task in block.domain.items or block.task in (TRUE_FALSE, CHOICE, BLANK):
        units = _evenly(units, count, seed)
    return Block(block.domain, block.task, block.strategy, tuple(units[:count]))


def _evenly(units: Sequence[Any], count: int, seed: int) -> list[Any]:
    """As many of each relation as there are; the choice depends on the triple alone, so that tasks share facts."""
    return stratified(units, count, seed, group=lambda unit: unit.relation, identity=lambda unit: unit.id)


def _of_facts(records: RecordSet) -> TripleSet:
    other = next((record for record in records if not isinstance(record, Fact)), None)
    if other is not None:
        mend = "give facts with subject, relation and object, or a file of triples"
        raise RecordError(f"a record of the kind {type(other).__name__} is no triple", where=records.source, mend=mend)
    return TripleSet.from_facts((record for record in records if isinstance(record, Fact)), source=records.source)

"""Five quizzes of rising difficulty made of the same facts: recognise, choose, recall, mend and write.

    1  Is the statement "h r t" True or False?       accuracy, balanced accuracy, area under the curve, yes-rate
    2  h r [MASK], with wrong options                accuracy
    3  h r [MASK], without options                   exact match, F1, LCS, semantic match
    4  a chain of facts with one wrong name inside   the same, of the name that is put in its place
    5  Tell me some facts about h:                   precision, recall and F1 of the facts written

A model that only recognises a fact has it encoded, but may not be able to use it. Statements are made of triples
and of one template a relation. Wrong names are drawn at random (`random`), among those most alike in meaning (`ss`),
among tails of the same relation (`rs`) or near by in the graph (`np`), and none of them is a fact.
After Bai et al., "KGQuiz", The Web Conference 2024 (arXiv:2310.09725).

Use when: you have a list of triples or a knowledge graph, and want to know whether a model knows it and can use it
beyond recognising it; you compare models by domain, task and relation.

**Answers.** By log-probability where the model gives it: True against False, and each option after the words before
the mask, a token (`choice_scoring letter` takes the letters instead). Other answerers are asked for text, of which
the first of true and false counts, and a letter or the words of an option.

**Semantic match.** Two answers mean the same where the cosine of their vectors is `tau` or more. The paper sets τ by
human labels; `--labels FILE` with columns prediction, gold and same does so here. τ and encoder stand in every row.
A triple has often several right tails: `.any` figures take the best of all, the others the asked one alone, and
`blank.oracle` is what a perfect memory of the graph could reach with the latter.

**Facts written.** An extractor makes triples of the text: the model itself (`model`), another one on a server
(`server`), or none (`sentences`: each sentence is a fact), which is the choice for small models.

**Sets.** A TSV, CSV, JSONL or RDF file, the built-in world, or a folder with the published files. Wordings of tasks 2
and 4 are ours, for the paper does not print them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.errors import SettingsError, nearest
from keeps.models.remote import RemoteChat
from keeps.numerics.discrimination import calibrate_threshold
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.kgquiz_ask import Asker
from keeps.probe.kgquiz_extract import EXTRACTORS
from keeps.probe.kgquiz_items import BLANK_FORMS, LETTERS, OPEN, TASKS, Builder, Item
from keeps.probe.kgquiz_labels import LabelledPair, read_labels
from keeps.probe.kgquiz_negatives import STRATEGIES, Negatives
from keeps.probe.kgquiz_picture import draw
from keeps.probe.kgquiz_plan import Block, domains_of, plan
from keeps.probe.kgquiz_report import findings
from keeps.probe.kgquiz_scores import TAU
from keeps.probe.similarity import TextSimilarity
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class KGQuizSettings(Settings):
    """What is asked, and how it is scored."""

    tasks: tuple[int, ...] = setting((1, 2, 3), "Tasks to ask, of 1 to 5")
    negatives: tuple[str, ...] = setting(("ss",), "Kinds of wrong names: ss, random, rs, np")
    options: int = setting(4, "Options of a multiple choice", ge=2, le=len(LETTERS))
    hops: int = setting(3, "Facts in a chain of task 4", ge=2)
    min_facts: int = setting(5, "Fewest facts of an entity of task 5", ge=1)
    multi_gold: bool = setting(True, "Count every tail that the graph gives as right, not only the asked one")
    tau: float = setting(TAU, "Cosine from which two texts mean the same", ge=-1, le=1)
    labels: str = setting("", "File of pairs judged by people, from which tau is set")
    extractor: str = setting("model", "What finds the facts in a text of task 5", choices=EXTRACTORS)
    one_to_one: bool = setting(False, "Let a fact of the graph vouch for one written fact only")
    templates: str = setting("", "File of the relations' templates")
    symmetric: tuple[str, ...] = setting((), "Relations that hold in both directions")
    inverses: dict[str, str] = setting({}, "Relations that say the same in opposite directions")
    scoring: str = setting("auto", "How tasks 1 and 2 are answered", choices=("auto", "likelihood", "text"))
    choice_scoring: str = setting("text", "What is scored in task 2", choices=("text", "letter"))
    blank_form: str = setting("question", "Wording of task 3", choices=BLANK_FORMS)
    pool: int = setting(1000, "Entities among which ss seeks the nearest", ge=1, advanced=True)
    encoder: str = setting("", "Sentence encoder, folder or hub id; the embedded one if empty", advanced=True)
    lcs_unit: str = setting("characters", "Unit of the LCS", choices=("characters", "tokens"), advanced=True)
    room: int = setting(32, "Most new tokens of tasks 1 to 3", ge=1, advanced=True)
    edit_room: int = setting(64, "Most new tokens of task 4", ge=1, advanced=True)
    open_room: int = setting(256, "Most new tokens of task 5", ge=1, advanced=True)
    extractor_url: str = setting("", "Address of the extractor's server", advanced=True)
    extractor_model: str = setting("", "Name of the extractor on its server", advanced=True)
    extractor_key: str = setting("", "Environment variable with the server's key", advanced=True)

    def check(self) -> None:
        """See :meth:`keeps.settings.Settings.check`."""
        for task in self.tasks:
            if task not in TASKS:
                raise SettingsError(f"there is no task {task}", where="tasks", mend="choose of 1 to 5")
        for name in self.negatives:
            if name not in STRATEGIES:
                raise SettingsError(f'no wrong names by "{name}"', where="negatives", mend=nearest(name, STRATEGIES))
        if not self.tasks or not self.negatives:
            raise SettingsError("no task or no kind of wrong names is named", where="tasks", mend="name at least one")
        server, named = self.extractor == "server", (self.extractor_url, self.extractor_model)
        if server != all(named) or (not server and any((*named, self.extractor_key))):
            mend = "give --extractor server with --extractor-url and --extractor-model, or none of them"
            raise SettingsError("the extractor's server is named in part", where="extractor", mend=mend)


class QuizProbe:
    """Blocks of questions, made and asked when called; to draw wrong names and to score, names are embedded then."""

    def __init__(
        self, blocks: Sequence[Block], settings: KGQuizSettings, seed: int, pairs: Sequence[LabelledPair]
    ) -> None:
        self.blocks, self.settings, self.seed, self.pairs = blocks, settings, seed, pairs
        self.similarity = TextSimilarity(name=settings.encoder)
        self.name = "kgquiz " + ", ".join(dict.fromkeys(block.domain.name for block in blocks))

    @property
    def fingerprint(self) -> str:
        """Hash of graphs, chosen facts, settings and seed (16 hexadecimal digits)."""
        own = {**self.settings.to_mapping(), "labels": [vars(pair) for pair in self.pairs]}
        chosen = [
            [block.domain.name, block.domain.graph.fingerprint, block.task, block.strategy]
            + [unit if isinstance(unit, str) else unit.id for unit in block.units]
            for block in self.blocks
        ]
        content = json.dumps(["kgquiz-1", own, self.seed, chosen], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [item.id for items in self.items() for item in items]

    def items(self) -> list[list[Item]]:
        """The questions of each block."""
        return [self._items(block) for block in self.blocks]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row per question, in order.

        Raises:
            SettingsError: the answerer cannot do what the settings ask for.
        """
        remote = None
        if self.settings.extractor == "server" and OPEN in self.settings.tasks:
            own = self.settings
            remote = RemoteChat(own.extractor_url, own.extractor_model, own.extractor_key)
        asker = Asker(answerer, self.settings, similarity=self.similarity, tau=self._tau(), extractor=remote)
        rows: list[Row] = []
        for domain in {block.domain.name: block.domain for block in self.blocks}.values() if run else ():
            for reason, count in domain.left_out.items():
                run.progress.message(f"{domain.name}: left out {count} {reason}")  # type: ignore[union-attr]
        for block in self.blocks:
            items = self._items(block)
            name = f"{block.domain.name}, task {block.task} ({TASKS[block.task]})"
            with run.progress.task(name, len(items)) if run else nullcontext() as task:
                rows += asker.rows(items, task.advance if task else None)
        return rows

    def _tau(self) -> float:
        if not self.pairs:
            return self.settings.tau
        cosines = self.similarity.cosines([pair.prediction for pair in self.pairs], [pair.gold for pair in self.pairs])
        return calibrate_threshold(cosines, [pair.same for pair in self.pairs])[0]

    def _items(self, block: Block) -> list[Item]:
        if block.task in block.domain.items:
            return list(block.units)  # type: ignore[arg-type]
        settings, graph = self.settings, block.domain.graph
        negatives = Negatives(graph, pool=settings.pool, seed=self.seed, similarity=self.similarity)
        own: dict[str, Any] = {"seed": self.seed, "options": settings.options, "blank": settings.blank_form}
        builder = Builder(graph, block.domain.name, negatives, **own)
        return [item for unit in block.units for item in builder.items(block.task, block.strategy, unit)]


@method(
    "kgquiz",
    verb="probe",
    paper="arXiv:2310.09725",
    summary="Five quizzes made of triples, from true or false to free writing: does knowledge carry over?",
    needs=("triples",),
)
class KGQuiz(ProbingSystem):
    """Triples in; a matrix of task by domain, and figures by kind of wrong names and by relation out."""

    Settings = KGQuizSettings

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`.

        Raises:
            SettingsError: a setting that does not fit the graph, or a limit that leaves a task without a question.
            EmptySetError: the graph gives a task nothing to ask.
        """
        data = self.default_data if selection.data is None else selection.data
        pairs = read_labels(Path(self.settings.labels)) if self.settings.labels else []
        domains = domains_of(data, self.settings, selection.marks)
        blocks = plan(domains, self.settings, selection.seed, selection.limit)
        return QuizProbe(blocks, self.settings, selection.seed, pairs)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """See :meth:`keeps.probe.base.ProbingSystem.measure`."""
        return findings(asked, multi_gold=self.settings.multi_gold, options=self.settings.options, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """See :meth:`keeps.probe.base.ProbingSystem.draw`."""
        return draw(self.measure(asked, seed=seed))

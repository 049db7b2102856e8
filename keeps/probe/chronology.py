"""Facts that change with time: in which years does a model know them, where does its memory begin and stop?

    correct        all greedy answers match          partial 1    some do
    partial 2      only sampled answers match        incorrect    none does
    known          correct in every year             unknown      incorrect in every year
    cut-off        one boundary between the years it knows and those it does not
    partial known  all else

A fact is asked about each of its years `samples` times, every time after other solved examples of the same relation,
once greedily and once at a temperature. Memory that stops and memory that starts late are counted apart. Outputs of
which nothing can be read are counted too: one of them demotes a fact that is known. The classes of SliCK
(arXiv:2405.05904) come from the same answers.

ChroKnowPrompt asks the years again that a partially known fact lacks, with the nearest earlier and later years in
front of and behind the question. The gain is the rise of the share of known facts; no weight changes.
After Park et al., "ChroKnowledge", ICLR 2025 (arXiv:2410.09870).

Use when: you want to know where a model's knowledge of dated facts stops, which years it lacks, and whether prompts
with neighbouring years recover them; you choose between training a model on new facts and asking it better.

**Data.** `--data` names a file of dated facts; the built-in world has none. One row a fact: `subject`, `relation`,
`objects_2010`, `objects_2011`, ..., each a list of all objects that were right in the year, or `question` and
`answers_2010`, .... The layouts of TempLAMA (`--gaps`, for its facts skip years) and of the questions that people
wrote for TimeQA (`--shots 0`, for some of its relations have a single fact) are read too. `--shot-years any` shows
facts of a relation that have other years.

**Matching.** An answer matches where the token set ratio to an object is 70 or more. That accepts "FC" for every
"... FC": `--shortest-token 3` leaves such words out, `--match exact` takes none but equal names, and
`year.correct.exact` stands beside every result.

**Templates.** `generation` asks for the object; `choice` offers it in a random place, with the fact's own objects of
other years among the wrong ones; `true_false` asks about true and wrong statements in turn, so that a model which
always agrees knows nothing. `--gold last` and `--statements true` ask as published.

**Without sampling.** An answerer that only answers is asked greedily; partial 2 is then not told from incorrect.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Row, Run
from keeps.data.dated import DatedElement, dated_fingerprint, read_dated
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.numerics.chronology import THRESHOLD, element_class
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.chronology_ask import GENERATION, LETTERS, STOP, TEMPLATES, Examples, read_output
from keeps.probe.chronology_prompt import ChroKnowPrompt, completed
from keeps.probe.chronology_rows import YearAnswers, history_of, row_of
from keeps.probe.sampling import stratified
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_YEARS = re.compile(r"(\d{4})\s*-\s*(\d{4})")


@dataclass(frozen=True, kw_only=True)
class ChronologySettings(Settings):
    """How dated facts are asked, and what counts as right."""

    template: str = setting(GENERATION, "What is asked for", choices=TEMPLATES)
    samples: int = setting(5, "Outputs a year and temperature, each after other examples", ge=1)
    shots: int = setting(4, "Solved examples of the same relation before each question", ge=0)
    temperature: float = setting(0.7, "Temperature of the sampled outputs; 0 asks greedily alone", ge=0)
    match: str = setting("fuzzy", "What counts as right: a token set ratio, or equal names", choices=("fuzzy", "exact"))
    threshold: float = setting(THRESHOLD, "Token set ratio from which an answer matches", gt=0, le=100, unit="%")
    shortest_token: int = setting(1, "Shorter words do not count in the ratio", ge=1, unit="characters")
    years: str = setting("", "First and last year to ask about, such as 2010-2020; all if empty")
    gaps: bool = setting(False, "Take facts that skip years")
    shot_years: str = setting("same", "Years in which examples are shown", choices=("same", "any"))
    recover: float | None = setting(
        None, "Share of the facts of each class taken for ChroKnowPrompt; all for generation if left out", ge=0, le=1
    )
    previous: int = setting(3, "Earlier years that ChroKnowPrompt shows", ge=0)
    following: int = setting(3, "Later years that ChroKnowPrompt shows", ge=0)
    spans: str = setting(
        "calendar",
        "What ChroKnowPrompt counts: years of the calendar, or those that a fact has",
        choices=("calendar", "listed"),
        advanced=True,
    )
    options: int = setting(4, "Options of a choice", ge=2, le=len(LETTERS))
    gold: str = setting("shuffled", "Where the right option stands", choices=("shuffled", "last"), advanced=True)
    statements: str = setting("both", "Statements of true_false", choices=("both", "true"), advanced=True)
    redraw: str = setting(
        "sample",
        "What has examples of its own: each sample of a relation's year, or of a fact",
        choices=("sample", "item"),
        advanced=True,
    )
    instruct: bool = setting(True, "Say before the examples what an answer looks like", advanced=True)
    lead: str = setting("prompt", "Who writes the A. before an answer", choices=("prompt", "model"), advanced=True)
    failures: str = setting(
        "drop", "What becomes of outputs that cannot be read", choices=("drop", "wrong"), advanced=True
    )
    top_p: float = setting(1.0, "Probability of the nucleus that is drawn from", gt=0, le=1, advanced=True)
    max_new_tokens: int = setting(50, "Most new tokens of an output", ge=1, advanced=True)

    def check(self) -> None:
        """See :meth:`keeps.settings.Settings.check`."""
        if self.years and not _YEARS.fullmatch(self.years.strip()):
            mend = "write first and last year, such as 2010-2020"
            raise SettingsError(f'the years are "{self.years}"', where="years", mend=mend)
        if self.recover and self.template != GENERATION:
            mend = "choose --template generation, or leave --recover out"
            raise SettingsError(f"ChroKnowPrompt does not ask by {self.template}", where="recover", mend=mend)
        if self.recover_share and not self.previous + self.following:
            mend = "choose 1 or more of one, or --recover 0"
            raise SettingsError("ChroKnowPrompt shows no year", where="previous, following", mend=mend)

    @property
    def recover_share(self) -> float:
        """The share of facts that ChroKnowPrompt is tried on."""
        return float(self.template == GENERATION) if self.recover is None else self.recover

    @property
    def frame(self) -> tuple[int, int] | None:
        """First and last year; None for all."""
        found = _YEARS.fullmatch(self.years.strip())
        return (int(found[1]), int(found[2])) if found else None


class ChronologyProbe:
    """Every fact in every year, one row each.

    Args:
        pool: facts that examples and wrong options come from.

    Raises:
        SettingsError: a relation has too few examples or wrong options.
    """

    def __init__(
        self,
        elements: Sequence[DatedElement],
        settings: ChronologySettings,
        *,
        seed: int = 0,
        pool: Sequence[DatedElement] = (),
        name: str = "chronology",
    ) -> None:
        self.elements, self.pool, self.settings, self.seed = list(elements), list(pool or elements), settings, seed
        self.name = name
        self.examples = Examples(self.pool, settings, seed)
        for element in self.elements:
            for _ in self.examples.askings(element, (0,)):
                pass  # what the pool cannot give is refused here

    @property
    def fingerprint(self) -> str:
        """Hash of facts, settings and seed (16 hexadecimal digits)."""
        facts = [dated_fingerprint(self.elements), dated_fingerprint(self.pool)]
        content = json.dumps(["chronology-1", facts, asdict(self.settings), self.seed], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, in order."""
        return [f"{element.id}/{year}" for element in self.elements for year in element.years]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row a fact and year, in order."""
        asked = self._asked(answerer, run)
        recovered = self._recovered(answerer, asked, run)
        rows = []
        for element in self.elements:
            taken = recovered.get(element.id)
            rows += [row_of(element, year, asked[element.id][year], self.settings, taken) for year in element.years]
        return rows

    def _asked(self, answerer: Any, run: Run | None) -> dict[str, dict[int, YearAnswers]]:
        """The outputs of each fact and year, greedy ones and sampled ones."""
        askings = [asking for element in self.elements for asking in self.examples.askings(element)]
        prompts = [asking.prompt for asking in askings]
        settings, samples = self.settings, hasattr(answerer, "sample") and self.settings.temperature > 0
        counts = any(hasattr(answerer, name) for name in ("generate", "sample"))
        with run.progress.task(f"probe {self.name}", len(prompts) * (1 + samples)) if run else nullcontext() as task:
            advance = {"advance": task.advance} if task and counts else {}
            greedy = completed(answerer, prompts, settings.max_new_tokens, **advance)
            sampled: list[str] | None = None
            if samples:
                own = {"temperature": settings.temperature, "top_p": settings.top_p, "stop": STOP, **advance}
                seeds = [asking.seed for asking in askings]
                sampled = answerer.sample(prompts, seeds, max_new_tokens=settings.max_new_tokens, **own)
        if run and settings.temperature > 0 and not samples:
            run.progress.message(f"{self.name}: this answerer cannot be sampled, so it is asked greedily alone")
        found: dict[str, dict[int, YearAnswers]] = {}
        for n, asking in enumerate(askings):
            year = found.setdefault(asking.element.id, {}).setdefault(asking.year, YearAnswers(asking.prompt))
            year.greedy.append(read_output(greedy[n], asking, settings))
            if sampled is not None:
                year.sampled = [*(year.sampled or ()), read_output(sampled[n], asking, settings)]
        return found

    def _recovered(
        self, answerer: Any, asked: dict[str, dict[int, YearAnswers]], run: Run | None
    ) -> dict[str, dict[int, dict[str, Any]]]:
        """What ChroKnowPrompt makes of the facts that it is tried on, by fact and year."""
        share = self.settings.recover_share
        if not share:
            return {}
        classes = {e.id: {y: asked[e.id][y].label(self.settings) for y in e.years} for e in self.elements}
        groups: dict[str, list[DatedElement]] = {}
        for element in self.elements:
            groups.setdefault(element_class(list(classes[element.id].values())), []).append(element)
        taken = [
            element
            for group in groups.values()
            for element in stratified(
                group, max(1, int(share * len(group))), self.seed, group=lambda e: e.relation, identity=lambda e: e.id
            )
        ]
        histories = [history_of(element, asked[element.id], self.settings) for element in taken]
        settings = self.settings
        prompting = ChroKnowPrompt(
            answerer,
            previous=settings.previous,
            following=settings.following,
            max_new_tokens=settings.max_new_tokens,
            listed=settings.spans == "listed",
            lead=settings.lead,
        )
        total = sum(len(history.queue()) for history in histories)
        with run.progress.task("ChroKnowPrompt", total) if run else nullcontext() as task:
            prompting.recover_all(histories, task.advance if task else None)
        return {
            element.id: {year: asdict(found) for year, found in history.recovered.items()}
            for element, history in zip(taken, histories, strict=True)
        }


@method(
    "chronology",
    verb="probe",
    card="chroknowledge",
    paper="arXiv:2410.09870",
    summary="Dated facts: which years a model knows, where its memory stops, and what neighbouring years recover.",
    needs=("dated facts",),
)
class Chronology(ProbingSystem):
    """Dated facts in; classes of years and facts, a timeline and the gain of ChroKnowPrompt out."""

    Settings = ChronologySettings
    default_data = ""

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`; ``limit`` counts facts, each with all of its years.

        Raises:
            SettingsError: no file of dated facts is named, the years are not in it, or a relation has too few
                examples.
        """
        data = selection.data
        if not data or isinstance(data, RecordSet) or data.partition(":")[0] in ("world", "text"):
            what = "the facts of the world have no years" if data else "no dated facts are named"
            mend = "name a file with columns subject, relation, and objects_2010 and the like for every year"
            raise SettingsError(what, where="--data", mend=mend)
        pool = read_dated(Path(data), years=self.settings.frame, gaps=self.settings.gaps)
        chosen = stratified(
            pool,
            selection.limit,
            selection.seed,
            group=lambda e: f"{e.domain}/{e.state}/{e.relation}",
            identity=lambda e: e.id,
        )
        return ChronologyProbe(chosen, self.settings, seed=selection.seed, pool=pool, name=Path(data).stem)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """See :meth:`keeps.probe.base.ProbingSystem.measure`."""
        from keeps.probe.chronology_report import findings

        return findings(asked, seed=seed)

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """The timeline: how many facts are known in each year."""
        from keeps.probe.chronology_report import draw

        return draw(asked, seed=seed)

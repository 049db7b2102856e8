"""In which language does a multilingual model answer which topic best? A map, a router, and a test of both.

    l*(c) = argmax_l acc(c, l)        expert language of topic c, a cluster of English questions

The same multiple-choice questions are asked in every language. English wordings are embedded and clustered; on the
train part the language with most right answers becomes the expert of its cluster, and on the test part each question
goes to the expert of the nearest centre alone. After LSKExtractor of Agarwal et al. 2025 (arXiv:2505.14990).

Use when: your multilingual model serves questions about many cultures and countries, and you want to know whether to
ask it in another language than English; you want one call a question, sent to the best language.

**Is there anything in it?** With many languages and small clusters some language always looks best. So figures come
from questions that the map has not seen, clusters below `support` questions take the best single language, shares are
pulled towards the language's share over all topics (`shrink`; 0 is the paper), and the topics of the test questions
are shuffled `permutations` times: where that does as well, the report says "no significant language effect" and gives
no gain. A language that is better on all topics is no topic effect; the table of languages and the single best one show
it. Differences from English have exact McNemar tests and a paired bootstrap interval.

**Asking.** By log-probability of the options where the model gives it; otherwise it thinks in the language and
answers as JSON (`--asking reasoning`, through the chat template of a model that has one), or answers at once
(`direct`). What it wrote is read by the paper's cascade, and the page counts how often each rule was needed.

**Sets.** A folder of one file a language (`en.jsonl`, `hi.jsonl`, ... with id, input, choices, answer, country), a
file with a column `language`, the files of GeoMLAMA or BLEnD, or `world:continent,world:neighbour` of the built-in
world. English must be there: its wordings are embedded. `--out` writes the map beside the page; a
`keeps.probe.language_router.LanguageRouter` sends new questions by it, and `--transfer FOLDER` tries it elsewhere.
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
from keeps.data.languages import ENGLISH
from keeps.data.multilingual import MultilingualSet
from keeps.data.multilingual_layouts import read_questions
from keeps.data.multilingual_world import world_questions
from keeps.errors import SettingsError
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.findings import difference_table
from keeps.probe.language_analysis import Analysis, analyse, check_split, check_transfer, split
from keeps.probe.language_ask import LanguageAsker
from keeps.probe.language_map import CLUSTERINGS, KMEANS, LanguageMap
from keeps.probe.language_parse import LETTER_RULES
from keeps.probe.language_picture import draw
from keeps.probe.language_report import measures, nearest_question, tables
from keeps.probe.sampling import stratified
from keeps.probe.similarity import TextSimilarity
from keeps.registry import method
from keeps.settings import Settings, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("auto", "likelihood", "reasoning", "direct")


@dataclass(frozen=True, kw_only=True)
class LanguageSpecificSettings(Settings):
    """How the questions are asked, and how the map is made of the answers."""

    languages: tuple[str, ...] = setting((), "Languages to ask in, by code or name; all of the set if empty")
    countries: tuple[str, ...] = setting((), "Ask about these countries alone")
    asking: str = setting("auto", "How a question is answered", choices=WAYS)
    clusters: int = setting(12, "Topics; the official code has 12, the paper 48 for 5,000 questions", ge=1)
    clustering: str = setting(KMEANS, "How topics are found; seeding is the official code's", choices=CLUSTERINGS)
    support: int = setting(20, "Fewest questions of a topic that has a language of its own; the paper has 0", ge=0)
    shrink: float = setting(20.0, "Weight of the share over all topics, in questions; the paper has 0", ge=0)
    test_share: float = setting(0.3, "Share of the questions that test the map", gt=0, lt=1)
    permutations: int = setting(1000, "Shuffles of the topics", ge=19)
    self_selected: bool = setting(False, "Also ask the model which language it would choose")
    transfer: str = setting("", "Folder of a map of other questions or another model, to be tried on these")
    final_first: bool = setting(False, "Read what follows final_answer before all that was written", advanced=True)
    letter_rule: str = setting("word", "Where a letter counts as an option", choices=LETTER_RULES, advanced=True)
    chat: bool = setting(True, "Use the chat template of a model that has one, when it writes", advanced=True)
    min_cluster: int = setting(5, "Smallest cluster of hdbscan", ge=2, advanced=True)
    encoder: str = setting("", "Sentence encoder, folder or hub id; the embedded one if empty", advanced=True)
    prefix: str = setting("", "What the encoder wants before each question, such as query:", advanced=True)
    room: int = setting(512, "Most new tokens of an answer", ge=1, advanced=True)

    def check(self) -> None:
        """See :meth:`keeps.settings.Settings.check`."""
        if len(self.languages) == 1:
            raise SettingsError("one language leaves nothing to choose", where="languages", mend="name two or more")


class LanguageProbe:
    """The questions of a set, asked in every language; English ones are embedded when it is called."""

    def __init__(self, data: MultilingualSet, settings: LanguageSpecificSettings) -> None:
        self.data, self.settings = data, settings
        self.similarity = TextSimilarity(name=settings.encoder)
        self.name = f"language_specific {data.source}"

    @property
    def fingerprint(self) -> str:
        """Hash of questions and way of asking (16 hexadecimal digits); how the map is made does not count."""
        names = ("asking", "encoder", "prefix")
        if self.settings.asking != "likelihood":
            names = (*names, "final_first", "letter_rule", "chat", "room")
        own = self.settings.to_mapping()
        content = [
            "language_specific-1",
            self.data.fingerprint,
            [own[name] for name in (*names, "self_selected")],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows to come, language by language."""
        return [f"{question.id}@{code}" for code, own in self.data.questions.items() for question in own]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """One row a language and question.

        Raises:
            SettingsError: the answerer cannot do what the settings ask for.
        """
        if run is not None:
            for reason, count in self.data.left_out.items():
                run.progress.message(f"{self.data.source}: left out {count} {reason}")
        free = self.data.free_text
        asker = LanguageAsker(answerer, self.settings, self.similarity, free_text=free)
        with run.progress.task(self.name, len(self.ids)) if run else nullcontext() as task:
            return asker.rows(self.data, task.advance if task else None)


@method(
    "language_specific",
    verb="probe",
    paper="arXiv:2505.14990",
    summary="The same questions in many languages: which language knows which topic best, and a router to it.",
    card="lsk",
    needs=("questions in several languages",),
)
class LanguageSpecific(ProbingSystem):
    """Questions in several languages in; a map from topics to languages with its test out."""

    Settings = LanguageSpecificSettings

    def probe(self, selection: Selection) -> Probe:
        """See :meth:`keeps.probe.base.ProbingSystem.probe`.

        Raises:
            SettingsError: fewer than two languages, no English, or too few questions for the clusters.
        """
        settings = self.settings
        data = questions_of(self.default_data if selection.data is None else selection.data, settings)
        chosen = stratified(
            data.questions[ENGLISH],
            selection.limit,
            selection.seed,
            group=lambda question: question.topic or question.country,
            identity=lambda question: question.id,
        )
        data = data.only(ids={question.id for question in chosen})
        train, test = split(data.ids, settings.test_share, selection.seed)
        check_split(len(train), len(test), settings)
        if settings.asking == "likelihood" and data.free_text:
            mend = "choose --asking reasoning or direct"
            raise SettingsError("free answers have no options to compare", where="asking", mend=mend)
        self._transferred(data.languages)
        return LanguageProbe(data, settings)

    def measure(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
        """See :meth:`keeps.probe.base.ProbingSystem.measure`."""
        several = self.analyses(asked, seed=seed)
        listed = [table for name, found in several for table in tables(found, name if len(several) > 1 else "")]
        differences = difference_table(asked)
        figures = [figure for name, found in several for figure in measures(found, name, seed=seed)]
        return Findings(tuple(figures), tuple(listed + ([differences] if differences else [])))

    def draw(self, asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
        """See :meth:`keeps.probe.base.ProbingSystem.draw`."""
        several = self.analyses(asked, seed=seed)
        examples = [[nearest_question(found, n) for n in range(len(found.map.centres))] for _, found in several]
        return draw(several, examples)

    def write(self, folder: Path, asked: Sequence[ModelRows], *, seed: int = 0) -> None:
        """The map of the first model."""
        if asked:
            self.analyses(asked[:1], seed=seed)[0][1].map.save(folder)

    def analyses(self, asked: Sequence[ModelRows], *, seed: int = 0) -> list[tuple[str, Analysis]]:
        """Map and outcomes of each model."""
        found = []
        for model in asked:
            languages = list(dict.fromkeys(row.details["language"] for row in model.rows))
            transferred = self._transferred(languages)
            found.append((model.name, analyse(model.rows, self.settings, seed=seed, transferred=transferred)))
        return found

    def _transferred(self, languages: Sequence[str]) -> LanguageMap | None:
        if not self.settings.transfer:
            return None
        found = LanguageMap.load(self.settings.transfer)
        check_transfer(found, languages, self.settings)
        return found


def questions_of(data: Any, settings: LanguageSpecificSettings) -> MultilingualSet:
    """The set that ``data`` names, in the languages and about the countries of the settings.

    Raises:
        SettingsError: it is no such set, lacks English, or has one language.
        KeepsError: a file is missing or wrong.
    """
    if not isinstance(data, (str, Path)):
        mend = "name a folder of one file a language, or world"
        raise SettingsError("these records are not in several languages", where="data", mend=mend)
    parts = [part.strip() for part in str(data).split(",")]
    if not Path(data).exists() and all(part == "world" or part.startswith("world:") for part in parts):
        relations = [part.partition(":")[2] for part in parts if part != "world"]
        found = world_questions([] if "world" in parts else relations).only(countries=settings.countries)
    else:
        found = read_questions(data, countries=settings.countries)
    found = found.only(languages=settings.languages)
    if ENGLISH not in found.languages or len(found.languages) < 2:
        what = f"the set has {', '.join(found.languages)}"
        mend = "give English, whose questions are embedded, and at least one other language"
        raise SettingsError(what, where=found.source, mend=mend)
    return found

"""Answer questions with outside knowledge, by one method or several, and measure what they say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.contracts import Answer, Progress, Run, SilentProgress
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, UnknownNameError, nearest
from keeps.jobs.adapting import DEFAULT_MODEL, chosen_settings
from keeps.jobs.folders import check_new
from keeps.jobs.grounding_cards import check_cards, open_cards
from keeps.jobs.grounding_ledger import recording, source_fingerprint
from keeps.jobs.grounding_measures import MethodLine, graded, measures_table, method_line
from keeps.jobs.grounding_memory import check_memory, open_memory
from keeps.jobs.grounding_models import answering_model
from keeps.jobs.grounding_questions import Asked, asked_of
from keeps.jobs.grounding_sources import Remembering, check_sources, open_source
from keeps.jobs.grounding_tables import check_tables, documents_to_search, open_tables
from keeps.ledger.tables import Table
from keeps.ledger.workspace import Workspace
from keeps.models.remote_completion import is_remote
from keeps.registry import MethodInfo, find_method
from keeps.settings import Settings
from keeps.sources import Retriever
from keeps.weights.files import atomic_write_bytes, check_writable

DEFAULT_METHOD = "rag"
BATCH = 16  # questions that go on in step
Variant = tuple[str, MethodInfo, Settings]  # how it is called, the method, its settings
Watch = Callable[[str, int, Mapping[str, Any]], None]  # method, question's place, step


@dataclass(frozen=True)
class GroundOutcome:
    """What was answered.

    Attributes:
        methods: names of the methods, with their settings where those were named, in order.
        questions: as they were asked.
        answers: by method, one a question; see :meth:`keeps.ground.base.Grounded.answer`.
        lines: measures by method; empty where nobody knows the right answers.
        written: the file of traces, where one was asked for.
        results: by method, the id of the stored result; empty where nothing was recorded.
    """

    methods: tuple[str, ...]
    questions: tuple[str, ...]
    answers: Mapping[str, tuple[Answer, ...]]
    lines: tuple[MethodLine, ...] = ()
    written: Path | None = None
    results: Mapping[str, str] = field(default_factory=dict)

    @property
    def answer(self) -> Answer:
        """The first method's answer to the first question."""
        return self.answers[self.methods[0]][0]

    @property
    def table(self) -> Table | None:
        """The measures, a row a method."""
        return measures_table(self.lines) if self.lines else None


def ground(
    questions: str | Sequence[str] | RecordSet,
    docs: str | Path | Retriever | None = None,
    *,
    graph: Any = None,
    cards: Any = None,
    tables: Any = None,
    memory: Any = None,
    method: str | Sequence[str] = DEFAULT_METHOD,
    settings: Mapping[str, Any] | Settings | None = None,
    model: Any = DEFAULT_MODEL,
    retriever: str = "hybrid",
    from_file: bool = False,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    record: bool = False,
) -> GroundOutcome:
    """Answer ``questions`` with what ``docs`` say.

    >>> outcome = ground("Who founded Veltria?", "./documents", method="adaptive_note")  # doctest: +SKIP
    >>> outcome.answer.text, outcome.answer.citations  # doctest: +SKIP

    Args:
        questions: one or several; with ``from_file`` a file or set of records, whose answers are graded.
        docs: a folder or file of documents, the folder of an index, or a retriever.
        graph: a file of triples, or a ``keeps.graphs.KnowledgeGraph``, for methods that walk instead of reading.
        cards: models of single domains, as ``--card`` names them, or a ``keeps.ground.cards.CardHub``.
        tables: files of entities, or a ``keeps.data.entities.EntityBase``, for methods that answer from tables;
            documents that name an entity are then about it.
        memory: question-answer pairs: a file, ``world:RELATION``, or the folder of a memory or a trained reader.
        method: a name, or several; one may bring settings: ``"rag:order=best_first:k=3"``.
        settings: of the method; with several, of those that have them.
        model: a model, run or folder of a run; ``openai:URL#MODEL``; or something that chats or generates already.
        retriever: how documents are searched: ``"lexical"``, ``"dense"`` or ``"hybrid"``.
        limit: most questions.
        out: new file that gets every answer with its trace, one JSON object a line.
        watch: told of every step as it happens: method, place of the question, step.
        record: store graded answers in the ledger, and take from it what is there; not for cards, nor for retrievers
            and models that have no fingerprint.

    Raises:
        SettingsError: a bad setting, a method twice, or one that the model does not fit.
        EmptySetError: there is no question, or no document.
        KeepsError: anything else that the user can mend, before a model is loaded where possible.
    """
    variants = _variants([method] if isinstance(method, str) else list(method), settings)
    given = given_sources(documents=docs, graph=graph, cards=cards or None, tables=tables, pairs=memory)
    check_memory(memory, bool(given - {"pairs"}))
    check_variants(variants, model, given)
    asked = asked_of(questions, from_file=from_file, limit=limit)
    check_sources(docs, retriever)
    named_cards = check_cards(cards, Workspace(workspace)) if isinstance(cards, (list, tuple)) else []
    if out is not None:
        check_new(out)
        check_writable(Path(out).parent)
    progress = progress or SilentProgress()
    with ExitStack() as stack:
        pairs, said = open_memory(memory, device=device, progress=progress)
        entities = open_tables(tables, docs, progress=progress)
        docs = documents_to_search(docs, [info for _, info, _ in variants], tables=tables is not None)
        opened = open_source(docs, graph, retriever, progress=progress)
        remembering = None if docs is None else Remembering(opened)
        source = opened if remembering is None else remembering
        if isinstance(model, str) and not any(getattr(chosen, "needs_model", True) for _, _, chosen in variants):
            model = None  # such as a memory whose trained reader answers
        if isinstance(model, str):
            circumstances: dict[str, Any] = {"workspace": workspace, "device": device, "progress": progress}
            infos = [info for _, info, _ in variants]
            model = stack.enter_context(answering_model(model, infos, **circumstances))
        if named_cards:
            cards = open_cards(named_cards, model, remembering, device=device, progress=progress)
        run = Run(Path(), seed=seed, device=str(getattr(model, "device", "cpu")), progress=progress)
        texts = said if remembering is None else remembering.texts
        alone = entities is not None and opened is None  # of several sources nothing is stored
        source_hash = source_fingerprint(docs, graph, entities if alone else opened)
        source_hash = None if cards or pairs is not None or (entities is not None and not alone) else source_hash
        about: dict[str, Any] = {"seed": seed, "workspace": workspace}
        book = stack.enter_context(recording(record, asked, model, source_hash, **about))
        answers: dict[str, tuple[Answer, ...]] = {}
        seconds: dict[str, float] = {}
        for label, info, chosen in variants:
            stored, begun = book.find(info, chosen) if book and watch is None else None, time.monotonic()
            looked_into = cards if "cards" in info.needs else entities if "tables" in info.needs else source
            looked_into = pairs if "pairs" in info.needs else looked_into
            if stored is None:
                answers[label] = _answers(label, info, chosen, model, looked_into, asked, run, watch, texts)
            else:
                answers[label], cited = stored
                texts.update(cited)
            seconds[label] = time.monotonic() - begun
        lines = _lines(asked, answers, texts) if asked.gradable else ()
        results: dict[str, str] = {}
        for (label, info, chosen), line in zip(variants, lines, strict=False):
            if book is not None:
                results[label] = book.add(label, info, chosen, line.graded, texts, seconds[label])
    written = None
    if out is not None:
        atomic_write_bytes(out, _traces(asked, answers).encode())
        written = Path(out)
    return GroundOutcome(tuple(answers), asked.questions, answers, lines, written, results)


def parse_variant(text: str, common: Mapping[str, Any] | Settings | None = None) -> Variant:
    """``rag`` or ``rag:order=best_first:k=3`` as a label, the method and its settings.

    Raises:
        UnknownNameError: there is no such method or setting.
        SettingsError: a setting is malformed or wrong.
    """
    name, *pairs = text.split(":")
    info = find_method(name.strip(), "ground")
    own: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise SettingsError(f'"{pair}" is no setting', where=text, mend="write method:name=value:name=value")
        own[key.strip().replace("-", "_")] = value.strip()
    if isinstance(common, Settings) and own:
        common = common.to_mapping()
    return text, info, chosen_settings(info, common if isinstance(common, Settings) else {**(common or {}), **own})


def _variants(texts: Sequence[str], common: Mapping[str, Any] | Settings | None) -> list[Variant]:
    """Each method with its settings; of settings for several each takes those that it has, and one must."""
    if len(texts) < 2 or not isinstance(common, Mapping):
        return [parse_variant(text, common) for text in texts]
    fields = [{f.name for f in find_method(t.partition(":")[0].strip(), "ground").settings.fields()} for t in texts]
    for key in common:
        if not any(key in names for names in fields):
            mend = nearest(key, set().union(*fields))
            raise UnknownNameError(f'none of the methods has a setting "{key}"', where="settings", mend=mend)
    return [
        parse_variant(text, {key: value for key, value in common.items() if key in names})
        for text, names in zip(texts, fields, strict=True)
    ]


def given_sources(**sources: Any) -> frozenset[str]:
    """Which sources there are, by the names that methods say they need.

    >>> sorted(given_sources(documents="./docs", graph=None, pairs="pairs.jsonl"))
    ['documents', 'pairs']
    """
    return frozenset(name for name, source in sources.items() if source is not None)


def check_variants(variants: Sequence[Variant], model: Any, given: frozenset[str]) -> None:
    """Refuse methods that are named twice, read something else than is given, or do not fit the model.

    Args:
        given: of :func:`given_sources`.

    Raises:
        SettingsError: one of these.
    """
    labels = [label for label, _, _ in variants]
    if not labels or len(set(labels)) < len(labels):
        what = "no method is named" if not labels else "a method is named twice with the same settings"
        raise SettingsError(what, where="method", mend="name each once, as in rag:order=best_first")
    if not given or {"documents", "graph"} <= given:
        what = "both are given" if given else "name documents, or a graph"
        raise SettingsError(what, where="docs", mend="give documents or a graph, and methods that use it")
    check_tables([info for _, info, _ in variants], tables="tables" in given)
    if "cards" in given and not any("cards" in info.needs for _, info, _ in variants):
        raise SettingsError("no method asks the cards", where="cards", mend="choose one: --method knowledge_cards")
    for label, info, _ in variants:
        if not given & set(info.needs):
            what = f"{label} reads {' and '.join(info.needs) or 'nothing'}, not {' and '.join(sorted(given))}"
            raise SettingsError(what, where="method", mend="choose another: keeps methods --verb ground")
        if isinstance(model, str) and is_remote(model) and "chat" not in info.fits:
            mend = "name a model on this machine, or choose a method that fits a chat, such as rag"
            raise SettingsError(f"{label} needs a model whose weights are on this machine", where=model, mend=mend)


def _answers(
    label: str,
    info: MethodInfo,
    settings: Settings,
    model: Any,
    source: Any,
    asked: Asked,
    run: Run,
    watch: Watch | None,
    texts: dict[str, str],
) -> tuple[Answer, ...]:
    """The answers of one method, some questions at a time, so that progress is seen; ``texts`` gets what it read."""
    answerer = info.implementation(settings)(model, source, run=run)
    found: list[Answer] = []
    kept_open = source.open() if "cards" in info.needs else nullcontext()  # adapters stay on their base meanwhile
    with kept_open, run.progress.task(label, len(asked.questions)) as task:
        for start in range(0, len(asked.questions), BATCH):
            if watch is not None and hasattr(answerer, "watch"):
                answerer.watch = _watcher(watch, label, start)
            batch = asked.questions[start : start + BATCH]
            found += answerer.answer(batch)
            task.advance(len(batch))
    texts.update(getattr(answerer, "texts", {}))
    return tuple(found)


def _watcher(watch: Watch, label: str, start: int) -> Callable[[int, Mapping[str, Any]], None]:
    return lambda place, step: watch(label, start + place, step)


def _lines(asked: Asked, answers: Mapping[str, Sequence[Answer]], texts: Mapping[str, str]) -> tuple[MethodLine, ...]:
    items = {
        label: graded(asked.ids, asked.questions, asked.expected, found, texts) for label, found in answers.items()
    }
    first = next(iter(items))
    return tuple(method_line(label, found, None if label == first else items[first]) for label, found in items.items())


def _traces(asked: Asked, answers: Mapping[str, Sequence[Answer]]) -> str:
    """One JSON object a line: method, question, answer, citations, trace."""
    lines = []
    for label, found in answers.items():
        for identity, question, expected, answer in zip(asked.ids, asked.questions, asked.expected, found, strict=True):
            row = {"method": label, "id": identity, "question": question, "expected": list(expected)}
            row |= {"answer": answer.text, "citations": list(answer.citations), "trace": dict(answer.trace)}
            lines.append(json.dumps(row, ensure_ascii=False, default=str))
    return "\n".join(lines) + "\n"

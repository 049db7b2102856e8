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
from keeps.jobs.folders import check_new
from keeps.jobs.grounding_inputs import Inputs
from keeps.jobs.grounding_ledger import recording
from keeps.jobs.grounding_measures import MethodLine, graded, measures_table, method_line
from keeps.jobs.grounding_models import answering_model
from keeps.jobs.grounding_questions import Asked, asked_of
from keeps.jobs.grounding_variants import check_variants, parse_variants
from keeps.ledger.tables import Table
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import MethodInfo
from keeps.settings import Settings
from keeps.sources import Retriever, reader_of
from keeps.weights.files import atomic_write_bytes, check_writable

BATCH = 16  # questions that go on in step
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
    method: str | Sequence[str] | None = None,
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
        method: a name, or several; one may bring settings: ``"rag:order=best_first:k=3"``. By default what answers
            from what is given (:func:`keeps.sources.reader_of`).
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
    inputs = Inputs(docs, graph, cards, tables, memory, retriever)
    named = reader_of(inputs.given) if method is None else method
    variants = parse_variants([named] if isinstance(named, str) else list(named), settings)
    infos = [info for _, info, _ in variants]
    cards_named = inputs.check(infos, workspace)
    check_variants(variants, model, inputs.given)
    asked = asked_of(questions, from_file=from_file, limit=limit)
    if out is not None:
        check_new(out)
        check_writable(Path(out).parent)
    progress = progress or SilentProgress()
    with ExitStack() as stack:
        opened = inputs.open(infos, device=device, progress=progress)
        if isinstance(model, str) and not any(getattr(chosen, "needs_model", True) for _, _, chosen in variants):
            model = None  # such as a memory whose trained reader answers
        if isinstance(model, str):
            circumstances: dict[str, Any] = {"workspace": workspace, "device": device, "progress": progress}
            model = stack.enter_context(answering_model(model, infos, **circumstances))
        opened.open_cards(cards_named, model, device=device, progress=progress)
        run = Run(Path(), seed=seed, device=str(getattr(model, "device", "cpu")), progress=progress)
        about: dict[str, Any] = {"seed": seed, "workspace": workspace}
        book = stack.enter_context(recording(record, asked, model, opened.fingerprint, **about))
        texts = opened.texts
        answers: dict[str, tuple[Answer, ...]] = {}
        seconds: dict[str, float] = {}
        for label, info, chosen in variants:
            stored, begun = book.find(info, chosen) if book and watch is None else None, time.monotonic()
            if stored is None:
                answers[label] = _answers(label, info, chosen, model, opened.of(info), asked, run, watch, texts)
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

"""Answer questions with outside knowledge, by one method or several, and measure what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.contracts import Answer, Progress, Run, SilentProgress
from keeps.data.records import Example, Fact, RecordSet
from keeps.data.select import load_records, sampled
from keeps.errors import EmptySetError, RecordError, SettingsError, UnknownNameError, nearest
from keeps.jobs.adapting import DEFAULT_MODEL, chosen_settings
from keeps.jobs.folders import check_new
from keeps.jobs.grounding_measures import MethodLine, graded, measures_table, method_line
from keeps.jobs.grounding_sources import KINDS, Remembering, check_documents, open_documents, open_graph
from keeps.jobs.models import changed, load_base, resolve
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
class Asked:
    """Questions with their accepted answers; no answers where nobody knows them."""

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    expected: tuple[tuple[str, ...], ...]

    @property
    def gradable(self) -> bool:
        """Whether every question has an accepted answer."""
        return all(self.expected)


@dataclass(frozen=True)
class GroundOutcome:
    """What was answered.

    Attributes:
        methods: names of the methods, with their settings where those were named, in order.
        questions: as they were asked.
        answers: by method, one a question; see :meth:`keeps.ground.base.Grounded.answer`.
        lines: measures by method; empty where nobody knows the right answers.
        written: the file of traces, where one was asked for.
    """

    methods: tuple[str, ...]
    questions: tuple[str, ...]
    answers: Mapping[str, tuple[Answer, ...]]
    lines: tuple[MethodLine, ...] = ()
    written: Path | None = None

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
) -> GroundOutcome:
    """Answer ``questions`` with what ``docs`` say.

    >>> outcome = ground("Who founded Veltria?", "./documents", method="adaptive_note")  # doctest: +SKIP
    >>> outcome.answer.text, outcome.answer.citations  # doctest: +SKIP

    Args:
        questions: one or several; with ``from_file`` a file or set of records, whose answers are graded.
        docs: a folder or file of documents, the folder of an index, or a retriever.
        graph: a file of triples, or a ``keeps.graphs.KnowledgeGraph``, for methods that walk instead of reading.
        method: a name, or several; one may bring settings: ``"rag:order=best_first:k=3"``.
        settings: of the method; with several, of those that have them.
        model: a model, run or folder of a run; ``openai:URL#MODEL``; or something that chats or generates already.
        retriever: how documents are searched: ``"lexical"``, ``"dense"`` or ``"hybrid"``.
        limit: most questions.
        out: new file that gets every answer with its trace, one JSON object a line.
        watch: told of every step as it happens: method, place of the question, step.

    Raises:
        SettingsError: a bad setting, a method twice, or one that the model does not fit.
        EmptySetError: there is no question, or no document.
        KeepsError: anything else that the user can mend, before a model is loaded where possible.
    """
    variants = _variants([method] if isinstance(method, str) else list(method), settings)
    _check_variants(variants, model, documents=docs is not None, graph=graph is not None)
    asked = _asked(questions, from_file=from_file, limit=limit)
    if retriever not in KINDS:
        raise SettingsError(f'the retriever is "{retriever}"', where="retriever", mend=nearest(retriever, KINDS))
    if out is not None:
        check_new(out)
        check_writable(Path(out).parent)
    if isinstance(docs, (str, Path)):
        check_documents(docs)
    progress = progress or SilentProgress()
    with ExitStack() as stack:
        if isinstance(docs, (str, Path)):
            docs = open_documents(docs, retriever, progress=progress)
        remembering = None if docs is None else Remembering(docs)
        source = open_graph(graph) if remembering is None else remembering
        if isinstance(model, str):
            named = resolve(model, Workspace(workspace))
            base = load_base(named, device=device, progress=progress)
            model = base if named.change is None else stack.enter_context(changed(named, base))
        run = Run(Path(), seed=seed, device=str(getattr(model, "device", "cpu")), progress=progress)
        answers = {
            label: _answers(label, info, chosen, model, source, asked, run, watch) for label, info, chosen in variants
        }
    texts = {} if remembering is None else remembering.texts
    lines = _lines(asked, answers, texts) if asked.gradable else ()
    written = None
    if out is not None:
        atomic_write_bytes(out, _traces(asked, answers).encode())
        written = Path(out)
    return GroundOutcome(tuple(answers), asked.questions, answers, lines, written)


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


def _check_variants(variants: Sequence[Variant], model: Any, *, documents: bool, graph: bool) -> None:
    labels = [label for label, _, _ in variants]
    if not labels or len(set(labels)) < len(labels):
        what = "no method is named" if not labels else "a method is named twice with the same settings"
        raise SettingsError(what, where="method", mend="name each once, as in rag:order=best_first")
    if documents == graph:
        mend = "give documents or a graph, and methods that use it"
        raise SettingsError("name documents, or a graph" if not graph else "both are given", where="docs", mend=mend)
    given = "graph" if graph else "documents"
    for label, info, _ in variants:
        if given not in info.needs:
            what = f"{label} reads {' and '.join(info.needs) or 'nothing'}, not {given}"
            raise SettingsError(what, where="method", mend="choose another: keeps methods --verb ground")
        if isinstance(model, str) and is_remote(model) and "chat" not in info.fits:
            mend = "name a model on this machine, or choose a method that fits a chat, such as rag"
            raise SettingsError(f"{label} needs a model whose weights are on this machine", where=model, mend=mend)


def _asked(questions: str | Sequence[str] | RecordSet, *, from_file: bool, limit: int | None) -> Asked:
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}", where="limit", mend="ask at least one question")
    if isinstance(questions, RecordSet) or from_file:
        records = load_records(questions if isinstance(questions, RecordSet) else str(questions))
        kept = [record for record in records if isinstance(record, (Fact, Example))]
        if not kept:
            mend = "give rows with question (or prompt) and answer"
            raise EmptySetError("there is no question with an answer", where=records.source, mend=mend)
        kept = [r for r in kept if isinstance(r, (Fact, Example))] if limit is None else sampled(kept, limit)
        rows = [_row(record) for record in kept]
        return Asked(*(tuple(column) for column in zip(*rows, strict=True)))
    texts = [questions] if isinstance(questions, str) else list(questions)
    texts = texts[:limit]
    if not texts or not all(text.strip() for text in texts):
        raise RecordError("there is no question, or an empty one", where="question", mend="give a question")
    return Asked(tuple(str(n + 1) for n in range(len(texts))), tuple(texts), ((),) * len(texts))


def _row(record: Any) -> tuple[str, str, tuple[str, ...]]:
    if isinstance(record, Fact):
        return record.id, record.prompts[0], record.answers
    return record.id, record.prompt, (record.answer, *record.aliases)


def _answers(
    label: str,
    info: MethodInfo,
    settings: Settings,
    model: Any,
    source: Any,
    asked: Asked,
    run: Run,
    watch: Watch | None,
) -> tuple[Answer, ...]:
    """The answers of one method, some questions at a time, so that progress is seen."""
    answerer = info.implementation(settings)(model, source, run=run)
    found: list[Answer] = []
    with run.progress.task(label, len(asked.questions)) as task:
        for start in range(0, len(asked.questions), BATCH):
            if watch is not None and hasattr(answerer, "watch"):
                answerer.watch = _watcher(watch, label, start)
            batch = asked.questions[start : start + BATCH]
            found += answerer.answer(batch)
            task.advance(len(batch))
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

"""What everything agrees on: what is asked, what comes back, what a method gets and returns.

Two contracts carry the library. A *method* takes a model and data and returns a :class:`Change`; a
*probe* takes anything that answers and returns one :class:`Row` per question. Nothing in this file
knows torch, so that every room of the house can import it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from keeps.errors import StorageError

if TYPE_CHECKING:
    from keeps.settings import Settings

CHANGE_FORMAT = 1  # version of change.json; raise it when an old reader would misread a new file


# --- asking and answering ---------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One thing to ask, in one or more wordings.

    ``answers`` are all accepted answers, the canonical one first. With ``choices`` the question is
    multiple choice and ``answers`` must be among them.
    """

    id: str
    group: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What an Answerer says: the text, what it cites, and how it got there."""

    text: str
    citations: tuple[str, ...] = ()
    trace: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Answerer(Protocol):
    """Anything that answers: a model, a changed model, a retrieval pipeline, a remote server."""

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question, in order."""
        ...


@dataclass(frozen=True)
class Row:
    """One probed question. Rows of two results with the same ``id`` are compared with each other.

    Attributes:
        id: stable across runs and versions of the model.
        group: the line of the diff that this row counts in, such as ``"keep: capital"``.
        prompt: the first wording, as the model saw it.
        expected: the canonical answer.
        answer: what the model said to the first wording.
        correct: whether the question counts as known (right in the majority of its wordings).
        score: share of the wordings answered rightly, in [0, 1] (texts: see ``kind``).
        logprob: natural-log probability of the expected answer, summed over its tokens and averaged
            over the wordings; None where the answerer gives no probabilities.
        kind: ``"fact"``, ``"choice"`` or ``"text"``. A text row has no right answer: ``correct`` is
            False, ``score`` is the mean log-probability per token, ``logprob`` the sum, and
            ``details["tokens"]`` the number of tokens scored.
        details: per-wording answers and whatever else the probe measured (JSON types only).
    """

    id: str
    group: str
    prompt: str
    expected: str
    answer: str
    correct: bool
    score: float
    logprob: float | None = None
    kind: str = "fact"
    details: Mapping[str, Any] = field(default_factory=dict)


class Probe(Protocol):
    """Data plus a way to ask plus a way to score."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Hash of the questions and of the way they are asked; equal means comparable."""
        ...

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """Ask everything; one row per question, in the order of the questions."""
        ...


# --- running ----------------------------------------------------------------------------------


class ProgressTask(Protocol):
    """A bar that is under way."""

    def advance(self, amount: float = 1) -> None: ...

    def note(self, text: str) -> None:
        """Show a short remark beside the bar, such as the loss."""
        ...


class Progress(Protocol):
    """Shows long work with a rate and an end time."""

    def task(self, description: str, total: float | None, done: float = 0) -> AbstractContextManager[ProgressTask]: ...

    def message(self, text: str) -> None: ...


class _SilentTask(AbstractContextManager["_SilentTask"]):
    def advance(self, amount: float = 1) -> None:
        del amount

    def note(self, text: str) -> None:
        del text

    def __exit__(self, *exc: object) -> None:
        return None


class SilentProgress:
    """Shows nothing; the default in Python."""

    def task(self, description: str, total: float | None, done: float = 0) -> AbstractContextManager[ProgressTask]:
        del description, total, done
        return _SilentTask()

    def message(self, text: str) -> None:
        del text


@dataclass
class Run:
    """The circumstances of one run, handed to every method and probe: no globals.

    Attributes:
        folder: where the method writes. It bears a temporary name until the run is complete.
        seed: seeds every random choice of the run.
        device: torch device, such as ``"cpu"`` or ``"cuda:0"``.
        resume: continue from the checkpoint in ``folder`` if there is one.
        is_main: whether this process writes files; false in all but one of several processes.
        curves: ``(name, step, value)`` rows for the training curves.
        measures: what the method measured on itself (seconds, trained parameters, bytes, ...).
    """

    folder: Path
    seed: int = 0
    device: str = "cpu"
    resume: bool = False
    is_main: bool = True
    progress: Progress = field(default_factory=SilentProgress)
    curves: list[tuple[str, int, float]] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)

    def log(self, step: int, **values: float) -> None:
        """Add one point to each named training curve."""
        self.curves.extend((name, step, float(value)) for name, value in values.items())


# --- changing ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangeRecord:
    """``change.json``: everything needed to know what a change is, without loading a tensor."""

    kind: str  # "adapter" (a PEFT folder), "checkpoint" (a transformers folder), "experts", or a form of the method
    method: str
    settings: Mapping[str, Any]
    base_model: str
    base_fingerprint: str
    seed: int
    data: Mapping[str, str]  # "learn" / "keep" -> fingerprint
    versions: Mapping[str, str]
    measures: Mapping[str, Any] = field(default_factory=dict)
    format: int = CHANGE_FORMAT

    def write(self, folder: Path) -> None:
        """Write ``folder/change.json`` (the caller renames the folder when all is there)."""
        text = json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}, indent=2, sort_keys=True)
        (folder / "change.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ChangeRecord:
        """Read ``folder/change.json``.

        Raises:
            StorageError: the file is missing, damaged, or of another format version.
        """
        path = folder / "change.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StorageError(
                "there is no change.json", where=str(folder), mend="name the folder of a finished run"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StorageError(
                f"change.json cannot be read ({error})", where=str(path), mend="run the job again"
            ) from None
        found = values.get("format") if isinstance(values, dict) else None
        if found != CHANGE_FORMAT:
            raise StorageError(
                f"this run folder has format {found}, this version of keeps reads format {CHANGE_FORMAT}",
                where=str(path),
                mend="use the version of keeps that wrote it, or run the job again",
            )
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise StorageError(f"change.json lacks {', '.join(missing)}", where=str(path), mend="run the job again")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})

    def with_measures(self, measures: Mapping[str, Any]) -> ChangeRecord:
        """The same record with other measures."""
        return replace(self, measures=dict(measures))


class Change(ABC):
    """What a method returns and what lies on disk: one folder that plain libraries load."""

    forms: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, record: ChangeRecord) -> None:
        self.folder = folder
        self.record = record

    @abstractmethod
    def apply(self, model: Any) -> Any:
        """Return ``model`` (a LanguageModel over the base) changed; ``undo()`` of it restores."""

    @abstractmethod
    def export(self, form: str, folder: Path) -> float:
        """Write the change in another form; return the largest logit difference to the original."""


M = TypeVar("M", bound="Method")


@runtime_checkable
class Method(Protocol):
    """A way to change what a model knows. One file, one class; called with the data it needs."""

    settings: Settings

    def __init__(self, settings: Settings) -> None: ...

    def __call__(self, model: Any, learn: Any, keep: Any = None, *, run: Run) -> Change:
        """Change ``model`` so that it knows ``learn`` and still knows ``keep``."""
        ...


@runtime_checkable
class FineTuneMerge(Method, Protocol):
    """A method that is called with a loaded base and, as ``learn``, fine-tunes of it instead of records.

    Attributes:
        takes_fine_tunes: True; of a class that says nothing it is False.
    """

    takes_fine_tunes: ClassVar[bool]

"""A notebook of statements: notes by meaning, the nearest first; the newest note on a matter wins.

Editing beside the weights keeps its facts here: the model stays as it is and reads what it is shown. Search is
exact, over all notes, and its order depends on the texts alone: likenesses are compared to five decimals, and of
equals the newer note comes first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from keeps.data.edits import Edit
from keeps.errors import RecordError, SettingsError, StorageError, UnknownNameError, nearest
from keeps.models.encoder import SentenceEncoder
from keeps.weights.files import atomic_write_bytes, load_tensors, save_tensors

NAME = "notes"  # of the two files, NAME.jsonl and NAME.safetensors
DECIMALS = 5  # to which likenesses are compared: how a batch is cut moves the sixth


class Encoder(Protocol):
    """What makes vectors of length 1 of texts."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(len(texts), width)`` float32."""
        ...


@dataclass(frozen=True)
class Note:
    """One statement.

    Attributes:
        id: of the edit that it came from, where it came from one.
        statement: a declarative sentence, without its full stop.
        subject, relation: what it is about; two notes on the same matter contradict each other. "" where not known.
        prompt, target: the question or beginning that the statement completes, and how; "" where not known.
    """

    id: str
    statement: str
    subject: str = ""
    relation: str = ""
    prompt: str = ""
    target: str = ""

    @property
    def matter(self) -> tuple[str, str] | None:
        """Subject and relation, where both are known."""
        known = self.subject and self.relation
        return (self.subject.casefold(), self.relation.casefold()) if known else None


@dataclass(frozen=True)
class Hit:
    """A note that was found.

    Attributes:
        likeness: the cosine with the question, in [-1, 1].
        age: its place in the notebook; a newer note has a higher one.
    """

    note: Note
    likeness: float
    age: int = 0


def notes_of(edits: Iterable[Edit]) -> list[Note]:
    """One note an edit. An edit without a relation is about its prompt: two edits of one prompt contradict."""
    return [
        Note(
            edit.id,
            stated(edit),
            edit.subject,
            edit.relation or (edit.prompt if edit.subject else ""),
            edit.prompt,
            edit.target_new,
        )
        for edit in edits
    ]


def stated(edit: Edit) -> str:
    """The edit as a statement: prompt and answer, or, where the prompt is a question, both behind each other.

    >>> stated(Edit("1", "Oslo", "Oslo is the capital of", "Sweden"))
    'Oslo is the capital of Sweden'
    >>> stated(Edit("1", "Oslo", "Which country is Oslo the capital of?", "Sweden"))
    'Which country is Oslo the capital of? Sweden'
    """
    return f"{edit.prompt} {edit.target_new}".strip().removesuffix(".")


@dataclass
class Notebook:
    """Notes and their vectors; ``encoder`` is the embedded sentence encoder, loaded when first needed.

    Args:
        near: a new note replaces an older one whose cosine with it is at least this, unless both say that they are
            about different matters; None: only a note on the same subject and relation is replaced.

    >>> notebook = Notebook(encoder=_Letters())
    >>> notebook.add(["Bergen is the capital of Norway.", "The sun is a star"])
    ['note-1', 'note-2']
    >>> notebook.search(["What is the capital of Norway?"], k=1)[0][0].note.statement
    'Bergen is the capital of Norway'
    """

    encoder: Encoder | None = None
    near: float | None = None
    notes: list[Note] = field(default_factory=list)
    vectors: Tensor | None = None  # (notes, width) float32, rows of length 1
    _known: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _count: int = 0

    def __post_init__(self) -> None:
        if self.near is not None and not 0 < self.near <= 1:
            raise SettingsError(f"near is {self.near}", where="Notebook", mend="choose a cosine above 0, at most 1")

    def __len__(self) -> int:
        return len(self.notes)

    def add(self, notes: Sequence[str | Note]) -> list[str]:
        """Append notes, and give their ids; older notes that they contradict go.

        Raises:
            RecordError: a note is empty or no text, or has the id of another one.
        """
        if isinstance(notes, str):
            raise RecordError("notes is one text, not a list of texts", mend="put it in a list")
        fresh = [self._checked(note, number) for number, note in enumerate(notes, 1)]
        if not fresh:
            return []
        vectors = self.encode([note.statement for note in fresh])
        for note, vector in zip(fresh, vectors, strict=True):
            kept = [index for index, old in enumerate(self.notes) if not self._replaces(note, vector, old, index)]
            if any(self.notes[index].id == note.id for index in kept):
                raise RecordError(f'the id "{note.id}" stands twice', where="Notebook", mend="give each its own id")
            rows = [] if self.vectors is None else [self.vectors[kept]]
            self.notes = [*(self.notes[index] for index in kept), note]
            self.vectors = torch.cat([*rows, vector[None]])  # as rows: one note, one row
        return [note.id for note in fresh]

    def remove(self, *ids: str) -> None:
        """Take notes out.

        Raises:
            UnknownNameError: there is no such note.
        """
        have = [note.id for note in self.notes]
        for name in ids:
            if name not in have:
                raise UnknownNameError(f'there is no note "{name}"', where="Notebook", mend=nearest(name, have))
        kept = [index for index, name in enumerate(have) if name not in ids]
        self.notes = [self.notes[index] for index in kept]
        self.vectors = self.vectors[kept] if self.vectors is not None and kept else None

    def search(self, questions: Sequence[str], k: int = 1) -> list[list[Hit]]:
        """The ``k`` notes most like each question (fewer where there are fewer), the nearest first.

        Raises:
            SettingsError: ``k`` is below 1.
        """
        if k < 1:
            raise SettingsError(f"k is {k}", where="Notebook.search", mend="choose 1 or more")
        if self.vectors is None or not questions:
            return [[] for _ in questions]
        table = (self.encode(questions) @ self.vectors.T).double()  # (questions, notes)
        found = []
        for row in table.tolist():
            order = sorted(range(len(row)), key=lambda index: (-round(row[index], DECIMALS), -index))
            found.append([Hit(self.notes[index], row[index], index) for index in order[:k]])
        return found

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(len(texts), width)`` float32; a text is encoded once, and alone of its kind in a call."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            if self.encoder is None:
                self.encoder = SentenceEncoder.load()
            self._known.update(zip(fresh, self.encoder.encode(fresh), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def save(self, folder: Path, name: str = NAME) -> None:
        """Write the notes and their vectors into ``folder``.

        Raises:
            StorageError: the folder cannot be written.
        """
        lines = [json.dumps(asdict(note), ensure_ascii=False) + "\n" for note in self.notes]
        atomic_write_bytes(folder / f"{name}.jsonl", "".join(lines).encode())
        if self.vectors is not None:
            save_tensors(folder / f"{name}.safetensors", {"vectors": self.vectors})

    @classmethod
    def load(
        cls, folder: Path, name: str = NAME, *, encoder: Encoder | None = None, near: float | None = None
    ) -> Notebook:
        """The notebook in ``folder``.

        Raises:
            StorageError: a file is missing or damaged.
        """
        path = folder / f"{name}.jsonl"
        try:
            notes = [Note(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, TypeError) as error:
            mend = "make the edits again"
            raise StorageError(f"the notes cannot be read ({error})", where=str(path), mend=mend) from None
        vectors = load_tensors(folder / f"{name}.safetensors")["vectors"] if notes else None
        if vectors is not None and len(vectors) != len(notes):
            what = f"there are {len(notes)} notes and {len(vectors)} vectors"
            raise StorageError(what, where=str(folder), mend="make the edits again")
        numbers = [int(note.id[5:]) for note in notes if note.id.startswith("note-") and note.id[5:].isdigit()]
        return cls(encoder, near, notes, vectors, {}, max(numbers, default=0))

    def _checked(self, note: Any, number: int) -> Note:
        if isinstance(note, str):
            self._count += 1
            note = Note(f"note-{self._count}", note)
        if not isinstance(note, Note) or not isinstance(note.statement, str):
            raise RecordError("a note is no text", where=f"note {number}", mend="give a sentence")
        statement = note.statement.strip().removesuffix(".")
        if not statement:
            raise RecordError("a note is empty", where=f"note {number}", mend="give a sentence")
        return Note(**{**asdict(note), "statement": statement})

    def _replaces(self, note: Note, vector: Tensor, old: Note, index: int) -> bool:
        if note.matter is not None and old.matter is not None:
            return note.matter == old.matter
        if note.statement == old.statement and note.id != old.id and self.near is not None:
            return True
        return self.near is not None and self.vectors is not None and float(vector @ self.vectors[index]) >= self.near


class _Letters:
    """Letter counts as vectors: stands in for a sentence encoder in examples and tests."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), 26)
        for row, text in zip(rows, texts, strict=True):
            for letter in text.casefold():
                if "a" <= letter <= "z":
                    row[ord(letter) - 97] += 1
        return torch.nn.functional.normalize(rows + 1e-6, dim=1)

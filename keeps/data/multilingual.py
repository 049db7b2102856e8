"""The same questions in several languages: records with a shared id, checked against each other.

A folder holds one file a language, named by its code or English name (``hi.jsonl``, ``Hindi.jsonl``), or one file
holds all of them with a column ``language``. A row has::

    {"id": "q7", "input": "...", "choices": ["...", "..."], "answer": "...", "country": "Iran", "topic": "food"}

``output`` means the same as ``answer``. Choices may be an object of letters and texts, and the answer a letter of it.
Without choices the question is answered freely, and every text of a list of answers is accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from keeps.data.formats import ROWS
from keeps.data.languages import language
from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.errors import EmptySetError, RecordError, UnknownNameError, nearest

INPUTS, ANSWERS = ("input", "question"), ("answer", "output", "answers")


@dataclass(frozen=True)
class LanguageQuestion:
    """One question in one language; ``choices`` is empty where it is answered freely."""

    id: str
    language: str  # code
    text: str
    choices: tuple[str, ...]
    answers: tuple[str, ...]  # accepted, of ``choices`` if there are any
    country: str = ""
    topic: str = ""


@dataclass(frozen=True)
class MultilingualSet:
    """Questions by language code, in one order of ids.

    Attributes:
        left_out: reason to number of questions that a reader of a published file left out.
    """

    source: str
    questions: Mapping[str, tuple[LanguageQuestion, ...]]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: str, questions: Iterable[LanguageQuestion], *, left_out: Mapping[str, int] | None = None
    ) -> MultilingualSet:
        """Check the questions, and those of each language against those of the first.

        Raises:
            EmptySetError: there is no question.
            RecordError: an empty text, an option that stands twice, an answer that is not among the choices, an id
                that stands twice in a language, or languages with different ids or numbers of choices.
        """
        found: dict[str, dict[str, LanguageQuestion]] = {}
        for question in questions:
            where = f"{source}, {question.language}, id {question.id}"
            _check(question, where)
            own = found.setdefault(question.language, {})
            if question.id in own:
                raise RecordError("the id stands twice", where=where, mend="give every question an id of its own")
            own[question.id] = question
        if not found:
            raise EmptySetError("there is no question in it", where=source, mend="add at least one row a language")
        first = next(iter(found))
        for name, own in found.items():
            _check_pair(source, (first, found[first]), (name, own))
        about = {key: _about([own[key] for own in found.values()]) for key in found[first]}
        kept = {name: tuple(replace(own[key], **about[key]) for key in found[first]) for name, own in found.items()}
        return cls(source, kept, left_out or {})

    @property
    def languages(self) -> tuple[str, ...]:
        """Language codes, in the order of the files."""
        return tuple(self.questions)

    @property
    def ids(self) -> list[str]:
        """The ids, which are the same in all languages."""
        return [question.id for question in next(iter(self.questions.values()))]

    @property
    def free_text(self) -> bool:
        """Whether some question has no choices."""
        return any(not question.choices for question in next(iter(self.questions.values())))

    @property
    def parallel(self) -> bool:
        """Whether the right options stand at the same places in all languages, so that votes can be counted."""
        places = [[_places(question) for question in own] for own in self.questions.values()]
        return all(own == places[0] for own in places)

    @property
    def fingerprint(self) -> str:
        """Hash of all questions (16 hexadecimal digits)."""
        content = json.dumps([asdict(q) for own in self.questions.values() for q in own], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def only(
        self,
        *,
        ids: Collection[str] | None = None,
        languages: Sequence[str] = (),
        countries: Sequence[str] = (),
    ) -> MultilingualSet:
        """Some of the questions, some of the languages; nothing named means all.

        Raises:
            UnknownNameError: a language or country that the set does not have.
        """
        codes = [_known(language(name).code, self.languages, "language", self.source) for name in languages]
        every = sorted({question.country for question in next(iter(self.questions.values())) if question.country})
        wanted = {_known(name, every, "country", self.source) for name in countries}
        kept = {
            code: tuple(
                question
                for question in self.questions[code]
                if (ids is None or question.id in ids) and (not wanted or question.country in wanted)
            )
            for code in codes or self.languages
        }
        return replace(self, questions=kept)


def read_multilingual(path: str | Path) -> MultilingualSet:
    """The questions of a folder of one file a language, or of a file with a column ``language``.

    Raises:
        InputFileError: a file is missing, damaged, or of no known format.
        RecordError: a row that is refused, see :meth:`MultilingualSet.of`.
        EmptySetError: there is no question.
    """
    path = Path(path)
    if not path.is_dir():
        return MultilingualSet.of(str(path), (question_of(row) for row in file_rows(path)))
    files = sorted(item for item in path.iterdir() if item.suffix.lower() in ROWS)
    if not files:
        raise EmptySetError(
            "the folder holds no file of questions", where=str(path), mend="add en.jsonl, fr.jsonl, ..."
        )
    rows = (question_of(row, language(item.stem).code) for item in files for row in file_rows(item))
    return MultilingualSet.of(str(path), rows)


def question_of(row: Row, code: str = "") -> LanguageQuestion:
    """A row as a question; ``code`` is the language of its file.

    Raises:
        RecordError: a column is missing, or of another type.
    """
    if not code:
        name = row.values.get("language")
        if not isinstance(name, str) or not name.strip():
            mend = 'add a column "language", or give a folder of one file a language'
            raise row.error("the row names no language", mend, "language")
        code = language(name).code
    identity = row.values.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or str(identity).strip() == "":
        raise row.error("the question has no id", "give each the id that it has in all languages", "id")
    choices = row.values.get("choices", row.values.get("candidates")) or ()
    column, given = next(((name, row.values[name]) for name in ANSWERS if name in row.values), ("answer", None))
    if isinstance(choices, Mapping):
        given = choices.get(given, given) if isinstance(given, str) else given
        choices = list(choices.values())
    return LanguageQuestion(
        str(identity),
        code,
        next((row.values[name] for name in INPUTS if isinstance(row.values.get(name), str)), ""),
        _texts(row, choices, "choices"),
        _texts(row, [given] if isinstance(given, str) else given, column),
        str(row.values.get("country") or ""),
        str(row.values.get("topic") or ""),
    )


def _texts(row: Row, value: Any, column: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise row.error("this is no list of texts", f'give "{column}" as texts', column)
    return tuple(item.strip() for item in value)


def _check(question: LanguageQuestion, where: str) -> None:
    if not question.text.strip() or not all(question.choices) or not question.answers or not all(question.answers):
        raise RecordError("the question, an option or the answer is empty", where=where, mend="fill it in")
    if len(question.choices) == 1:
        raise RecordError("there is one option", where=where, mend="give at least two, or none for a free answer")
    twice = [choice for choice in question.choices if question.choices.count(choice) > 1]
    if twice:
        raise RecordError(f'the option "{twice[0]}" stands twice', where=where, mend="translate options apart")
    odd = [answer for answer in question.answers if question.choices and answer not in question.choices]
    if odd:
        mend = "write the answer as the option stands there"
        raise RecordError(f'the answer "{odd[0]}" is not among the choices', where=where, mend=mend)


def _check_pair(
    source: str, first: tuple[str, Mapping[str, LanguageQuestion]], other: tuple[str, Mapping[str, LanguageQuestion]]
) -> None:
    (one, mine), (two, theirs) = first, other
    apart = sorted(mine.keys() ^ theirs.keys())
    if apart:
        here, there = (one, two) if apart[0] in mine else (two, one)
        what = f'{len(apart)} questions are not in all languages; "{apart[0]}" is in {here}, not in {there}'
        raise RecordError(what, where=source, mend="keep the questions that all languages have")
    for key, question in theirs.items():
        if len(question.choices) != len(mine[key].choices):
            what = f"{len(question.choices)} options in {two}, {len(mine[key].choices)} in {one}"
            raise RecordError(what, where=f"{source}, id {key}", mend="give the same options in every language")


def _about(same: Sequence[LanguageQuestion]) -> dict[str, str]:
    """Country and topic of a question in several languages: what the first that names them says."""
    return {name: next((value for q in same if (value := getattr(q, name))), "") for name in ("country", "topic")}


def _places(question: LanguageQuestion) -> list[int]:
    return sorted(question.choices.index(answer) for answer in question.answers) if question.choices else []


def _known(name: str, known: Sequence[str], kind: str, source: str) -> str:
    if name not in known:
        raise UnknownNameError(f'the set has no {kind} "{name}"', where=source, mend=nearest(name, known))
    return name

"""Published questions with their passages, for the survey's claim: PopQA with popularity, SQuAD with its contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.claims.published import published_rows
from keeps.errors import EmptySetError, InputFileError
from keeps.jobs.grounding_measures import stands_in

POPQA = "popqa/popqa_with_passages.jsonl"
SQUAD = "squad/squad_v2_dev_sample.jsonl"
BINS = ("rare", "middle", "popular")


@dataclass(frozen=True)
class Sought:
    """A question, and where its answer stands.

    Attributes:
        answers: accepted, any of them.
        kind: what is asked for, such as "occupation".
        popularity: of the subject; 0 where it is not known.
        supporting: ids of the documents that support the answer.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    supporting: frozenset[str]
    kind: str = ""
    popularity: float = 0.0


def popular_questions(data: Path) -> tuple[list[Sought], dict[str, str]]:
    """PopQA's questions, and the passages of all of them by id, each text once.

    Left out are questions that say an answer themselves, and the second of two that are worded alike.

    Raises:
        InputFileError: the file is not there, or a row is not as published.
        EmptySetError: no question is left.
    """
    ids: dict[tuple[str, str], str] = {}
    found: dict[str, Sought] = {}
    for row in published_rows(data, POPQA, "id", "question", "answers", "property", "s_pop", "passages"):
        where = f"{POPQA}, row {row['id']}"
        answers = _texts(row["answers"], where)
        passages = row["passages"]
        if not isinstance(passages, list) or not passages or not all(_is_passage(each) for each in passages):
            mend = "passages are objects of title, text and is_supporting"
            raise InputFileError("the passages are not as published", where=where, mend=mend)
        if not isinstance(row["s_pop"], (int, float)) or isinstance(row["s_pop"], bool):
            raise InputFileError(f"s_pop is {row['s_pop']!r}", where=where, mend="give page views a month")
        supporting = []
        for each in passages:
            name = ids.setdefault((each["title"], each["text"]), f"popqa-{len(ids)}")
            supporting += [name] if each["is_supporting"] else []
        question = str(row["question"]).strip()
        if supporting and not any(stands_in(answer, question) for answer in answers):
            made = Sought(str(row["id"]), question, answers, frozenset(supporting), str(row["property"]),
                          float(row["s_pop"]))  # fmt: skip
            found.setdefault(question, made)
    return _some(list(found.values()), POPQA), {name: text for (_, text), name in ids.items()}


def contexts_with_questions(data: Path) -> tuple[list[Sought], dict[str, str]]:
    """SQuAD's questions, and all their contexts by id, each once.

    Raises:
        InputFileError: the file is not there, or a row is not as published.
        EmptySetError: no question is left.
    """
    ids: dict[str, str] = {}
    found: dict[str, Sought] = {}
    for row in published_rows(data, SQUAD, "id", "question", "answer", "context"):
        context, question = str(row["context"]), str(row["question"]).strip()
        answers = _texts([row["answer"]], f"{SQUAD}, row {row['id']}")
        name = ids.setdefault(context, f"squad-{len(ids)}")
        if question and not stands_in(answers[0], question):
            found.setdefault(question, Sought(str(row["id"]), question, answers, frozenset({name})))
    return _some(list(found.values()), SQUAD), {name: text for text, name in ids.items()}


def by_popularity(questions: Sequence[Sought]) -> dict[str, list[Sought]]:
    """Three parts of equal size by popularity, each with the same share of every kind of question.

    What is asked for goes with popularity (many rare subjects are asked for their place of birth), and a model guesses
    an occupation sooner than a town. So the parts are made within each kind.

    Raises:
        EmptySetError: some part has no question.
    """
    parts: dict[str, list[Sought]] = {name: [] for name in BINS}
    for kind in sorted({each.kind for each in questions}):
        ranked = sorted((each for each in questions if each.kind == kind), key=lambda q: (q.popularity, q.question))
        for place, each in enumerate(ranked):
            parts[BINS[place * len(BINS) // len(ranked)]].append(each)
    for name, part in parts.items():
        if not part:
            raise EmptySetError(f"no question is {name}", where=POPQA, mend="give at least three of one kind")
    return parts


def _texts(given: Any, where: str) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InputFileError("the answers are no texts", where=where, mend="give answers as texts")
    texts = tuple(each.strip() for each in given if each.strip())
    if not texts:
        raise InputFileError("the question has no answer", where=where, mend="give one at least")
    return texts


def _is_passage(value: Any) -> bool:
    texts = isinstance(value, Mapping) and all(isinstance(value.get(name), str) for name in ("title", "text"))
    return texts and isinstance(value.get("is_supporting"), bool) and bool(value["text"].strip())


def _some(questions: list[Sought], name: str) -> list[Sought]:
    if not questions:
        raise EmptySetError("no question can be asked", where=name, mend="give questions that do not say their answers")
    return questions

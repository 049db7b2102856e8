"""Published questions with two passages, one that says the true answer and one that says another in its place.

SQuAD and MuSiQue as FaithfulRAG changed them (arXiv:2506.08938), and FaithEval, whose passages say what is not so.
Rows are kept where the text is what it should be: each passage says its own answer and not the other one's, neither
answer is part of the other or of the question. Some passages have five questions, some answers three: one question is
taken of each, so that items have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.claims.published import published_rows
from keeps.errors import InputFileError
from keeps.numerics.memory_recall import contains
from keeps.numerics.text_scores import normalise_answer
from keeps.retrieval.chunks import sentence_spans

FOLDER = "faithful_rag"
SQUAD = (f"{FOLDER}/squad_golden.jsonl", f"{FOLDER}/squad_negative.jsonl")
MUSIQUE = (f"{FOLDER}/musique_golden.jsonl", f"{FOLDER}/musique_negative.jsonl")
FAITHEVAL = f"{FOLDER}/faitheval.jsonl"
_KEYS = ("id", "question", "answer", "choices", "context")


@dataclass(frozen=True)
class Asked:
    """A question, the passage before it, the answer that the passage gives, and what there is to choose from."""

    id: str
    question: str
    context: str
    answer: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Twins:
    """One question behind two passages: ``golden`` says what is so, ``negative`` another of the candidates."""

    golden: Asked
    negative: Asked

    @property
    def question(self) -> str:
        """Of both."""
        return self.golden.question


def twins(data: Path, files: tuple[str, str], *, words: int) -> list[Twins]:
    """Usable pairs of a golden file and its negative one, in the order of the file.

    Args:
        words: most of them in a passage.

    Raises:
        InputFileError: a file is not there, is not as published, or a row has no twin.
    """
    golden, negative = ([_asked(row) for row in published_rows(data, name, *_KEYS)] for name in files)
    others = {item.id: item for item in negative}
    lacking = [item.id for item in golden if item.id not in others]
    if lacking:
        mend = "give both files of one set"
        raise InputFileError(f"{len(lacking)} rows have no twin, such as {lacking[0]}", where=files[1], mend=mend)
    pairs = [Twins(item, others[item.id]) for item in golden]
    return list(_apart([pair for pair in pairs if _usable(pair, words)]))


def multiple_choice(data: Path, *, words: int) -> list[Asked]:
    """The questions of FaithEval that are asked once, with passages of at most ``words`` words.

    Raises:
        InputFileError: the file is not there or not as published.
    """
    found = [_asked(row) for row in published_rows(data, FAITHEVAL, *_KEYS)]
    once: dict[str, Asked] = {}
    for item in found:
        if _sound(item) and len(item.context.split()) <= words:
            once.setdefault(item.context, item)
    return list(once.values())


def enough(items: Sequence[Any], count: int, name: str) -> list[Any]:
    """The first ``count`` of ``items``.

    Raises:
        InputFileError: there are fewer.
    """
    if len(items) < count:
        mend = f"give at least {count}"
        raise InputFileError(f"there are {len(items)} usable questions", where=name, mend=mend)
    return list(items[:count])


def around(text: str, answer: str, sentences: int) -> str:
    """The first sentence of ``text`` that says ``answer``, with as many as ``sentences`` before and behind it.

    >>> around("One. Two is Oslo. Three. Four.", "Oslo", 1)
    'One. Two is Oslo. Three.'

    Raises:
        ValueError: no sentence says it.
    """
    spans = sentence_spans(text)
    places = [n for n, (start, end) in enumerate(spans) if contains(text[start:end], [answer])]
    if not places:
        raise ValueError(f"no sentence says {answer!r}")
    near = spans[max(0, places[0] - sentences) : places[0] + sentences + 1]
    return text[near[0][0] : near[-1][1]]


def _asked(row: Mapping[str, Any]) -> Asked:
    # The published true answers alone have no blanks around them: as they stand, they could be told by that.
    candidates = tuple(str(choice).strip() for choice in row["choices"])
    number, question, context, answer = (str(row[key]).strip() for key in ("id", "question", "context", "answer"))
    return Asked(number, question, context, answer, candidates)


def _sound(item: Asked) -> bool:
    different = {normalise_answer(text) for text in item.candidates}
    return bool(item.question) and item.answer in item.candidates and len(different) == len(item.candidates)


def _usable(pair: Twins, words: int) -> bool:
    golden, negative = pair.golden, pair.negative
    true, false = golden.answer, negative.answer
    return (
        _sound(golden)
        and _sound(negative)
        and golden.question == negative.question
        and golden.candidates == negative.candidates
        and all(len(item.context.split()) <= words for item in (golden, negative))
        and all(_says(item.context, item.answer) for item in (golden, negative))
        and not contains(golden.context, [false])
        and not contains(negative.context, [true])
        and not contains(golden.question, [true])
        and not contains(golden.question, [false])
        and not contains(true, [false])
        and not contains(false, [true])
    )


def _says(text: str, answer: str) -> bool:
    """Whether one sentence of ``text`` says it (an answer that runs over two is no passage's answer)."""
    return any(contains(text[start:end], [answer]) for start, end in sentence_spans(text))


def _apart(pairs: Sequence[Twins]) -> Iterator[Twins]:
    """One pair for each golden passage and each true answer."""
    seen: set[str] = set()
    for pair in pairs:
        marks = {f"passage {pair.golden.context}", f"answer {normalise_answer(pair.golden.answer)}"}
        if not marks & seen:
            seen |= marks
            yield pair

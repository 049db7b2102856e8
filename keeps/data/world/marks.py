"""What the default model knows of the world before anything is done to it: a mark for each fact.

A mark is ``"known"``, ``"uncertain"`` or ``"unknown"``. This file holds the rule, the prompts with
solved examples that the rule asks for, and the file of marks; measuring them needs a model and lives
in ``keeps.probe``. One wording is no test of knowledge (the same model names between 25 and 62 of 215
capitals, by wording alone), so the rule looks at three wordings and at one prompt with examples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from keeps.data.records import Fact
from keeps.data.world.templates import SEEN_WORDINGS
from keeps.errors import InputFileError, StorageError

MARKS = ("known", "uncertain", "unknown")
FORMAT = 1  # version of the marks file
SHOTS = 4
EXAMPLE_SEED = "keeps-four-shot-1"  # changing it changes which examples are shown, and so the marks


def mark_of(greedy: Sequence[bool], four_shot: bool, first_token_in_top5: Sequence[bool] | None) -> str:
    """The mark of a fact from what a model did with its first three wordings.

    Args:
        greedy: per wording, whether greedy decoding gives an accepted answer.
        four_shot: whether it does so for the first wording after four solved examples.
        first_token_in_top5: per wording, whether the answer's first token is among the five likeliest;
            None for numeric answers, whose first token (a digit or a space) says nothing.

    >>> mark_of([True, True, False], False, None)
    'known'
    >>> mark_of([True, False, False], False, None), mark_of([True, False, False], True, None)
    ('uncertain', 'known')
    >>> mark_of([False] * 3, False, [False] * 3), mark_of([False] * 3, False, [False, True, False])
    ('unknown', 'uncertain')
    """
    right = sum(greedy)
    if right >= 2 or (right >= 1 and four_shot):
        return "known"
    nearly = first_token_in_top5 is not None and any(first_token_in_top5)
    return "uncertain" if right or four_shot or nearly else "unknown"


def few_shot_examples(fact: Fact, facts: Iterable[Fact], shots: int = SHOTS) -> tuple[Fact, ...]:
    """The ``shots`` facts of the same relation that are shown before ``fact``, never the fact itself.

    The choice is fixed by a hash of the ids: all facts of a relation see the same examples, except
    that an example does not see itself but the next one in line.
    """
    candidates = [other for other in facts if other.relation == fact.relation and other.id != fact.id]
    candidates.sort(key=lambda other: hashlib.sha256(f"{EXAMPLE_SEED}:{other.id}".encode()).digest())
    return tuple(candidates[:shots])


def few_shot_prompt(fact: Fact, examples: Sequence[Fact], wording: int = 0) -> str:
    """Solved examples, one a line, and then the fact's own prompt in the same wording.

    >>> norway = Fact("1", "Norway", "capital", ("The capital of Norway is",), ("Oslo",))
    >>> latvia = Fact("2", "Latvia", "capital", ("The capital of Latvia is",), ("Riga",))
    >>> print(few_shot_prompt(latvia, [norway]))
    The capital of Norway is Oslo
    The capital of Latvia is
    """
    solved = [_completed(example.prompts[wording], example.answers[0]) for example in examples]
    return "\n".join([*solved, fact.prompts[wording]])


def _completed(prompt: str, answer: str) -> str:
    return prompt + answer if prompt.endswith("+") else f"{prompt} {answer}"


def read_marks(path: Path | str) -> dict[str, str]:
    """Marks by fact id from a file that :func:`write_marks` wrote.

    Raises:
        InputFileError: the file is missing, damaged, of another version, or holds an unknown mark.
    """
    place = Path(path)
    try:
        return _marks_in(place.read_text(encoding="utf-8"), str(place))
    except FileNotFoundError:
        what = "there is no such file of marks"
        raise InputFileError(what, where=str(place), mend="measure the marks first") from None
    except (OSError, UnicodeDecodeError) as error:
        what = f"the marks cannot be read ({error})"
        raise InputFileError(what, where=str(place), mend="measure them again") from None


def default_marks() -> dict[str, str]:
    """The marks of the default model, as shipped with keeps."""
    return _marks_in(files(__package__ or "").joinpath("marks.json").read_text(encoding="utf-8"), "marks.json")


def default_marks_fingerprint() -> str:
    """Fingerprint of the weights that the shipped marks were measured with."""
    return str(json.loads(files(__package__ or "").joinpath("marks.json").read_text(encoding="utf-8"))["fingerprint"])


def _marks_in(text: str, where: str) -> dict[str, str]:
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} instead of {FORMAT}")
        marks = {str(key): str(mark) for key, mark in content["marks"].items()}
        wrong = set(marks.values()) - set(MARKS)
        if wrong:
            raise ValueError(f"marks called {', '.join(sorted(wrong))}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"this is no file of marks ({error})"
        raise InputFileError(what, where=where, mend="measure the marks again") from None
    return marks


def write_marks(
    path: Path | str, marks: Mapping[str, str], *, model: str, fingerprint: str = "", method: str = ""
) -> None:
    """Write marks as JSON with the model that they hold for, one a line, whole or not at all.

    Args:
        marks: fact id -> one of :data:`MARKS`.
        model: name of the model that was asked.
        fingerprint: of the weights of that model.
        method: how the marks were measured, in words.

    Raises:
        StorageError: the file cannot be written.
    """
    place = Path(path)
    content = {
        "format": FORMAT,
        "model": model,
        "fingerprint": fingerprint,
        "method": method,
        "wordings": SEEN_WORDINGS,
        "marks": dict(sorted(marks.items())),
    }
    temporary = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        what = f"the marks cannot be written ({error})"
        raise StorageError(what, where=str(place), mend="choose a folder that is writable and not full") from None

"""Whom an answer believes where context and memory disagree: ConR, ParR and MR. Pure Python.

    ConR  share of the answers that contain what the context says
    ParR  share of the answers that contain what the model knew
    MR    ParR / (ParR + ConR)

Source: Longpre et al., "Entity-based knowledge conflicts in question answering", EMNLP 2021 (arXiv:2109.05052), as
CK-PLUG measures it (Bi et al. 2025, arXiv:2503.15888).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keeps.numerics.text_scores import exact_match, normalise_answer

Unit = Literal["words", "characters"]


@dataclass(frozen=True)
class MemoryRecall:
    """Shares in [0, 1].

    Attributes:
        from_context: which answers contain the context's answer.
        from_memory: which contain the original one; an answer may contain both.
        exact: share of the answers that are the context's answer and nothing else.
    """

    from_context: tuple[bool, ...]
    from_memory: tuple[bool, ...]
    exact: float

    @property
    def conr(self) -> float:
        """Context recall."""
        return sum(self.from_context) / len(self.from_context)

    @property
    def parr(self) -> float:
        """Parameter recall."""
        return sum(self.from_memory) / len(self.from_memory)

    @property
    def mr(self) -> float | None:
        """Memory ratio; None where no answer contains either."""
        total = sum(self.from_memory) + sum(self.from_context)
        return sum(self.from_memory) / total if total else None


def contains(text: str, answers: Sequence[str], *, unit: Unit = "words") -> bool:
    """Whether the normalised ``text`` contains one of ``answers``.

    Args:
        unit: ``"words"`` asks for whole words; ``"characters"`` finds Oman in woman, as the released script does.

    >>> contains("A woman from the U.S.", ["Oman"]), contains("A woman", ["Oman"], unit="characters")
    (False, True)
    """
    edge = " " if unit == "words" else ""
    said = f"{edge}{normalise_answer(text)}{edge}"
    return any(wanted and f"{edge}{wanted}{edge}" in said for wanted in map(normalise_answer, answers))


def memory_recall(
    predictions: Sequence[str],
    context_answers: Sequence[Sequence[str]],
    original_answers: Sequence[Sequence[str]],
    *,
    unit: Unit = "words",
) -> MemoryRecall:
    """ConR, ParR and MR of ``predictions``; every answer comes with its aliases.

    >>> found = memory_recall(["It is Rome.", "Paris"], [["Rome"], ["Oslo"]], [["Paris"], ["Paris", "Lutetia"]])
    >>> found.conr, found.parr, found.mr
    (0.5, 0.5, 0.5)

    Raises:
        ValueError: there is no prediction, the lists are of unequal length, or aliases are one text.
    """
    if not predictions or not len(predictions) == len(context_answers) == len(original_answers):
        raise ValueError("give one list of context answers and one of original answers for each prediction")
    if any(isinstance(answers, str) for answers in (*context_answers, *original_answers)):
        raise ValueError("the answers of a prediction are one text; put them in a list")
    pairs = list(zip(predictions, context_answers, original_answers, strict=True))
    exact = sum(max((exact_match(text, answer) for answer in given), default=0.0) for text, given, _ in pairs)
    return MemoryRecall(
        tuple(contains(text, given, unit=unit) for text, given, _ in pairs),
        tuple(contains(text, known, unit=unit) for text, _, known in pairs),
        exact / len(pairs),
    )

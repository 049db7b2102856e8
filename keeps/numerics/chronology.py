"""What answers to dated questions say: a class a year, a class a fact, and whether an answer matches.

    correct       greedy answers were given, and all of them match
    partial 1     some greedy answers match
    partial 2     no greedy answer matches, some sampled answer does
    incorrect     nothing matches
    known         every year correct;  unknown: every year incorrect
    cut-off       one boundary between years that are known (correct or partial) and years that are not
    partial known all else

An answer is True where it matches, False where it does not, and None where nothing could be read from the output.

Sources:
    Park et al., "ChroKnowledge", ICLR 2025 (arXiv:2410.09870), sections 3 and 4.
    Gekhman et al., "Does fine-tuning LLMs on new knowledge encourage hallucinations?", EMNLP 2024 (arXiv:2405.05904),
    section 3: the four classes of SliCK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from rapidfuzz import fuzz

Told = bool | None  # whether an answer matches; None: nothing could be read
Failures = Literal["drop", "wrong"]

CORRECT, PARTIAL_1, PARTIAL_2, INCORRECT = YEAR_CLASSES = ("correct", "partial 1", "partial 2", "incorrect")
KNOWN, PARTIAL_KNOWN, STOPS, STARTS, UNKNOWN = ELEMENT_CLASSES = (
    "known",
    "partial known",
    "cut-off: stops",  # known, then unknown to the end
    "cut-off: starts",  # unknown, then known to the end
    "unknown",
)
HIGHLY, MAYBE, WEAKLY, NOT_KNOWN = SLICK_CLASSES = ("highly known", "maybe known", "weakly known", "unknown")
THRESHOLD = 70.0  # of the token set ratio, in per cent
ORDER = (INCORRECT, PARTIAL_2, PARTIAL_1)  # in which ChroKnowPrompt takes up the years of a fact


def year_class(greedy: Sequence[Told], sampled: Sequence[Told], *, failures: Failures = "drop") -> str:
    """The class of one fact in one year.

    Args:
        failures: ``"drop"`` judges by the answers that could be read, as published; with ``"wrong"`` an unread
            output counts as one that does not match.

    >>> year_class([True, True], []), year_class([True, False], [True]), year_class([None], [True])
    ('correct', 'partial 1', 'partial 2')
    >>> year_class([True, None], []), year_class([True, None], [], failures="wrong")
    ('correct', 'partial 1')
    """
    read = [told for told in greedy if told is not None or failures == "wrong"]
    if read and all(read):
        return CORRECT
    if any(read):
        return PARTIAL_1
    return PARTIAL_2 if any(sampled) else INCORRECT


def unread(greedy: Sequence[Told], sampled: Sequence[Told]) -> bool:
    """Whether no output at all could be read: incorrect, but for another reason than a wrong answer."""
    return all(told is None for told in (*greedy, *sampled))


def slick_class(greedy: Sequence[Told], sampled: Sequence[Told]) -> str:
    """The class of SliCK by the shares of right outputs, where an unread output is a wrong one.

    >>> slick_class([True, None], [True]), slick_class([False], [False, True])
    ('maybe known', 'weakly known')

    Raises:
        ValueError: there is no greedy output.
    """
    if not greedy:
        raise ValueError("no greedy output")
    if all(greedy):
        return HIGHLY
    if any(greedy):
        return MAYBE
    return WEAKLY if any(sampled) else NOT_KNOWN


def element_class(years: Sequence[str]) -> str:
    """The class of a fact by the classes of its years, in their order.

    >>> element_class([CORRECT, PARTIAL_2, INCORRECT]), element_class([CORRECT, INCORRECT, CORRECT])
    ('cut-off: stops', 'partial known')

    Raises:
        ValueError: there is no year, or a class that is none.
    """
    if not years or any(year not in YEAR_CLASSES for year in years):
        raise ValueError(f"no classes of years: {list(years)}")
    if all(year == CORRECT for year in years):
        return KNOWN
    if all(year == INCORRECT for year in years):
        return UNKNOWN
    known = [year != INCORRECT for year in years]
    if sum(before != after for before, after in pairwise(known)) == 1:
        return STOPS if known[0] else STARTS
    return PARTIAL_KNOWN


def fuzzy_match(answer: str, objects: Iterable[str], *, threshold: float = THRESHOLD, shortest_token: int = 1) -> bool:
    """Whether the token set ratio of ``answer`` and one of ``objects`` is ``threshold`` or more, in lower case.

    The ratio is 100 where the words of one are among those of the other: "FC" matches every name with "FC" in it.
    Words below ``shortest_token`` characters are therefore left out of both; a text of such words alone has to be
    equal.

    >>> fuzzy_match("FC", ["Chelsea FC"]), fuzzy_match("FC", ["Chelsea FC"], shortest_token=3)
    (True, False)
    """
    said = _long_words(answer, shortest_token)
    for item in objects:
        wanted = _long_words(item, shortest_token)
        if not said or not wanted:
            if exact_match(answer, [item]):
                return True
        elif fuzz.token_set_ratio(said, wanted) >= threshold:
            return True
    return False


def exact_match(answer: str, objects: Iterable[str]) -> bool:
    """Whether ``answer`` is one of ``objects``, whatever its case, its spaces and a full stop at its end."""
    said = _plain(answer)
    return bool(said) and said in {_plain(item) for item in objects}


def mode(answers: Iterable[str]) -> str | None:
    """The most frequent answer in lower case, the first of equals; None where there is none.

    >>> mode(["Oslo", "Bergen", "OSLO"])
    'oslo'
    """
    counted = Counter(answer.lower() for answer in answers)
    return counted.most_common(1)[0][0] if counted else None


def recovered_class(years: Mapping[int, str], recovered: Iterable[int]) -> str:
    """The class of a fact after prompting: partial known becomes known where every year is correct or recovered.

    >>> recovered_class({2012: CORRECT, 2013: INCORRECT, 2014: CORRECT}, [2013])
    'known'
    """
    found = element_class([years[year] for year in sorted(years)])
    after = set(recovered)
    if found == PARTIAL_KNOWN and all(years[year] == CORRECT or year in after for year in years):
        return KNOWN
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .")


def _long_words(text: str, shortest: int) -> str:
    return " ".join(word for word in text.lower().split() if len(word) >= shortest)

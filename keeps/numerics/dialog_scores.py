"""How well a reply tells what was asked: slot values found in texts, their precision and recall, BLEU of a sentence.

Sources:
    Mishra et al., "Joint Reasoning on Hybrid-knowledge sources for Task-Oriented Dialog" (arXiv:2210.07295): slot-value
    precision, recall and F1, copy precision, success and recall among the first k.
    Papineni et al., "BLEU" (ACL 2002), here of one sentence, without smoothing.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rapidfuzz import fuzz

from keeps.numerics.text_scores import without_articles

SlotValue = tuple[str, str]  # slot, value in plain form
FUZZY_VALUE, FUZZY_NAME = 90.0, 80.0  # likeness in per cent from which a span counts as the value, or as the name
CHUNK_SHARE = 0.7  # of a name's words that a chunk must hold more than
IGNORED = frozenset({"yes", "no", "true", "false"})  # words that say nothing of which slot they belong to
_WORDS = re.compile(r"\w+")
_NO_PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))
_CHUNK = re.compile(r"\b[A-Z]\w*(?:\s+(?:(?:and|of|the|at)\s+)?[A-Z]\w*)*")


def plain(text: str) -> str:
    """Words without case and punctuation, single blanks between them.

    >>> plain("Call 01223-315702, please.")
    'call 01223 315702 please'
    """
    return " ".join(_WORDS.findall(text.casefold()))


def find_values(text: str, ontology: Mapping[str, Iterable[str]], *, fuzzy: float = FUZZY_VALUE) -> set[SlotValue]:
    """The slot values that stand in ``text``: the longest first, each span once, then spans that are nearly one.

    Args:
        ontology: the values of each slot. Yes and no are passed over; a value of several slots is the first slot's.
        fuzzy: likeness in per cent from which a span of as many words counts as the value; above 100 never.

    >>> sorted(find_values("It is in the north, call 01223 4567.", {"area": ["north"], "phone": ["01223 4567"]}))
    [('area', 'north'), ('phone', '01223 4567')]
    """
    known: dict[str, str] = {}
    for slot, values in ontology.items():
        for value in map(plain, values):
            if value and value not in IGNORED:
                known.setdefault(value, slot)
    ordered = sorted(known, key=lambda value: (-len(value), value))
    words: list[str | None] = list(plain(text).split())
    found = {(known[value], value) for value in ordered if _mask(words, value.split())}
    if fuzzy <= 100:
        found |= {(known[value], value) for value in ordered if _mask_like(words, value, fuzzy)}
    return found


def _mask(words: list[str | None], wanted: list[str]) -> bool:
    """Whether ``wanted`` stands in ``words``; every place where it does is taken out."""
    hit = False
    for start in range(len(words) - len(wanted) + 1):
        if words[start : start + len(wanted)] == wanted:
            words[start : start + len(wanted)] = [None] * len(wanted)
            hit = True
    return hit


def _mask_like(words: list[str | None], value: str, fuzzy: float) -> bool:
    count = len(value.split())
    for start in range(len(words) - count + 1):
        span = [word for word in words[start : start + count] if word is not None]
        if len(span) == count and fuzz.ratio(" ".join(span), value) >= fuzzy:
            words[start : start + count] = [None] * count
            return True
    return False


@dataclass(frozen=True)
class SlotCounts:
    """Slot values of one reply or of many together; add them for micro averages.

    Attributes:
        shared, said, wanted: values in both, in what was generated, in the gold reply.
        copied: generated values that belong to the entity that was used.
    """

    shared: int = 0
    said: int = 0
    wanted: int = 0
    copied: int = 0

    def __add__(self, other: SlotCounts) -> SlotCounts:
        """Both together."""
        return SlotCounts(
            self.shared + other.shared,
            self.said + other.said,
            self.wanted + other.wanted,
            self.copied + other.copied,
        )

    @property
    def precision(self) -> float:
        """Share of generated values that were wanted; 0 where none was generated."""
        return self.shared / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        """Share of wanted values that were generated; 0 where none was wanted."""
        return self.shared / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.shared / (self.said + self.wanted) if self.shared else 0.0

    @property
    def copy_precision(self) -> float:
        """Share of generated values that are the used entity's; 0 where none was generated."""
        return self.copied / self.said if self.said else 0.0

    @property
    def hallucinated(self) -> int:
        """Generated values that are not the used entity's."""
        return self.said - self.copied


def slot_counts(
    said: AbstractSet[SlotValue], wanted: AbstractSet[SlotValue], entity: AbstractSet[SlotValue]
) -> SlotCounts:
    """One reply against its gold reply and the values of the entity that was used.

    >>> found = slot_counts({("phone", "1"), ("area", "south")}, {("phone", "1"), ("area", "north")}, {("phone", "1")})
    >>> found.precision, found.recall, found.f1, found.hallucinated
    (0.5, 0.5, 0.5, 1)
    """
    return SlotCounts(len(said & wanted), len(said), len(wanted), len(said & entity))


def sentence_bleu(said: str, wanted: str, order: int = 4) -> float:
    """BLEU of one sentence in [0, 1] with n-grams up to ``order``; 0 where one length of them shares none.

    BP · exp(1/N Σ ln p_n), p_n the clipped share of n-grams, BP = exp(1 − r/c) where the reply is the shorter one.
    Words are those of the published evaluation: lower case, no ASCII punctuation, no articles.

    >>> round(sentence_bleu("The phone is 1234.", "a phone is 5678", 1), 3)
    0.667
    """
    one, other = _bleu_words(said), _bleu_words(wanted)
    total = 0.0
    for n in range(1, order + 1):
        grams, gold = _grams(one, n), _grams(other, n)
        shared = (grams & gold).total()
        if not shared:
            return 0.0
        total += math.log(shared / grams.total())
    return min(1.0, math.exp(1 - len(other) / len(one))) * math.exp(total / order)


def _bleu_words(text: str) -> list[str]:
    return without_articles(text.lower().translate(_NO_PUNCTUATION)).split()


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def yes_probability(yes: float, no: float) -> float:
    """P(yes) of the softmax over two labels alone, from their log-probabilities or logits.

    >>> round(yes_probability(-1.0, -1.0), 3)
    0.5
    """
    return 1 / (1 + math.exp(min(no - yes, 700.0)))


def success_at(ranked: Sequence[str], labels: Sequence[bool], oracle: AbstractSet[str], k: int) -> bool:
    """Whether one of ``oracle`` is among the first ``k`` that were labelled yes.

    >>> success_at(["a", "b"], [False, True], {"a", "b"}, 1), success_at(["a"], [False], {"a"}, 1)
    (True, False)
    """
    accepted = [name for name, yes in zip(ranked, labels, strict=True) if yes]
    return bool(oracle & set(accepted[:k]))


def mention_score(name: str, text: str) -> float:
    """How much a text mentions a name: 100 for every place where it stands, likeness of spans that are nearly it.

    A span of as many words counts with its likeness from 80 per cent on; a chunk of words with capital letters that
    holds more than 70 per cent of the name's words counts 100 (without a tagger such chunks stand for proper nouns).

    >>> mention_score("Alpha Lodge", "alpha lodge is near Alpha Lodge"), mention_score("Alpha Lodge", "no")
    (200.0, 0.0)
    """
    wanted = plain(name).split()
    words: list[str | None] = list(plain(text).split())
    score, size = 0.0, len(wanted)
    if not size:
        return 0.0
    while wanted and any(words[start : start + size] == wanted for start in range(len(words) - size + 1)):
        start = next(start for start in range(len(words) - size + 1) if words[start : start + size] == wanted)
        words[start : start + size] = [None] * size
        score += 100.0
    for start in range(len(words) - size + 1):
        span = [word for word in words[start : start + size] if word is not None]
        likeness = fuzz.ratio(" ".join(span), " ".join(wanted)) if len(span) == size else 0.0
        score += likeness if likeness >= FUZZY_NAME else 0.0
    for chunk in _CHUNK.findall(text):
        own = set(plain(chunk).split())
        if plain(chunk) != " ".join(wanted) and len(own & set(wanted)) > CHUNK_SHARE * len(set(wanted)):
            score += 100.0
    return score

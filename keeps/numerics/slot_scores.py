"""When the filling of a blank counts as right: exact match after normalisation, its beginning, shared tokens.

Normalised means: lower case, no ASCII punctuation (a hyphen goes without a space in its place), no articles, spaces
made single. The evaluation of CKL (arXiv:2110.03215) looks for special tokens after punctuation is gone and so never
finds any: ``<extra_id_0>`` becomes ``extraid0`` and a right answer wrong. ``compat=True`` repeats that, for figures
that are to be set beside published ones; by default special tokens are taken out first.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from keeps.numerics.text_scores import bag_f1, without_articles

_SPECIAL = re.compile(r"<extra_id_\d+>|<pad>|</?s>|<unk>|<mask>|\[MASK\]|<\|[^<>|\s]+\|>")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised_slot(text: str, *, compat: bool = False) -> str:
    """``text`` as answers are compared.

    >>> normalised_slot("<extra_id_0> The Cat-Dog."), normalised_slot("<extra_id_0> The Cat-Dog.", compat=True)
    ('catdog', 'extraid0 catdog')
    """
    plain = text if compat else _SPECIAL.sub(" ", text)
    return without_articles(plain.lower().translate(_NO_PUNCTUATION))


def slot_exact(said: str, answers: Sequence[str], *, compat: bool = False) -> bool:
    """Whether ``said`` equals one of ``answers`` after normalisation; in compat mode an empty text equals "the".

    >>> slot_exact("the Oslo.", ["Oslo"]), slot_exact("Oslo, of course", ["Oslo"])
    (True, False)
    """
    found = normalised_slot(said, compat=compat)
    equal = any(found == normalised_slot(answer, compat=compat) for answer in answers)
    return equal and (compat or bool(found))


def slot_begins(said: str, answers: Sequence[str], *, compat: bool = False) -> bool:
    """Whether the words of ``said`` begin with those of one of ``answers``: a model that goes on is not wrong for it.

    >>> slot_begins("Oslo, of course", ["Oslo"]), slot_begins("Oslofjord", ["Oslo"])
    (True, False)
    """
    words = normalised_slot(said, compat=compat).split()
    wanted = [normalised_slot(answer, compat=compat).split() for answer in answers]
    return any(answer and words[: len(answer)] == answer for answer in wanted)


def slot_f1(said: str, answers: Sequence[str], *, compat: bool = False) -> float:
    """Largest F1 over words (as bags) with any of ``answers``, in [0, 1].

    >>> round(slot_f1("the city of New York", ["New York"]), 3)
    0.667
    """
    words = normalised_slot(said, compat=compat).split()
    return max((bag_f1(words, normalised_slot(answer, compat=compat).split()) for answer in answers), default=0.0)

"""Mix-Review: in each epoch old samples join the new ones, fewer every time.

    old samples of epoch e (counted from 0) = floor(new samples * ratio * decay^e)

Source: He et al., "Analyzing the forgetting problem", EACL 2021 (arXiv:1910.07117); baseline of CKL
(arXiv:2110.03215) with ratio 4 and decay 0.7.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from keeps.errors import EmptySetError, SettingsError

RATIO, DECAY = 4.0, 0.7
T = TypeVar("T")


def reviewed(new: int, epoch: int, *, ratio: float = RATIO, decay: float = DECAY) -> int:
    """How many old samples epoch ``epoch`` (counted from 0) takes for ``new`` new ones.

    >>> [reviewed(100, epoch) for epoch in range(4)]
    [400, 280, 196, 137]

    Raises:
        SettingsError: a ratio below 0, a decay outside [0, 1], a negative count.
    """
    if ratio < 0 or not 0 <= decay <= 1 or new < 0 or epoch < 0:
        what = f"ratio {ratio:g}, decay {decay:g}, {new} samples, epoch {epoch}"
        raise SettingsError(what, where="mix-review", mend="choose a ratio of 0 or more and a decay in [0, 1]")
    # a product of decimal fractions that ought to be whole must not lose one to rounding
    return math.floor(new * ratio * decay**epoch + 1e-9)


def mixed_epoch(
    new: Sequence[T], old: Sequence[T], epoch: int, *, seed: int = 0, ratio: float = RATIO, decay: float = DECAY
) -> list[T]:
    """All of ``new`` and a draw from ``old``, shuffled; it depends on seed and epoch alone.

    Old samples are drawn without replacement; where more are wanted than there are, all are taken as often as they
    go, and the rest is drawn.

    Raises:
        EmptySetError: there are no new samples, or old ones are wanted and there are none.
        SettingsError: as :func:`reviewed`.
    """
    count = reviewed(len(new), epoch, ratio=ratio, decay=decay)
    if not new or (count and not old):
        mend = "give new samples, and old ones to review"
        raise EmptySetError("there is nothing to mix", where="mix-review", mend=mend)
    source = random.Random(f"{seed}\nmix-review\n{epoch}")
    whole, rest = divmod(count, len(old)) if count else (0, 0)
    mixed = [*new, *list(old) * whole, *source.sample(list(old), rest)]
    source.shuffle(mixed)
    return mixed

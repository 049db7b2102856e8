"""Was a text trained on? Membership inference attacks and what they say about forgetting. Pure Python.

Every score is like a loss: **low** of texts that look like training data. An area under the curve of 1 means that
the forget set looks like training data, 1/2 that it cannot be told from text never seen.

Sources:
    Yeom et al., 2018: loss. Carlini et al., 2021: zlib, reference.
    Shi et al., "Detecting Pretraining Data from Large Language Models", arXiv:2310.16789: Min-K %.
    Zhang et al., "Min-K%++", arXiv:2404.02936.
    Shi et al., "MUSE: Machine Unlearning Six-Way Evaluation", arXiv:2407.06460: PrivLeak.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Literal

from keeps.numerics.discrimination import Area, roc_area

Convention = Literal["direct", "muse"]
LEAST_DEVIATION = 1e-3  # the root of 1e-6, below which the code of open-unlearning lets no variance fall


def loss_score(logprobs: Sequence[float]) -> float:
    """Mean negative log-probability of a token, in nats."""
    if not logprobs:
        raise ValueError("a text without tokens has no loss")
    return -math.fsum(logprobs) / len(logprobs)


def zlib_score(loss: float, text: str) -> float:
    """Loss over the bytes that zlib needs for the text: what any compressor knows is no sign of training."""
    return loss / len(zlib.compress(text.encode()))


def reference_score(loss: float, reference_loss: float) -> float:
    """Loss less that of another model, which was not trained on the text."""
    return loss - reference_loss


def min_k_score(logprobs: Sequence[float], share: float = 0.4) -> float:
    """Min-K %: minus the mean of the lowest ``share`` of the log-probabilities, of one token at least.

    >>> min_k_score([-1.0, -2.0, -3.0, -4.0, -5.0], 0.4)
    4.5

    Raises:
        ValueError: there is no token, or ``share`` is not in (0, 1].
    """
    if not logprobs or not 0 < share <= 1:
        raise ValueError("Min-K needs tokens, and a share above 0 and at most 1")
    lowest = sorted(logprobs)[: max(1, int(len(logprobs) * share))]
    return -math.fsum(lowest) / len(lowest)


def min_k_plus_score(
    logprobs: Sequence[float], means: Sequence[float], deviations: Sequence[float], share: float = 0.4
) -> float:
    """Min-K %++: Min-K % of (ln p - μ)/σ, with μ and σ those of ln p over the vocabulary at that place.

    σ counts as 0.001 at least. Where a model is certain of another token σ vanishes, and such a place must speak
    against training, as every unlikely token does.

    >>> round(min_k_plus_score([-120.0], [0.0], [0.0]))
    120000
    """
    items = zip(logprobs, means, deviations, strict=True)
    return min_k_score([(value - mean) / max(deviation, LEAST_DEVIATION) for value, mean, deviation in items], share)


def attack_area(forget: Sequence[float], holdout: Sequence[float]) -> Area:
    """How often a text of the forget set looks more like training data than one of the holdout set.

    Raises:
        ValueError: a set is empty, or a score is not finite.
    """
    labels = [True] * len(forget) + [False] * len(holdout)
    return roc_area([-score for score in (*forget, *holdout)], labels)


def privacy_leakage(area: float, retain_area: float, *, convention: Convention = "direct") -> float:
    """PrivLeak = 100 (AUC_unlearned - AUC_retain) / AUC_retain, in per cent; 0 of a model as good as retrained.

    Args:
        convention: ``"direct"`` with areas as they are here: above 0 the model still leaks, below 0 it forgot too
            much. ``"muse"`` with 1 - AUC, as the tables of MUSE and open-unlearning have it: there -100 leaks all.

    >>> round(privacy_leakage(1.0, 0.5)), round(privacy_leakage(1.0, 0.5, convention="muse"))
    (100, -100)

    Raises:
        ValueError: another convention, or the retain model's area is 0 in it.
    """
    if convention not in ("direct", "muse"):
        raise ValueError(f'no convention "{convention}": direct or muse')
    found, retain = (area, retain_area) if convention == "direct" else (1 - area, 1 - retain_area)
    if retain <= 0:
        raise ValueError("PrivLeak is not defined where the area of the retain model is 0")
    return 100 * (found - retain) / retain

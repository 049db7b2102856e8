"""Effects of restored states: which tokens and blocks belong together, and how sure an average over facts is.

    total effect    TE = P(o) - P*(o)            clean run minus corrupted run
    indirect effect IE = P*(o | restored) - P*(o)

Averages over facts are AIE and ATE. Source: Meng et al. 2022, arXiv:2202.05262, section 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from keeps.numerics.statistics import CONFIDENCE

FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT = "first_subject", "middle_subject", "last_subject"
FIRST_AFTER, FURTHER, LAST = "first_after", "further", "last"
TOKEN_CLASSES = (FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, FIRST_AFTER, FURTHER, LAST)
WINDOW_SHARE = 10 / 48  # of the depth: the published window of 10 in the 48 blocks of GPT-2 XL
DRAWS = 1000


def token_classes(first: int, last: int, length: int) -> dict[int, str]:
    """The class of each token from the subject on; a token has one class, the ones before the subject have none.

    A subject of one token has a last token only, and a prompt that ends in its subject has no ``last`` one.

    >>> token_classes(1, 3, 7)
    {1: 'first_subject', 2: 'middle_subject', 3: 'last_subject', 4: 'first_after', 5: 'further', 6: 'last'}
    >>> token_classes(0, 0, 2)
    {0: 'last_subject', 1: 'last'}

    Args:
        first, last: places of the subject's first and last token.
        length: tokens of the prompt.
    """
    found = dict.fromkeys(range(first, length), FURTHER)
    found.update(dict.fromkeys(range(first, last), MIDDLE_SUBJECT))
    found[first] = FIRST_SUBJECT
    if last + 1 < length:
        found[last + 1] = FIRST_AFTER
    found[length - 1] = LAST
    found[last] = LAST_SUBJECT
    return found


def scaled_window(blocks: int) -> int:
    """The published window in a model of another depth, at least 1.

    >>> scaled_window(48), scaled_window(30), scaled_window(2)
    (10, 6, 1)
    """
    return max(1, round(WINDOW_SHARE * blocks))


def window(centre: int, width: int, blocks: int) -> range:
    """The blocks that are restored together around ``centre``; the ends of the model cut it off.

    >>> window(5, 4, 12), window(0, 4, 12), window(11, 3, 12), window(4, 1, 12)
    (range(3, 7), range(0, 2), range(10, 12), range(4, 5))
    """
    return range(max(0, centre - width // 2), min(blocks, centre + (width + 1) // 2))


def resampled(facts: int, *, seed: int = 0, draws: int = DRAWS) -> Tensor:
    """How often each fact is in each bootstrap sample, ``(draws, facts)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(facts, (draws, facts), generator=generator)
    return torch.zeros(draws, facts, dtype=torch.float64).scatter_add_(1, chosen, torch.ones(draws, facts).double())


def weighted_means(values: Tensor, weights: Tensor) -> Tensor:
    """Means over facts, those without a value left out.

    Args:
        values: ``(facts, cells)``, not a number where a fact has no such cell.
        weights: ``(draws, facts)``.

    Returns:
        ``(draws, cells)`` float64; not a number where no fact of a draw has the cell.
    """
    there = ~values.isnan()
    return weights @ values.double().nan_to_num() / (weights @ there.double())


def middle(draws: Tensor, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The ends of the middle ``confidence`` of one statistic's draws ``(draws,)``; None where it has none."""
    found = draws[~draws.isnan()].sort().values
    if not len(found):
        return None
    outside = int((1 - confidence) / 2 * len(found))
    return float(found[outside]), float(found[-1 - outside])


def peak(values: Tensor, weights: Tensor) -> tuple[int, float, Tensor]:
    """Where the mean over facts is largest, how large it is, and the place of the largest in each bootstrap sample.

    Args:
        values: ``(facts, blocks)``; not a number for facts that have none.
        weights: ``(draws, facts)``.

    Returns:
        The place, the mean there (not a number where no fact has a value), and places ``(draws,)`` float64, not a
        number in samples without a value.
    """
    means = weighted_means(values, torch.ones(1, len(values), dtype=torch.float64))[0]
    if bool(means.isnan().all()):
        return 0, math.nan, torch.full((len(weights),), math.nan, dtype=torch.float64)
    drawn = weighted_means(values, weights)
    places = drawn.nan_to_num(nan=-math.inf).argmax(1).double()
    places[drawn.isnan().all(1)] = math.nan
    place = int(means.nan_to_num(nan=-math.inf).argmax())
    return place, float(means[place]), places

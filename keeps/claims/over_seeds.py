"""One experiment several times, with other seeds or data: every check of each, so that all must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from keeps.claims.base import Check, ClaimRun


def set_apart(experiment: Callable[[ClaimRun], Iterator[Check]], run: ClaimRun, suffix: str) -> Iterator[Check]:
    """The checks of ``experiment``; their names and those of its tables end with ``suffix``."""
    own = replace(run, tables={})
    for check in experiment(own):
        yield replace(check, name=check.name + suffix)
    run.tables.update({name + suffix: table for name, table in own.tables.items()})


def over_seeds(
    experiment: Callable[[ClaimRun, int], Iterator[Check]], seeds: Sequence[int]
) -> Callable[[ClaimRun], Iterator[Check]]:
    """``experiment`` with each of ``seeds`` in turn; names and tables of all but the first say their seed.

    >>> each = over_seeds(lambda run, seed: iter([Check("a draw", seed, "any", True)]), (3, 4))
    >>> [check.name for check in each(ClaimRun())]
    ['a draw', 'a draw; seed 4']
    """

    def all_of_them(run: ClaimRun) -> Iterator[Check]:
        for seed in seeds:
            run.progress.message(f"seed {seed}")
            suffix = "" if seed == seeds[0] else f"; seed {seed}"
            yield from set_apart(lambda own, seed=seed: experiment(own, seed), run, suffix)

    return all_of_them

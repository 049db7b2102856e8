"""One experiment with several seeds: every check of each of them, so that a claim holds only if all hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from keeps.claims.base import Check, ClaimRun


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
            suffix = "" if seed == seeds[0] else f"; seed {seed}"
            own = replace(run, tables={})
            if suffix:
                run.progress.message(f"seed {seed}")
            for check in experiment(own, seed):
                yield replace(check, name=check.name + suffix)
            run.tables.update({name + suffix: table for name, table in own.tables.items()})

    return all_of_them

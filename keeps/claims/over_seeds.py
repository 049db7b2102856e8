"""One experiment several times, with other seeds or data: every check of each, so that all must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.parts import Parts


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

    A seed is a part of the claim: where an interrupted run has finished it, it is not measured again.

    >>> each = over_seeds(lambda run, seed: iter([Check("a draw", seed, "any", True)]), (3, 4))
    >>> [check.name for check in each(ClaimRun())]
    ['a draw', 'a draw; seed 4']
    """

    def all_of_them(run: ClaimRun) -> Iterator[Check]:
        for seed in seeds:
            run.progress.message(f"seed {seed}")
            suffix = "" if seed == seeds[0] else f"; seed {seed}"
            found = run.parts(f"seed {seed}", partial(_measured, experiment, run, seed))
            yield from (replace(check, name=check.name + suffix) for check in map(Check.from_mapping, found["checks"]))
            run.tables.update({name + suffix: table for name, table in found["tables"].items()})

    return all_of_them


def _measured(experiment: Callable[[ClaimRun, int], Iterator[Check]], run: ClaimRun, seed: int) -> dict[str, Any]:
    own = replace(run, tables={}, parts=Parts())
    return {"checks": [asdict(check) for check in experiment(own, seed)], "tables": own.tables}

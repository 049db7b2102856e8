"""One experiment several times, with other seeds or data: every check of each, so that all must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.parts import Parts


def set_apart(
    experiment: Callable[[ClaimRun], Iterator[Check]], run: ClaimRun, name: str, suffix: str
) -> Iterator[Check]:
    """The checks of ``experiment``, part ``name`` of the claim; their names and its tables' end with ``suffix``.

    Where an interrupted run has finished the part, it is not measured again.
    """
    found = run.parts(name, partial(_measured, experiment, run))
    yield from (replace(check, name=check.name + suffix) for check in map(Check.from_mapping, found["checks"]))
    run.tables.update({table + suffix: content for table, content in found["tables"].items()})


def over_seeds(
    experiment: Callable[[ClaimRun, int], Iterator[Check]], seeds: Sequence[int]
) -> Callable[[ClaimRun], Iterator[Check]]:
    """``experiment`` with each of ``seeds`` in turn; names and tables of all but the first say their seed.

    Each seed is a part of the claim (:func:`set_apart`).

    >>> each = over_seeds(lambda run, seed: iter([Check("a draw", seed, "any", True)]), (3, 4))
    >>> [check.name for check in each(ClaimRun())]
    ['a draw', 'a draw; seed 4']
    """

    def all_of_them(run: ClaimRun) -> Iterator[Check]:
        for seed in seeds:
            run.progress.message(f"seed {seed}")
            suffix = "" if seed == seeds[0] else f"; seed {seed}"
            yield from set_apart(lambda own, seed=seed: experiment(own, seed), run, f"seed {seed}", suffix)

    return all_of_them


def _measured(experiment: Callable[[ClaimRun], Iterator[Check]], run: ClaimRun) -> dict[str, Any]:
    own = replace(run, tables={}, parts=Parts())
    return {"checks": [asdict(check) for check in experiment(own)], "tables": own.tables}

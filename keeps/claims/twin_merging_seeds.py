"""Twin-Merging's claim over several seeds: means with their intervals, a table, and the checks that compare scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeps.claims.base import Check
from keeps.numerics.statistics import Estimate, mean_interval, paired_shift

ARITHMETIC = "task arithmetic"


@dataclass(frozen=True)
class SeedScores:
    """Normalised scores (100: as good as the fine-tunes) with the fine-tunes of one seed.

    Attributes:
        twin: by the density of its parts.
        static: of merges that leave one set of weights.
        beside: of merges that are told the task.
        router: share of other subjects' prompts that the router takes to their task.
    """

    seed: int
    twin: Mapping[float, float]
    static: Mapping[str, float]
    beside: Mapping[str, float]
    router: float


def by_seed(found: Sequence[SeedScores]) -> dict[str, dict[str, float]]:
    """One row a merge: its score with each seed, and the mean over the seeds that it was made with."""
    rows: dict[str, dict[str, float]] = {}
    for item in found:
        twins = {f"twin at {density:.0%}": score for density, score in item.twin.items()}
        for name, score in {**twins, **item.static, **item.beside}.items():
            rows.setdefault(name, {})[f"seed {item.seed}"] = score
    return {name: {**row, "mean": sum(row.values()) / len(row)} for name, row in rows.items()}


def best_static(found: Sequence[SeedScores], start: str = "") -> str:
    """The static merge of the highest mean whose name begins with ``start``."""
    names = {name for item in found for name in item.static if name.startswith(start)}
    rows = by_seed(found)
    return max(sorted(names), key=lambda name: rows[name]["mean"])


def router_check(found: Sequence[SeedScores]) -> Check:
    """Check 3 of the card: subjects that the router has never seen."""
    mean = mean_interval([item.router for item in found])
    note = f"by seed: {_listed([100 * item.router for item in found])} %"
    name = "accuracy of the router, other subjects"
    return Check(name, mean.value, "above 0.95", mean.value > 0.95, interval=_ends(mean), note=note)


def arithmetic_check(found: Sequence[SeedScores], density: float) -> Check:
    """The first comparison of the card: the twin against task arithmetic at its best scale."""
    best = best_static(found, ARITHMETIC)
    return _compared(
        f"normalised score of the twin at {density * 100:.0f} % of the rank, against task arithmetic at its best scale",
        "95 or more, and 10 points or more above",
        *(found, density, best),
        least=95,
        lead=10,
    )


def static_check(found: Sequence[SeedScores], density: float) -> Check:
    """The second one: the twin with smaller parts against whatever static merge is best."""
    name = f"normalised score of the twin at {density * 100:.0f} % of the rank"
    return _compared(name, "above every static merge", found, density, best_static(found))


def _compared(
    name: str,
    threshold: str,
    found: Sequence[SeedScores],
    density: float,
    best: str,
    *,
    least: float | None = None,
    lead: float | None = None,
) -> Check:
    """Means over seeds: at least ``least``, and ``lead`` or more above the static merge ``best`` (None: above it)."""
    twin = [item.twin[density] for item in found]
    both = [(item.static[best], item.twin[density]) for item in found if best in item.static]
    rival, own = [pair[0] for pair in both], [pair[1] for pair in both]
    mean, baseline, gap = mean_interval(twin), sum(rival) / len(rival), paired_shift(rival, own)
    above = mean.value > baseline if lead is None else mean.value >= baseline + lead
    note = f"the best: {best}; by seed: twin {_listed(twin)}, {best} {_listed(rival)}; lead {_told(gap)}"
    holds = above and (least is None or mean.value >= least)
    return Check(name, mean.value, threshold, holds, baseline, _ends(mean), note)


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    return None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)


def _told(estimate: Estimate) -> str:
    ends = _ends(estimate)
    return f"{estimate.value:.1f}" + (f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else "")


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)

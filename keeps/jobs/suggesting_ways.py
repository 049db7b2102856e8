"""Which merges to try: the usual ways first, then neighbours of the best that was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeps.registry import find_method

Way = tuple[str, Mapping[str, Any]]  # a method and its settings
FIRST: tuple[Way, ...] = (
    ("task_arithmetic", {"scale": 0.3}),
    ("average", {}),
    ("ties", {"density": 0.2, "scale": 1.0}),
    ("task_arithmetic", {"scale": 0.6}),
    ("model_stock", {}),
    ("task_arithmetic", {"scale": 1.0}),
    ("dare", {"density": 0.3, "scale": 0.6}),
    ("ties", {"density": 0.5, "scale": 1.0}),
    ("breadcrumbs", {"scale": 0.6}),
    ("slerp", {}),
    ("karcher", {}),
)
WITH_TEXTS: tuple[Way, ...] = (("regmean", {}), ("fisher", {"examples": 64, "normalise": True}))
FACTORS = (1.4, 0.7)  # by which a scale, or the weight of one model, is changed around the best
SHARE_OF_FIRST = 2 / 3  # of the trials; the others look around the best


@dataclass(frozen=True)
class Trial:
    """One merge that was tried.

    Attributes:
        scores: normalised, by name of the parent; 100: as many of its own questions as it answers itself.
        front: no other trial is as good on every parent and better on one.
    """

    method: str
    settings: Mapping[str, Any]
    scores: Mapping[str, float]
    seconds: float
    front: bool = False

    @property
    def mean(self) -> float:
        """Over the parents."""
        return sum(self.scores.values()) / len(self.scores)

    @property
    def worst(self) -> float:
        """Of the parent that lost most."""
        return min(self.scores.values())

    @property
    def label(self) -> str:
        """The method with its settings, as people read it."""
        said = ", ".join(f"{key} {shown(value)}" for key, value in self.settings.items())
        return f"{self.method} ({said})" if said else self.method


def ways(found: Sequence[Trial], names: Sequence[str], trials: int, *, texts: bool) -> Iterator[Way]:
    """What to try next, at most ``trials`` ways, none twice: usual ones first, then around the best that was found.

    Args:
        found: filled by the caller after each.
        names: of the models in order.
        texts: whether methods that read texts may be tried.
    """
    usual = [way for way in (*FIRST[:3], *(WITH_TEXTS if texts else ()), *FIRST[3:]) if fits(way[0], len(names))]
    begin = min(len(usual), max(min(3, trials), round(trials * SHARE_OF_FIRST)))
    seen: list[Way] = []
    for way in usual[:begin]:
        seen.append(way)
        yield way
    rest = usual[begin:]
    while len(seen) < trials:
        ranked = sorted(found, key=lambda trial: (-trial.mean, -trial.worst))
        near = (way for trial in ranked[:2] for way in around(trial, names))
        following = next((way for way in (*near, *rest) if way not in seen), None)
        if following is None:
            return
        seen.append(following)
        yield following


def around(trial: Trial, names: Sequence[str]) -> Iterator[Way]:
    """Neighbours of a trial: its scale larger and smaller; more weight for the worst parent, less for the best."""
    fields = {info.name for info in find_method(trial.method, "merge").settings.fields()}
    given = dict(trial.settings)
    if "scale" in fields and "scale" in given:
        for factor in FACTORS:
            yield trial.method, {**given, "scale": round(given["scale"] * factor, 3)}
    if "weights" in fields:
        weights = list(given.get("weights", (1.0,) * len(names)))
        order = sorted(range(len(names)), key=lambda place: trial.scores[names[place]])
        for place, factor in ((order[0], FACTORS[0]), (order[-1], FACTORS[1])):
            changed = [round(w * factor, 3) if n == place else w for n, w in enumerate(weights)]
            yield trial.method, {**given, "weights": tuple(changed)}


def fits(method: str, models: int) -> bool:
    """Whether a method takes so many models."""
    kind = find_method(method, "merge").implementation
    most = getattr(kind, "most", None)
    return getattr(kind, "fewest", 1) <= models and (most is None or models <= most)


def shown(value: Any) -> str:
    """A value of a setting as it is typed."""
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

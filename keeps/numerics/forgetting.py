"""FUAR: how much old knowledge a model lost for each new or corrected fact; with per-term clipping and "no gain".

    FUAR = sum_i max(0, Gap(F_i, D_i, D_n)) / sum_i [ max(0, Gap(U_n, D_n, D_i)) + max(0, Gap(A_n, D_n, D_i)) ]

with Gap(T, a, b) = score of T after D_a minus that after D_b, i = 0 .. n-1 over those phases whose forgetting task
F_i is defined, U_n and A_n the tasks of updated and of new knowledge. 0 is best, 1 loses one old fact a new one, and
a model that gained nothing has no FUAR at all, however little it lost.

Source: Jang et al., "Towards continual knowledge learning of language models", ICLR 2022 (arXiv:2110.03215), section
3.3. Intervals: Efron, "Bootstrap methods", Annals of Statistics 7 (1979), over questions, paired over models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.errors import EmptySetError, RecordError, SettingsError

NO_GAIN = "no gain"
SHARE, PERCENT = "share", "percent"
LARGEST: Mapping[str, float] = {SHARE: 1.0, PERCENT: 100.0}
RESAMPLES = 2000
Scores = Mapping[str, float]  # task -> score
Items = Mapping[str, Sequence[Sequence[float]]]  # task -> a row a question, a column a model


@dataclass(frozen=True)
class FuarResult:
    """FUAR with its three parts, which are in the unit of the scores.

    Attributes:
        value: None where nothing was gained; never 0 or infinity for that.
    """

    value: float | None
    forgotten: float
    updated: float
    acquired: float

    @property
    def label(self) -> str:
        """What tables show.

        >>> FuarResult(None, 0.0, 0.0, 0.0).label, FuarResult(0.5, 1.0, 1.0, 1.0).label
        ('no gain', '0.50')
        """
        return NO_GAIN if self.value is None else f"{self.value:.2f}"


@dataclass(frozen=True)
class FuarInterval:
    """FUAR with its 95 % bootstrap interval.

    Attributes:
        low, high: quantiles over resamples in which "no gain" counts as worse than any number; None stands for
            "no gain".
        no_gain_share: share of resamples without gain.
    """

    result: FuarResult
    low: float | None
    high: float | None
    no_gain_share: float
    resamples: int


def fuar(
    before: Scores,
    after: Scores,
    *,
    forget: Sequence[str] = ("invariant",),
    update: str | None = "updated",
    acquire: str | None = "new",
    unit: str | None = None,
) -> FuarResult:
    """FUAR of one phase of learning, such as one year of news.

    >>> before = {"invariant": 24.17, "updated": 1.62, "new": 1.88}
    >>> fuar(before, {"invariant": 12.89, "updated": 10.17, "new": 3.77}).label
    '1.08'

    Args:
        before, after: score of each task, in [0, 1] or in [0, 100], both in the same unit.
        forget: tasks of old knowledge; a gain in one does not make up for a loss in another.
        update, acquire: tasks of corrected and of new knowledge; None where there is no such task.
        unit: ``"share"`` or ``"percent"``; None tells by the scores, and refuses those that may be either.

    Raises:
        SettingsError: no task of old, or none of updated and new knowledge is named.
        RecordError: a score is missing, out of range, or in another unit than the others.
    """
    _check_tasks(forget, update, acquire)
    gained = [task for task in (update, acquire) if task is not None]
    _check_scores([before, after], [*forget, *gained], unit)
    forgotten = math.fsum(max(0.0, before[task] - after[task]) for task in forget)
    updated, acquired = (0.0 if task is None else max(0.0, after[task] - before[task]) for task in (update, acquire))
    return _result(forgotten, updated, acquired)


def fuar_multi(
    scores: Sequence[Scores],
    forget_tasks: Sequence[str | None],
    update: str | None = "updated",
    acquire: str | None = "new",
    *,
    unit: str | None = None,
) -> FuarResult:
    """FUAR over several phases.

    Args:
        scores: of the model after each of D_0 .. D_n; each maps tasks to scores.
        forget_tasks: for D_0 .. D_{n-1} the task of what it taught; None where it is not defined, and then its
            phase counts neither above nor below.
        update, acquire: tasks of D_n; None where there is no such task.
        unit: as for :func:`fuar`.

    Raises:
        SettingsError: there are not n forgetting tasks, or all are None; neither update nor acquire is given.
        RecordError: a score is missing, out of range, or in another unit than the others.
    """
    if len(scores) < 2 or len(forget_tasks) != len(scores) - 1:
        what = f"{len(scores)} models and {len(forget_tasks)} forgetting tasks"
        raise SettingsError(what, where="FUAR", mend="give two models or more, and a task or None for all but the last")
    defined = [(phase, task) for phase, task in enumerate(forget_tasks) if task is not None]
    _check_tasks([task for _, task in defined], update, acquire)
    gained = [task for task in (update, acquire) if task is not None]
    last = scores[-1]
    needed = [[task, *gained] for _, task in defined]
    for (phase, _), tasks in zip(defined, needed, strict=True):
        _check_present(scores[phase], tasks, phase)
        _check_present(last, tasks, len(scores) - 1)
    used = {task for tasks in needed for task in tasks}
    check_units([{task: row[task] for task in used & set(row)} for row in scores], unit)
    forgotten = math.fsum(max(0.0, scores[phase][task] - last[task]) for phase, task in defined)
    updated, acquired = (
        0.0 if task is None else math.fsum(max(0.0, last[task] - scores[phase][task]) for phase, _ in defined)
        for task in (update, acquire)
    )
    return _result(forgotten, updated, acquired)


def fuar_interval(
    items: Items,
    *,
    forget: Sequence[str] = ("invariant",),
    update: str | None = "updated",
    acquire: str | None = "new",
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> FuarInterval:
    """FUAR of one phase with an interval: the questions of each task are drawn again, with both answers to them.

    Args:
        items: task -> one row a question: its score before and after, in [0, 1].

    Raises:
        EmptySetError: a task has no question.
        SettingsError, RecordError: as :func:`fuar`.
    """
    tasks = [*forget, *(task for task in (update, acquire) if task is not None)]
    _check_present(items, tasks, 0)  # type: ignore[arg-type]
    means = [{task: mean_scores(items[task])[model] for task in tasks} for model in (0, 1)]
    result = fuar(means[0], means[1], forget=forget, update=update, acquire=acquire, unit=SHARE)
    drawn = resampled_scores({task: items[task] for task in tasks}, resamples=resamples, seed=seed)
    change = {task: values[:, 1] - values[:, 0] for task, values in drawn.items()}
    lost = torch.stack([(-change[task]).clamp(min=0) for task in forget]).sum(0)
    gain = torch.stack([change[task].clamp(min=0) for task in (update, acquire) if task is not None]).sum(0)
    # 0 / 0 is no number: whatever was lost, without gain a resample is worse than any with one
    values = torch.where(gain > 0, lost / gain.clamp(min=1e-300), torch.full_like(lost, math.inf)).sort().values
    low, high = (_quantile(values, share) for share in ((1 - confidence) / 2, (1 + confidence) / 2))
    return FuarInterval(result, low, high, float(values.isinf().double().mean()), resamples)


def resampled_scores(items: Items, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Tensor]:
    """Mean scores of each task under the bootstrap: questions drawn with replacement, models paired.

    Questions with equal rows are drawn together, by a chain of binomials, which has the same distribution and costs
    as much for a million questions as for a hundred.

    Returns:
        task -> ``(resamples, models)`` float64.

    Raises:
        EmptySetError: a task has no question.
        RecordError: the questions of a task have unequal numbers of scores, or a score outside [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for task in items:
        table = _table(items[task], task)
        patterns, counts = torch.unique(table, dim=0, return_counts=True)
        left, share_left = torch.full((resamples,), float(len(table)), dtype=torch.float64), 1.0
        total = torch.zeros(resamples, table.shape[1], dtype=torch.float64)
        for pattern, count in zip(patterns, counts.tolist(), strict=True):
            share = count / len(table)
            probability = min(1.0, share / share_left) if share_left > 1e-12 else 1.0
            chance = torch.full_like(left, probability)
            times = torch.binomial(left, chance, generator=generator) if probability < 1 else left
            total += times[:, None] * pattern
            left, share_left = left - times, share_left - share
        found[task] = total / len(table)
    return found


def mean_scores(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean over questions of each model's scores."""
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def check_units(rows: Sequence[Scores], unit: str | None = None) -> str:
    """The unit of all ``rows``: ``"share"`` for [0, 1], ``"percent"`` for [0, 100].

    Where no unit is named and some score is above 1, one of (0, 1] may be half a per cent or a half: it is refused.

    Raises:
        SettingsError: ``unit`` is another one.
        RecordError: a score is no number, out of range, or seems to be of another unit than the others.
    """
    values = [(task, float(value)) for row in rows for task, value in row.items()]
    if unit is not None and unit not in LARGEST:
        raise SettingsError(f'"{unit}" is no unit of scores', where="unit", mend="choose share or percent")
    found = unit or (SHARE if all(value <= 1 for _, value in values) else PERCENT)
    for task, value in values:
        if not math.isfinite(value) or not 0 <= value <= LARGEST[found]:
            mend = f"give every score in [0, {LARGEST[found]:g}]"
            raise RecordError(f"the score {value:g} is out of range", where=f'task "{task}"', mend=mend)
        if unit is None and found == PERCENT and 0 < value <= 1:
            what = f"the score {value:g} stands beside scores above 1: it may be a share or per cent"
            raise RecordError(what, where=f'task "{task}"', mend="give all scores in one unit, and name it")
    return found


def _result(forgotten: float, updated: float, acquired: float) -> FuarResult:
    gain = updated + acquired
    return FuarResult(forgotten / gain if gain > 0 else None, forgotten, updated, acquired)


def _quantile(values: Tensor, share: float) -> float | None:
    """The smallest value that at least this share does not exceed; None where that one is "no gain"."""
    value = float(values[max(0, math.ceil(share * len(values)) - 1)])
    return None if math.isinf(value) else value


def _check_tasks(forget: Sequence[str], update: str | None, acquire: str | None) -> None:
    if isinstance(forget, str) or not forget:
        mend = "name at least one task of old knowledge, as a list"
        raise SettingsError("no forgetting task is defined", where="FUAR", mend=mend)
    if update is None and acquire is None:
        mend = "name a task of updated or of new knowledge"
        raise SettingsError("no task measures what was gained", where="FUAR", mend=mend)
    named = [*forget, *(task for task in (update, acquire) if task is not None)]
    gained = [task for task in (update, acquire) if task is not None]
    if len(set(gained)) < len(gained) or set(gained) & set(forget):
        what = f"a task is named twice: {', '.join(named)}"
        raise SettingsError(what, where="FUAR", mend="measure what was lost and what was gained by different tasks")


def _check_scores(rows: Sequence[Scores], tasks: Sequence[str], unit: str | None) -> None:
    for model, row in enumerate(rows):
        _check_present(row, tasks, model)
    check_units([{task: row[task] for task in tasks} for row in rows], unit)


def _check_present(row: Mapping[str, object], tasks: Sequence[str], model: int) -> None:
    missing = [task for task in tasks if row.get(task) is None]
    if missing:
        what = f'there is no score for "{missing[0]}"'
        raise RecordError(what, where=f"model {model}", mend="score every task before and after")


def _table(rows: Sequence[Sequence[float]], task: str) -> Tensor:
    if not rows:
        raise EmptySetError("there is no question", where=f'task "{task}"', mend="give at least one")
    if len({len(row) for row in rows}) > 1 or not rows[0]:
        mend = "ask every model every question"
        raise RecordError("the questions have unequal numbers of scores", where=f'task "{task}"', mend=mend)
    table = torch.tensor([list(map(float, row)) for row in rows], dtype=torch.float64)
    if not bool(((table >= 0) & (table <= 1)).all()):
        raise RecordError("a score is outside [0, 1]", where=f'task "{task}"', mend="give shares")
    return table

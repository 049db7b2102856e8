"""The measures of continual learning, all from one table: score a_{k,j} of task j after learning task k = 1 .. T.

Definitions differ between papers, so each function says its own, and :data:`CONVENTIONS` says it in a report.
Tasks and times are counted from 1 as in the formulas.

Sources:
    Wang, Zhang, Su, Zhu, "A comprehensive survey of continual learning", TPAMI 2024 (arXiv:2302.00487), section 2.4.
    Lopez-Paz and Ranzato, "Gradient episodic memory", NeurIPS 2017 (arXiv:1706.08840): the other forward transfer.
    Chaudhry et al., "Riemannian walk", ECCV 2018 (arXiv:1801.10112): forgetting and intransigence.
    Riemer et al., "Learning to learn without forgetting", ICLR 2019 (arXiv:1810.11910): learning accuracy.
    Zheng et al., "Preventing zero-shot transfer degradation", ICCV 2023 (arXiv:2303.06628): the measures of MTIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.numerics.forgetting import check_units

Scores = Sequence[float]
CONVENTIONS: Mapping[str, str] = MappingProxyType(
    {
        "average_accuracy": "AA_k = mean over j <= k of a_kj",
        "average_incremental_accuracy": "AIA_k = mean over i <= k of AA_i",
        "forgetting_measure": "FM_k = mean over j < k of max over i < k of (a_ij - a_kj)",
        "backward_transfer": "BWT_k = mean over j < k of (a_kj - a_jj)",
        "learning_accuracy": "plasticity: mean over j <= k of a_jj",
        "intransigence": "IM_k = a*_k - a_kk, a* of a model trained jointly on tasks 1 .. k",
        "forward_transfer": "FWT_k = mean over 2 <= j <= k of (a_jj - s_j), s_j of a model trained on task j alone",
        "forward_transfer_gem": "mean over 2 <= j <= k of (a_(j-1)j - b_j), b_j before any task was learned",
    }
)


@dataclass(frozen=True)
class ScoreTable:
    """Scores of T tasks after each of them; build it with :meth:`of`, which checks it.

    Attributes:
        scores: T rows of T; above the diagonal (tasks that are yet to come) None where nothing was measured.
        unit: ``"share"`` or ``"percent"``; every measure is in the same.
    """

    scores: tuple[tuple[float | None, ...], ...]
    tasks: tuple[str, ...]
    unit: str

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[float | None]], *, tasks: Sequence[str] | None = None, unit: str | None = None
    ) -> ScoreTable:
        """The table of these rows: whole ones, or row k with its first k scores alone.

        Raises:
            EmptySetError: there is no row.
            RecordError: a row is too short or too long, a score up to the diagonal is missing, a score is out of
                range or of another unit than the others, a task is named twice.
        """
        count = len(rows)
        if count == 0:
            raise EmptySetError("there is no score", where="table of scores", mend="give a row for each task learned")
        names = tuple(tasks) if tasks is not None else tuple(str(number) for number in range(1, count + 1))
        if len(names) != count or len(set(names)) < count:
            what = f"{count} rows and the tasks {', '.join(names)}"
            raise RecordError(what, where="table of scores", mend="name each task once, and give a row after each")
        found = tuple(_row(row, number, count) for number, row in enumerate(rows, 1))
        given = [
            {f"{names[j]} after {k}": value for j, value in enumerate(row) if value is not None}
            for k, row in enumerate(found, 1)
        ]
        return cls(found, names, check_units(given, unit))

    def __len__(self) -> int:
        return len(self.scores)

    def after(self, k: int, j: int) -> float:
        """a_{k,j}, both counted from 1.

        Raises:
            RecordError: it was not measured.
        """
        value = self.scores[k - 1][j - 1]
        if value is None:
            what = f'task "{self.tasks[j - 1]}" was not scored after task "{self.tasks[k - 1]}"'
            raise RecordError(what, where="table of scores", mend="score tasks before they are learned, too")
        return value


def average_accuracy(table: ScoreTable, k: int | None = None) -> float:
    """AA_k = (1/k) sum_{j <= k} a_{k,j}; k is the last task unless given.

    >>> average_accuracy(ScoreTable.of([[0.9], [0.5, 0.7]]))
    0.6
    """
    k = _time(table, k)
    return _mean(table.after(k, j) for j in range(1, k + 1))


def average_incremental_accuracy(table: ScoreTable, k: int | None = None) -> float:
    """AIA_k = (1/k) sum_{i <= k} AA_i."""
    return _mean(average_accuracy(table, i) for i in range(1, _time(table, k) + 1))


def task_forgetting(table: ScoreTable, j: int, k: int | None = None, *, since_learned: bool = False) -> float:
    """f_{j,k} = max_{i < k} (a_{i,j} - a_{k,j}), for j < k; below zero where the task became better.

    Args:
        since_learned: look back to task j itself only (i >= j). By default scores from before it was learned count,
            where they were measured.

    Raises:
        SettingsError: j is not below k.
    """
    k = _time(table, k)
    if not 1 <= j < k:
        raise SettingsError(f"task {j} cannot be forgotten at time {k}", where="j", mend=f"choose 1 to {k - 1}")
    earlier = [table.scores[i - 1][j - 1] for i in range(j if since_learned else 1, k)]
    return max(value for value in earlier if value is not None) - table.after(k, j)


def forgetting_measure(table: ScoreTable, k: int | None = None, *, since_learned: bool = False) -> float:
    """FM_k = (1/(k-1)) sum_{j < k} f_{j,k}; at least -BWT_k.

    Raises:
        SettingsError: k is 1: nothing can have been forgotten.
    """
    k = _time(table, k, least=2)
    return _mean(task_forgetting(table, j, k, since_learned=since_learned) for j in range(1, k))


def backward_transfer(table: ScoreTable, k: int | None = None) -> float:
    """BWT_k = (1/(k-1)) sum_{j < k} (a_{k,j} - a_{j,j}); below zero where later tasks hurt earlier ones.

    Raises:
        SettingsError: k is 1.
    """
    k = _time(table, k, least=2)
    return _mean(table.after(k, j) - table.after(j, j) for j in range(1, k))


def learning_accuracy(table: ScoreTable, k: int | None = None) -> float:
    """Plasticity: (1/k) sum_{j <= k} a_{j,j}, how well each task was learned when it was its turn."""
    return _mean(table.after(j, j) for j in range(1, _time(table, k) + 1))


def intransigence(table: ScoreTable, joint: Scores, k: int | None = None) -> float:
    """IM_k = a*_k - a_{k,k}: what is missing of what could have been learned.

    Args:
        joint: for each k the score on task k of a model trained on tasks 1 .. k together, in the unit of the table.

    Raises:
        RecordError: there is not one for each task, or one is out of range.
    """
    k = _time(table, k)
    return _reference(table, joint, "joint")[k - 1] - table.after(k, k)


def forward_transfer(table: ScoreTable, single: Scores, k: int | None = None) -> float:
    """The survey's FWT_k = (1/(k-1)) sum_{j=2..k} (a_{j,j} - s_j).

    Args:
        single: for each task the score of a model that was trained on it alone from random weights.

    Raises:
        SettingsError: k is 1.
        RecordError: there is not one for each task, or one is out of range.
    """
    k = _time(table, k, least=2)
    alone = _reference(table, single, "single")
    return _mean(table.after(j, j) - alone[j - 1] for j in range(2, k + 1))


def forward_transfer_gem(table: ScoreTable, untrained: Scores, k: int | None = None) -> float:
    """GEM's FWT_k = (1/(k-1)) sum_{j=2..k} (a_{j-1,j} - b_j): help for a task before it is learned.

    Args:
        untrained: b_j, score on each task before any was learned: at random weights in the paper, of the
            pretrained model where one goes on from there.

    Raises:
        SettingsError: k is 1.
        RecordError: there is not one for each task, one is out of range, or a task was not scored in time.
    """
    k = _time(table, k, least=2)
    start = _reference(table, untrained, "untrained")
    return _mean(table.after(j - 1, j) - start[j - 1] for j in range(2, k + 1))


def mtil_metrics(table: ScoreTable) -> tuple[float, float, float]:
    """Transfer, Average and Last of MTIL and X-TAIL, by which CoDyRA (arXiv:2412.01004) is measured.

        Transfer = mean over j >= 2 of the mean over i < j of a_ij      zero-shot, before task j is learned
        Average = mean over all i and j of a_ij                         Last = mean over j of a_Tj

    A score of 0 is a score, where the official code of CoDyRA takes it for a missing one.

    >>> mtil_metrics(ScoreTable.of([[0.5, 0.25], [0.25, 1.0]]))
    (0.25, 0.5, 0.625)

    Raises:
        SettingsError: there is one task alone, so that nothing is transferred.
        RecordError: a task was not scored before it was learned.
    """
    tasks = range(1, _time(table, None, least=2) + 1)
    transfer = _mean(_mean(table.after(i, j) for i in range(1, j)) for j in tasks[1:])
    return transfer, _mean(table.after(i, j) for i in tasks for j in tasks), average_accuracy(table)


def continual_measures(
    table: ScoreTable,
    *,
    joint: Scores | None = None,
    single: Scores | None = None,
    untrained: Scores | None = None,
    k: int | None = None,
) -> dict[str, float]:
    """Every measure that the table and the references allow at time k, by the names of :data:`CONVENTIONS`."""
    k = _time(table, k)
    own: dict[str, Callable[..., float]] = {
        "average_accuracy": average_accuracy,
        "average_incremental_accuracy": average_incremental_accuracy,
        "learning_accuracy": learning_accuracy,
    }
    own |= {"forgetting_measure": forgetting_measure, "backward_transfer": backward_transfer} if k > 1 else {}
    found = {name: formula(table, k) for name, formula in own.items()}
    if joint is not None:
        found["intransigence"] = intransigence(table, joint, k)
    if single is not None and k > 1:
        found["forward_transfer"] = forward_transfer(table, single, k)
    if untrained is not None and k > 1:
        found["forward_transfer_gem"] = forward_transfer_gem(table, untrained, k)
    return found


def _row(row: Sequence[float | None], number: int, count: int) -> tuple[float | None, ...]:
    values = [None if value is None or math.isnan(value) else float(value) for value in row]
    if len(values) not in (number, count):
        mend = f"give all {count} scores, or the {number} of the tasks learned so far"
        raise RecordError(f"the row has {len(values)} scores", where=f"table of scores, row {number}", mend=mend)
    values += [None] * (count - len(values))
    if None in values[:number]:
        what = f"the score of task {values.index(None) + 1} is missing"
        mend = "score every task that was learned so far"
        raise RecordError(what, where=f"table of scores, row {number}", mend=mend)
    return tuple(values)


def _time(table: ScoreTable, k: int | None, *, least: int = 1) -> int:
    k = len(table) if k is None else k
    if not least <= k <= len(table):
        mend = f"choose {least} to {len(table)}" if len(table) >= least else f"score {least} tasks or more"
        raise SettingsError(f"k is {k}", where="table of scores", mend=mend)
    return k


def _reference(table: ScoreTable, values: Scores, name: str) -> Scores:
    if len(values) != len(table):
        what = f"there are {len(values)} reference scores for {len(table)} tasks"
        raise RecordError(what, where=name, mend="give one for each task")
    check_units([dict(zip(table.tasks, map(float, values), strict=True))], table.unit)
    return values


def _mean(values) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)

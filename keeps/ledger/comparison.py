"""Several runs of one job side by side: what each method learned, what it kept, and what it cost."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from keeps.errors import LedgerError
from keeps.ledger.difference import diff_results
from keeps.ledger.lines import KnowledgeDiff, plain
from keeps.ledger.records import RunRecord
from keeps.numerics.fronts import undominated
from keeps.numerics.statistics import Estimate, mean_interval, wilson

if TYPE_CHECKING:
    from keeps.ledger.store import Ledger

# The measures of a run that count as its cost, with the heading and the unit of each.
COSTS: Mapping[str, tuple[str, str]] = {
    "train_seconds": ("training time", "s"),
    "peak_memory_bytes": ("peak memory", "bytes"),
    "trained_parameters": ("trained parameters", ""),
    "disk_bytes": ("on disk", "bytes"),
}
SHARES = ("learned", "learn_accuracy", "unseen", "kept", "keep_accuracy", "calibrated")


@dataclass(frozen=True)
class ComparedRun:
    """One finished run with its diff."""

    run: RunRecord
    diff: KnowledgeDiff


@dataclass(frozen=True)
class MethodRow:
    """One method in one setting, over its seeds. Shares are in [0, 1]; None where nothing was asked.

    Attributes:
        label: the method, with the settings that tell it from its other rows.
        learned: share of the learn questions that were wrong before and are right after.
        learn_accuracy: share of all learn questions that are right after.
        unseen: as ``learned``, in wordings that were not trained on.
        kept: share of the held-out keep questions that were right before and still are.
        keep_accuracy: share of all held-out keep questions that are right after.
        calibrated: as ``kept``, on the facts that the method calibrated on.
        text_shift: change of the loss on held-out text, in nats per token.
        costs: by the names in :data:`COSTS`.
        interval: ``"seeds"`` (t interval over two or more seeds) or ``"questions"`` (one seed:
            Wilson interval over its questions; costs then have none).
        front: no other row both learned and kept at least as much, and more of one.
    """

    method: str
    label: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    learned: Estimate | None
    learn_accuracy: Estimate | None
    unseen: Estimate | None
    kept: Estimate | None
    keep_accuracy: Estimate | None
    calibrated: Estimate | None
    text_shift: Estimate | None
    costs: Mapping[str, Estimate]
    interval: str
    front: bool = False


@dataclass(frozen=True)
class Comparison:
    """One row per method and setting, in the order of the runs."""

    model: str
    learn: str
    keep: str
    rows: tuple[MethodRow, ...]

    def to_mapping(self) -> dict[str, Any]:
        """JSON types only; :meth:`from_mapping` gives the same comparison back."""
        return plain(asdict(self))

    def to_json(self) -> str:
        """The comparison as indented JSON text."""
        return json.dumps(self.to_mapping(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line per row; every figure with its low and high end, unrounded."""
        names = [*SHARES, "text_shift", *COSTS]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        ends = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
        writer.writerow(["method", "label", "seeds", "runs", "interval", "front", *ends])
        for row in self.rows:
            cells: list[Any] = [row.method, row.label, " ".join(map(str, row.seeds)), " ".join(row.runs)]
            cells += [row.interval, "yes" if row.front else "no"]
            for name in names:
                estimate = row.costs.get(name) if name in COSTS else getattr(row, name)
                cells += [estimate.value, estimate.low, estimate.high] if estimate else ["", "", ""]
            writer.writerow(cells)
        return stream.getvalue()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Comparison:
        """Rebuild a comparison from :meth:`to_mapping`.

        Raises:
            LedgerError: a field is missing or not known.
        """
        try:
            return cls(**{**values, "rows": tuple(_row_from(row) for row in values["rows"])})
        except (KeyError, TypeError) as error:
            raise LedgerError(
                f"this is no comparison ({error})", mend="give what `keeps compare --json` prints"
            ) from None


def compare_runs(entries: Sequence[ComparedRun]) -> Comparison:
    """Gather finished runs of one job: same model, same data, same questions.

    Raises:
        LedgerError: there is no run, two runs are of different jobs, or a seed occurs twice in a row.
    """
    if not entries:
        raise LedgerError("there is nothing to compare", mend="name at least one finished run")
    first = entries[0]
    questions = {(item.group, item.id) for item in first.diff.items}
    for entry in entries:
        run = entry.run
        same = (run.model_fingerprint, dict(run.data_fingerprints)) == (
            first.run.model_fingerprint,
            dict(first.run.data_fingerprints),
        )
        if not same or {(item.group, item.id) for item in entry.diff.items} != questions:
            raise LedgerError(
                "these runs are not of the same job",
                where=f"{first.run.id}, {run.id}",
                mend="compare runs on the same model, the same data and the same questions",
            )
    variants: dict[tuple[str, str], list[ComparedRun]] = {}
    for entry in entries:
        key = (entry.run.method, json.dumps(entry.run.settings, sort_keys=True))
        variants.setdefault(key, []).append(entry)
    rows = [_row(part, _label(part[0].run, [e.run for e in entries])) for part in variants.values()]
    front = pareto_front([(row.learned, row.kept) for row in rows])
    marked = tuple(replace(row, front=flag) for row, flag in zip(rows, front, strict=True))
    return Comparison(first.run.model, first.run.learn, first.run.keep, marked)


def compare_stored(ledger: Ledger, run_ids: Sequence[str]) -> tuple[Comparison, list[ComparedRun]]:
    """The comparison of stored runs and their diffs, every share computed from the stored rows.

    Raises:
        UnknownNameError: no such run.
        LedgerError: a run has no results yet, or the runs are not of the same job.
    """
    entries = []
    for run_id in run_ids:
        run = ledger.find_run(run_id)
        if not run.before_result or not run.after_result:
            raise LedgerError(f"the run is {run.status} and has not been probed", where=run.id, mend="finish it first")
        names = {"before_name": run.model, "after_name": run.method}
        diff = diff_results(ledger, run.before_result, run.after_result, cost=run.measures, **names)
        entries.append(ComparedRun(run, diff))
    return compare_runs(entries), entries


def pareto_front(points: Sequence[tuple[Estimate | None, Estimate | None]]) -> list[bool]:
    """Which points no other point dominates: at least as far on both axes, and farther on one."""
    pairs = [(x.value, y.value) if x and y else None for x, y in points]
    best = iter(undominated([pair for pair in pairs if pair]))
    return [pair is not None and next(best) for pair in pairs]


def _row(part: Sequence[ComparedRun], label: str) -> MethodRow:
    seeds = tuple(entry.run.seed for entry in part)
    if len(set(seeds)) < len(seeds):
        ids = ", ".join(entry.run.id for entry in part)
        raise LedgerError(
            "two of these runs are the same method, settings and seed", where=ids, mend="name one of them"
        )
    counts = [_counts(entry.diff) for entry in part]
    shares = {name: _share([count[name] for count in counts]) for name in SHARES}
    texts = [text.loss_shift for entry in part if (text := entry.diff.text_total())]
    costs = {}
    for name in COSTS:
        values = [entry.run.measures.get(name) for entry in part]
        if all(isinstance(value, (int, float)) for value in values):
            costs[name] = mean_interval([float(value) for value in values if value is not None])
    return MethodRow(
        method=part[0].run.method,
        label=label,
        settings=dict(part[0].run.settings),
        seeds=seeds,
        runs=tuple(entry.run.id for entry in part),
        learned=shares["learned"],
        learn_accuracy=shares["learn_accuracy"],
        unseen=shares["unseen"],
        kept=shares["kept"],
        keep_accuracy=shares["keep_accuracy"],
        calibrated=shares["calibrated"],
        text_shift=_over_seeds(texts),
        costs=costs,
        interval="seeds" if len(part) > 1 else "questions",
    )


def _counts(diff: KnowledgeDiff) -> dict[str, tuple[int, int]]:
    """(successes, out of) for every share of :data:`SHARES`."""
    learn, unseen = diff.total("learn"), diff.total("learn, unseen wording")
    keep, calibrated = diff.total("keep"), diff.total("calibrated")
    return {
        "learned": (learn.learned, learn.learned + learn.missing) if learn else (0, 0),
        "learn_accuracy": (learn.learned + learn.kept, learn.n) if learn else (0, 0),
        "unseen": (unseen.learned, unseen.learned + unseen.missing) if unseen else (0, 0),
        "kept": (keep.kept, keep.kept + keep.lost) if keep else (0, 0),
        "keep_accuracy": (keep.kept + keep.learned, keep.n) if keep else (0, 0),
        "calibrated": (calibrated.kept, calibrated.kept + calibrated.lost) if calibrated else (0, 0),
    }


def _share(counts: Sequence[tuple[int, int]]) -> Estimate | None:
    """One seed: Wilson over its questions. More: t over the seeds, its ends held in [0, 1].

    Seeds that agree exactly would get an interval of no width, which claims too much: they get the
    Wilson interval of the one count that they share.
    """
    if any(n == 0 for _, n in counts):
        return None
    if len(set(counts)) == 1:
        share = wilson(*counts[0])
        return Estimate(share.value, share.low, share.high, len(counts))
    mean = mean_interval([successes / n for successes, n in counts])
    low, high = mean.low or 0.0, 1.0 if mean.high is None else mean.high
    return Estimate(mean.value, max(0.0, low), min(1.0, high), mean.n)


def _over_seeds(shifts: Sequence[Estimate]) -> Estimate | None:
    """One seed: its own interval over passages. More: t over the seeds."""
    if len(shifts) < 2:
        return Estimate(shifts[0].value, shifts[0].low, shifts[0].high, 1) if shifts else None
    return mean_interval([shift.value for shift in shifts])


def _label(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """The method, and where it occurs in several settings, those that differ."""
    settings = [other.settings for other in runs if other.method == run.method]
    names = sorted({name for values in settings for name in values})
    differing = [name for name in names if len({json.dumps(values.get(name)) for values in settings}) > 1]
    told = ", ".join(f"{name} {_plain(run.settings.get(name))}" for name in differing)
    return f"{run.method} ({told})" if told else run.method


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row_from(values: Mapping[str, Any]) -> MethodRow:
    estimates = {name: _estimate(values[name]) for name in (*SHARES, "text_shift")}
    costs = {name: Estimate(**value) for name, value in values["costs"].items()}
    tuples = {"seeds": tuple(values["seeds"]), "runs": tuple(values["runs"])}
    return MethodRow(**{**values, **estimates, **tuples, "costs": costs})


def _estimate(values: Mapping[str, Any] | None) -> Estimate | None:
    return Estimate(**values) if values else None

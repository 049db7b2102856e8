"""A finished run with all that the ledger holds of it, taken from one ledger to another."""

from __future__ import annotations

from dataclasses import dataclass, fields

from keeps.contracts import Row
from keeps.ledger.records import ResultRecord, RunRecord
from keeps.ledger.store import Ledger, Point


@dataclass(frozen=True)
class Parcel:
    """A run, the probe results that frame it with their rows, and its curves; plain data that can be sent."""

    run: RunRecord
    results: tuple[tuple[ResultRecord, tuple[Row, ...]], ...]
    curves: tuple[Point, ...]


def pack(ledger: Ledger, run_id: str) -> Parcel:
    """Everything that ``ledger`` holds of a run.

    Raises:
        UnknownNameError: there is no such run.
    """
    run = ledger.find_run(run_id)
    ids = [name for name in (run.before_result, run.after_result) if name]
    results = tuple((ledger.result(name), tuple(ledger.rows(name))) for name in ids)
    return Parcel(run, results, tuple(ledger.curves(run.id)))


def unpack(parcel: Parcel, ledger: Ledger) -> None:
    """Store what was packed; what is there of the run already is brought up to date, the status last.

    A result's id follows from what was probed and how, so it is the same in every ledger.

    Raises:
        LedgerError: the ledger cannot take it.
    """
    for result, rows in parcel.results:
        ledger.add_result(
            subject=result.subject,
            subject_name=result.subject_name,
            probe=result.probe,
            probe_fingerprint=result.probe_fingerprint,
            rows=rows,
            seconds=result.seconds,
        )
    run = parcel.run
    values = {item.name: getattr(run, item.name) for item in fields(run)}
    if not any(known.id == run.id for known in ledger.runs()):
        ledger.add_run(RunRecord(**{**values, "status": "running"}))
    ledger.add_curves(run.id, parcel.curves)
    ledger.update_run(run.id, **{name: value for name, value in values.items() if name not in ("id", "created")})

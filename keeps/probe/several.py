"""Several probes asked as one, so that one result holds facts and texts side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from keeps.contracts import Probe, Row, Run
from keeps.errors import EmptySetError, RecordError


class SeveralProbes:
    """The rows of all ``probes``, in order.

    Raises:
        EmptySetError: there is no probe.
        RecordError: an id stands twice; probes that list their ``ids`` are checked before anything is asked.
    """

    def __init__(self, probes: Sequence[Probe], *, name: str) -> None:
        if not probes:
            raise EmptySetError("there is nothing to probe", where=name, mend="select facts, examples or texts")
        self.probes = list(probes)
        self.name = name
        _refuse_repeated((identity for probe in probes for identity in getattr(probe, "ids", ())), name)

    @property
    def fingerprint(self) -> str:
        """Hash of the parts' fingerprints (16 hexadecimal digits)."""
        return hashlib.sha256("\n".join(probe.fingerprint for probe in self.probes).encode()).hexdigest()[:16]

    def __call__(self, answerer: Any, *, run: Run | None = None) -> list[Row]:
        """The rows of every part."""
        rows = [row for probe in self.probes for row in probe(answerer, run=run)]
        _refuse_repeated((row.id for row in rows), self.name)
        return rows


def _refuse_repeated(ids: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            mend = "ask every question once, under an id of its own"
            raise RecordError(f'two questions have the id "{identity}"', where=where, mend=mend)
        seen.add(identity)

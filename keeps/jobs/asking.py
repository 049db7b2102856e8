"""Ask a model a probe once: what the ledger holds already is not asked again."""

from __future__ import annotations

import time
from typing import Any

from keeps.contracts import Probe, Progress, Run
from keeps.ledger.store import Ledger


def asked(ledger: Ledger, model: Any, probe: Probe, name: str, progress: Progress) -> tuple[str, bool]:
    """The id of the result of ``probe`` on ``model``, and whether it was stored before.

    Args:
        model: anything that answers and has a ``fingerprint``.
        name: what people call the model.
    """
    subject = model.fingerprint
    stored = ledger.find_result(subject, probe.fingerprint)
    if stored is not None:
        return stored.id, True
    started = time.monotonic()
    rows = probe(model, run=Run(ledger.path.parent, progress=progress))
    result = ledger.add_result(
        subject=subject,
        subject_name=name,
        probe=probe.name,
        probe_fingerprint=probe.fingerprint,
        rows=rows,
        seconds=time.monotonic() - started,
    )
    return result, False

"""What users ask for: adapt, diff, compare, probe, export and reproduce, from bad-input check to ledger."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeps.jobs.adapting import AdaptOutcome as AdaptOutcome
    from keeps.jobs.adapting import adapt as adapt
    from keeps.jobs.comparing import compare as compare
    from keeps.jobs.differing import diff as diff
    from keeps.jobs.exporting import check_export as check_export
    from keeps.jobs.exporting import export as export
    from keeps.jobs.probing import ProbeOutcome as ProbeOutcome
    from keeps.jobs.probing import probe as probe
    from keeps.jobs.spectra import SpectrumReport as SpectrumReport
    from keeps.jobs.spectra import spectrum as spectrum

_HOMES = {
    "AdaptOutcome": "adapting",
    "ProbeOutcome": "probing",
    "SpectrumReport": "spectra",
    "adapt": "adapting",
    "check_export": "exporting",
    "compare": "comparing",
    "diff": "differing",
    "export": "exporting",
    "probe": "probing",
    "spectrum": "spectra",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"keeps.jobs.{_HOMES[name]}"), name)

"""What users ask for: adapt, edit, merge, diff, compare, probe and export, from bad-input check to ledger."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeps.jobs.adapting import AdaptOutcome as AdaptOutcome
    from keeps.jobs.adapting import adapt as adapt
    from keeps.jobs.comparing import compare as compare
    from keeps.jobs.differing import diff as diff
    from keeps.jobs.editing import EditOutcome as EditOutcome
    from keeps.jobs.editing import edit as edit
    from keeps.jobs.editing import list_edits as list_edits
    from keeps.jobs.editing import withdraw_edits as withdraw_edits
    from keeps.jobs.exporting import check_export as check_export
    from keeps.jobs.exporting import export as export
    from keeps.jobs.grounding import GroundOutcome as GroundOutcome
    from keeps.jobs.grounding import ground as ground
    from keeps.jobs.merging import MergeOutcome as MergeOutcome
    from keeps.jobs.merging import merge as merge
    from keeps.jobs.probing import ProbeOutcome as ProbeOutcome
    from keeps.jobs.probing import probe as probe
    from keeps.jobs.spectra import SpectrumReport as SpectrumReport
    from keeps.jobs.spectra import spectrum as spectrum
    from keeps.jobs.unlearning import UnlearnOutcome as UnlearnOutcome
    from keeps.jobs.unlearning import unlearn as unlearn

_HOMES = {
    "AdaptOutcome": "adapting",
    "EditOutcome": "editing",
    "GroundOutcome": "grounding",
    "MergeOutcome": "merging",
    "ProbeOutcome": "probing",
    "SpectrumReport": "spectra",
    "UnlearnOutcome": "unlearning",
    "adapt": "adapting",
    "check_export": "exporting",
    "compare": "comparing",
    "diff": "differing",
    "edit": "editing",
    "export": "exporting",
    "ground": "grounding",
    "list_edits": "editing",
    "merge": "merging",
    "probe": "probing",
    "spectrum": "spectra",
    "unlearn": "unlearning",
    "withdraw_edits": "editing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"keeps.jobs.{_HOMES[name]}"), name)

"""What every trace of Adaptive-Note keeps to, whatever the model says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeps.ground.adaptive_note import AdaptiveNoteSettings

STOPS = ("max_rounds", "max_fails", "max_passages", "no_new_passages")


def breaks_a_guarantee(trace: Mapping[str, Any], settings: AdaptiveNoteSettings) -> bool:
    """Whether stop, rounds, calls, passages or the form of the note are not what the method promises."""
    rounds = len(trace["rounds"])
    return (
        trace["stop"] not in STOPS
        or rounds > settings.max_rounds
        or trace["calls"] > 2 + 4 * settings.max_rounds
        or len(trace["passages"]) > settings.max_passages
        or "\n" in trace["note"]
    )

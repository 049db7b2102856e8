"""The statistics that locate-and-edit methods divide by: what the edited layers read elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from keeps.contracts import Run
from keeps.models.language_model import LanguageModel
from keeps.models.moments import second_moments
from keeps.numerics.editing import Moment
from keeps.training.locate_settings import LocateSettings


def statistics(
    model: LanguageModel,
    layers: Sequence[int],
    settings: LocateSettings,
    run: Run,
    *,
    fingerprint: str | None = None,
) -> dict[int, Moment]:
    """C of each layer, ready to be divided by, on the model's device; a plain ridge where text is scarce."""
    started = time.monotonic()
    found = second_moments(model, layers, tokens=settings.moment_tokens, run=run, fingerprint=fingerprint)
    run.measures["moment_seconds"] = time.monotonic() - started
    moments = {}
    for layer, moment in found.items():
        scarce = moment.tokens < moment.matrix.shape[0]
        ridge = max(settings.ridge, 1e-4) if scarce else settings.ridge  # singular without one
        matrix = moment.matrix.to(model.device)
        moments[layer] = Moment.of(matrix, ridge=ridge, tokens=moment.tokens, where=f"layer {layer}")
    run.measures["moment_tokens"] = min(moment.tokens for moment in moments.values())
    return moments

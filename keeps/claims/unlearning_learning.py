"""A model that has learned something by heart, and the same model after a method that was to make it forget."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeps.claims.base import ClaimRun
from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.adapters import added
from keeps.models.language_model import LanguageModel
from keeps.registry import find_method
from keeps.training.adapter import AdapterSettings, wrap
from keeps.training.examples import tokenise
from keeps.training.loop import train


@contextmanager
def trained_on(
    model: LanguageModel, records: RecordSet, settings: AdapterSettings, run: ClaimRun, seed: int
) -> Iterator[None]:
    """``model`` with an adapter in its weights that was trained on ``records`` until it knows them by heart."""
    wrapped = wrap(model, settings, seed=seed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            circumstances = Run(Path(folder), seed=seed, device=str(model.device), progress=run.progress)
            pad = model.encoder.pad_token_id
            train(wrapped.peft_model, tokenise(model, records), settings, circumstances, pad_token_id=pad)
        factors = wrapped.factors()
    finally:
        wrapped.unwrap()
    with added(model.model, factors, settings.scaling):
        yield


@contextmanager
def forgotten(
    model: LanguageModel,
    name: str,
    settings: Mapping[str, Any],
    forget: RecordSet,
    retain: RecordSet,
    run: ClaimRun,
    seed: int,
) -> Iterator[tuple[Any, float]]:
    """``model`` after the method called ``name``, and the seconds that it took; its weights come back afterwards."""
    info = find_method(name, "unlearn")
    with tempfile.TemporaryDirectory() as folder:
        circumstances = Run(Path(folder), seed=seed, device=str(model.device), progress=run.progress)
        started = time.monotonic()
        method = info.implementation(info.settings.from_mapping(settings))
        change = method(model, forget, retain, run=circumstances)
        seconds = time.monotonic() - started
        changed = change.apply(model)
        try:
            yield changed, seconds
        finally:
            changed.undo()

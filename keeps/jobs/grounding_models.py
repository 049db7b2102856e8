"""The model that a grounding job answers with: as the methods need it, whole or with the change of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeps.contracts import Progress
from keeps.errors import SettingsError
from keeps.jobs.models import changed, load_base, resolve
from keeps.ledger.workspace import Workspace
from keeps.registry import MethodInfo

ENCODER_DECODER = "seq2seq"  # in what a method fits


@contextmanager
def answering_model(
    name: str, infos: Sequence[MethodInfo], *, workspace: str | Path | None, device: str | None, progress: Progress
) -> Iterator[Any]:
    """A model, run or folder by name, loaded as the methods need it; a run's change is undone afterwards.

    Raises:
        SettingsError: some methods need an encoder-decoder and others do not, or a run is named for one.
        KeepsError: the model or the run cannot be loaded.
    """
    kinds = {ENCODER_DECODER in info.fits for info in infos}
    if len(kinds) > 1:
        what = "some of the methods need an encoder-decoder, and others a decoder-only model"
        raise SettingsError(what, where="method", mend="compare them in two runs with --out")
    named = resolve(name, Workspace(workspace))
    if kinds == {True}:
        from keeps.models.seq2seq import Seq2SeqModel

        if named.folder is not None:
            mend = "name the folder or hub id of a T5-like model"
            raise SettingsError("a run changes a decoder-only model", where=name, mend=mend)
        yield Seq2SeqModel.load(named.model, device=device or "cpu", progress=progress)
        return
    base = load_base(named, device=device, progress=progress)
    if named.change is None:
        yield base
    else:
        with changed(named, base) as model:
            yield model

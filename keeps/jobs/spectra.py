"""Which layers are compressible in which context: oriented spectra, without training anything."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Run, SilentProgress
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.jobs.adapting import chosen_settings
from keeps.jobs.data import DEFAULT_KEEP, DEFAULT_LEARN, check_data, job_data
from keeps.jobs.models import marks_for
from keeps.jobs.processes import is_main_process, own_device
from keeps.ledger.figures import save_figure
from keeps.ledger.spectrum import spectrum_figure
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method
from keeps.settings import Settings
from keeps.weights.files import atomic_write_bytes

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class SpectrumReport:
    """How the spectra of a model's layers lie in the context of each set.

    Attributes:
        layers: ``"keep"`` and ``"learn"`` to one line a layer, as :meth:`keeps.adapt.corda.CorDA.spectrum` gives.
        files: what was written.
    """

    model: str
    method: str
    sources: Mapping[str, str]
    layers: Mapping[str, list[dict[str, Any]]]
    files: tuple[Path, ...] = ()


def spectrum(
    learn: str | RecordSet = DEFAULT_LEARN,
    keep: str | RecordSet = DEFAULT_KEEP,
    *,
    method: str = "corda",
    model: str | LanguageModel = DEFAULT_MODEL,
    settings: Mapping[str, Any] | Settings | None = None,
    seed: int = 0,
    device: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> SpectrumReport:
    """The spectra of every target layer, oriented by what to keep and by what to learn; the model stays as it is.

    >>> report = spectrum("new.jsonl", "known.csv", out="spectra")  # doctest: +SKIP

    Args:
        learn, keep, method, model, settings, seed: as of :func:`keeps.jobs.adapt`; a run of the same would
            start from these spectra.
        out: folder for ``spectrum.json`` and ``spectrum.png``.

    Raises:
        SettingsError: the method does not decompose weights in a context.
        StorageError: the files cannot be written.
        KeepsError: any bad input, before a model is loaded where possible.
    """
    from keeps.models.language_model import LanguageModel

    info = find_method(method, "adapt")
    chosen = chosen_settings(info, settings)
    implementation = info.implementation(chosen)
    if not hasattr(implementation, "spectrum"):
        raise SettingsError(f'the method "{method}" has no oriented spectrum', mend="choose --method corda")
    check_data(learn, keep)
    folder = None if out is None else Path(out)
    if folder is not None:
        _make(folder)
    shown = progress if progress is not None and is_main_process() else SilentProgress()
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(
            model, device=own_device(device), progress=shown, trust_remote_code=trust_remote_code
        )
    chosen.check_model(model)
    data = job_data(learn, keep, marks=marks_for(model, learn, keep, progress=shown))
    contexts = {"keep": data.keep, "learn": data.learn}
    with tempfile.TemporaryDirectory() as nowhere:  # nothing is written there
        run = Run(Path(nowhere), seed=seed, device=str(model.device), progress=shown)
        layers = implementation.spectrum(model, contexts, run)
    report = SpectrumReport(model.name, method, {name: found.source for name, found in contexts.items()}, layers)
    if folder is None or not is_main_process():
        return report
    return SpectrumReport(report.model, method, report.sources, layers, _written(report, folder))


def _make(folder: Path) -> None:
    from keeps.weights.files import storage_error

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error


def _written(report: SpectrumReport, folder: Path) -> tuple[Path, ...]:
    names = ("model", "method", "sources", "layers")
    text = json.dumps({name: getattr(report, name) for name in names}, indent=2) + "\n"
    atomic_write_bytes(folder / "spectrum.json", text.encode())
    return folder / "spectrum.json", save_figure(spectrum_figure(report.layers), folder / "spectrum.png")

"""Ask models what a probing system asks, store every row, and measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Probe, Progress, Row, SilentProgress
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.jobs.adapting import chosen_settings
from keeps.jobs.asking import Asking
from keeps.jobs.data import names_marks
from keeps.jobs.folders import check_new
from keeps.jobs.models import resolve
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.probe.base import Findings, ModelRows, ProbingSystem, Selection
from keeps.probe.facts import Facts
from keeps.probe.page import write_page
from keeps.registry import find_method
from keeps.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_SYSTEM = "facts"


@dataclass(frozen=True)
class ModelResult:
    """The stored result of one model; ``reused`` where the ledger had it already."""

    name: str
    result_id: str
    rows: Sequence[Row]
    reused: bool


@dataclass(frozen=True)
class ProbeOutcome:
    """What every model answered, and what it says.

    Attributes:
        system: name of the probing system.
        results: one a model, in the order they were named.
        findings: measures and tables.
        files: what was written to ``out``.
    """

    system: str
    results: tuple[ModelResult, ...]
    findings: Findings
    files: tuple[Path, ...] = ()
    seed: int = 0

    @property
    def rows(self) -> Sequence[Row]:
        """The rows of the first model."""
        return self.results[0].rows

    @property
    def reused(self) -> bool:
        """Whether nothing had to be asked."""
        return all(result.reused for result in self.results)

    def draw(self, settings: Mapping[str, Any] | Settings | None = None) -> Figure | None:
        """The system's picture of the rows; None where it has none."""
        system = probing_system(self.system, settings)
        return system.draw([ModelRows(result.name, result.rows) for result in self.results], seed=self.seed)


def probe(
    model: str | Sequence[str] = DEFAULT_MODEL,
    data: str | RecordSet | None = None,
    *,
    system: str = DEFAULT_SYSTEM,
    settings: Mapping[str, Any] | Settings | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    workspace: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> ProbeOutcome:
    """Ask one model or several everything that ``system`` asks about ``data``.

    Each model is loaded once. A result that is in the ledger already is not asked again, and one that was
    interrupted goes on where it stopped.

    >>> outcome = probe("smollm2-135m", "world:capital")  # doctest: +SKIP
    >>> sum(row.correct for row in outcome.rows)  # doctest: +SKIP

    Args:
        model: models, runs, or folders of runs; the others are compared with the first.
        data: built-in sets, files, or a RecordSet; None for what the system asks by itself. Sets of known or
            unknown facts mean known to the first model, to the base model of a run.
        system: ``"facts"``, or another probing system (``keeps methods`` lists them).
        settings: of the system, as a mapping or its settings dataclass.
        limit: most questions, shared out over the groups.
        seed: of samples, negatives and shots.
        out: a new folder for the page, the picture, the measures and the rows.

    Raises:
        SettingsError: a wrong setting or limit, too few models, or one that is named twice.
        KeepsError: a bad set or file, or a name that is neither run, folder nor model.
    """
    names = [model] if isinstance(model, str) else list(model)
    chosen = probing_system(system, settings)
    _check_models(names, system, chosen)
    if out is not None:
        check_new(out)
    _check(chosen, Selection(data, seed, limit))
    space = Workspace(workspace)
    progress = progress or SilentProgress()
    with space.ledger() as ledger:
        named = [resolve(name, space) for name in names]
        asking = Asking(ledger, device, progress)
        spec = chosen.default_data if data is None else data
        marks = asking.marks(named[0]) if names_marks(spec) else None
        questions = chosen.probe(Selection(data, seed, limit, marks))
        found = [(item.name, *asking.result(item, questions, seed=seed)) for item in named]
        results = tuple(ModelResult(name, result, ledger.rows(result), reused) for name, result, reused in found)
    asked = [ModelRows(result.name, result.rows) for result in results]
    findings = chosen.measure(asked, seed=seed)
    files = write_page(out, chosen, asked, findings, seed=seed) if out is not None else ()
    return ProbeOutcome(system, results, findings, tuple(files), seed)


def probing_system(name: str, settings: Mapping[str, Any] | Settings | None = None) -> ProbingSystem:
    """The probing system called ``name``, with these settings.

    Raises:
        UnknownNameError: there is none, or it has no such setting.
        SettingsError: a setting is wrong.
    """
    info = find_method(name, "probe")
    return info.implementation(chosen_settings(info, settings))


def world_probe(spec: str | RecordSet, *, marks: Mapping[str, str] | None = None) -> Probe:
    """The probe that asks everything in ``spec``: facts and choices, and running text by perplexity."""
    return Facts(Facts.Settings()).probe(Selection(spec, marks=marks))


def check_probe(spec: str | RecordSet) -> None:
    """Refuse a bad set before a model is loaded; raises as :func:`world_probe`."""
    _check(Facts(Facts.Settings()), Selection(spec))


def _check(system: ProbingSystem, selection: Selection) -> None:
    """A set that is empty for the default model's marks may hold something for those of another one."""
    try:
        system.probe(selection)
    except EmptySetError:
        if not names_marks(system.default_data if selection.data is None else selection.data):
            raise


def _check_models(names: Sequence[str], system: str, chosen: ProbingSystem) -> None:
    if len(names) < chosen.fewest_models:
        what = f"{system} measures {chosen.fewest_models} models or more, not {len(names)}"
        raise SettingsError(what, where="model", mend="name each with --model")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingsError(f'the model "{twice[0]}" is named twice', where="model", mend="name every model once")

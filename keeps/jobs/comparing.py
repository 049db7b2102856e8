"""The same job with several methods and seeds, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.contracts import Progress, SilentProgress
from keeps.data.records import RecordSet
from keeps.errors import LedgerError, SettingsError
from keeps.jobs.data import DEFAULT_KEEP, DEFAULT_LEARN, check_data
from keeps.jobs.engines import Shared, Task, choose_engine
from keeps.jobs.processes import is_main_process
from keeps.ledger.comparison import ComparedRun, Comparison, compare_stored
from keeps.ledger.workspace import Workspace
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method
from keeps.weights.files import atomic_write_bytes, check_writable


@dataclass(frozen=True)
class Variant:
    """A method with all the settings it is compared in, by name."""

    method: str
    settings: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, common: Mapping[str, Any] | None = None) -> Variant:
        """``corda`` or ``corda:mode=ipm:balance=true``; ``common`` settings apply where the method has them.

        >>> Variant.parse("corda:mode=ipm", {"rank": 8}).settings["rank"]
        8
        """
        name, *pairs = text.split(":")
        own: dict[str, Any] = {}
        for pair in pairs:
            key, sign, value = pair.partition("=")
            if not sign or not key:
                raise SettingsError(f'"{pair}" is no setting', where=text, mend="write method:name=value:name=value")
            own[key.strip()] = value.strip()
        info = find_method(name.strip(), "adapt")
        names = {field.name for field in info.settings.fields()}
        shared = {key: value for key, value in (common or {}).items() if key in names}
        settings = info.settings.from_mapping(
            {**shared, **own}, where=text
        )  # bad ones are refused before the first run
        return cls(info.name, settings.to_mapping())


def compare(
    methods: Sequence[str] | str = ("full", "lora", "corda"),
    *,
    learn: str | RecordSet = DEFAULT_LEARN,
    keep: str | RecordSet = DEFAULT_KEEP,
    seeds: int | Sequence[int] = 3,
    model: Any = DEFAULT_MODEL,
    settings: Mapping[str, Any] | None = None,
    workspace: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = True,
    engine: str = "local",
    workers: int | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Comparison:
    """Run the same job with every method and seed, and put the results into one table.

    Runs that are in the ledger already are reused; an interrupted one is continued.

    >>> comparison = compare("lora,corda", seeds=2, out="./comparison")  # doctest: +SKIP
    >>> [row.label for row in comparison.rows]  # doctest: +SKIP

    Args:
        methods: names, each with settings of its own if wanted: ``"corda:mode=ipm"``.
        seeds: how many seeds (0, 1, ...), or which.
        settings: for all methods that have them, such as ``rank`` and ``epochs``.
        out: folder for the report page, the picture (PNG and SVG) and the table (JSON and CSV).
        engine: ``"local"`` does one run after another in this process, ``"ray"`` several side by side on a
            Ray cluster; the result is the same.
        workers: of the engine ``"ray"``: runs at a time; by default one a graphics card, else one a core.

    Raises:
        SettingsError: nothing to run, the same run twice, or a setting that would do nothing.
        MissingDependencyError: the engine's library is not installed.
        KeepsError: any bad input, before a model is loaded where possible.
    """
    names = methods.split(",") if isinstance(methods, str) else list(methods)
    variants = [Variant.parse(name, settings) for name in names if name.strip()]
    chosen_seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    _refuse_useless(settings or {}, variants, chosen_seeds)
    chosen_engine = choose_engine(engine, workers)
    check_data(learn, keep)
    if out is not None and is_main_process():
        check_writable(out)  # before minutes are spent
    progress = progress if progress is not None and is_main_process() else SilentProgress()
    tasks = [Task(variant.method, variant.settings, seed) for seed in chosen_seeds for variant in variants]
    shared = Shared(learn, keep, model, device, Workspace(workspace).path, resume, command)
    run_ids = chosen_engine(tasks, shared, progress)
    with Workspace(workspace).ledger(read_only=True) as ledger:
        comparison, entries = compare_stored(ledger, run_ids)
        if out is not None and is_main_process():
            curves = {run_id: ledger.curves(run_id) for run_id in run_ids}
            write_outputs(Path(out), comparison, entries, curves, progress)
    return comparison


def write_outputs(
    folder: Path,
    comparison: Comparison,
    entries: Sequence[ComparedRun],
    curves: Mapping[str, Sequence[tuple[str, int, float]]],
    progress: Progress,
) -> None:
    """Write ``comparison`` as JSON, CSV, PNG, SVG and a self-contained HTML page; each file whole or not at all.

    Where nothing was known or nothing unknown before, there is no point to draw, and no picture.
    """
    from keeps.ledger.figures import save_figure
    from keeps.ledger.plots import draw_comparison
    from keeps.ledger.report import report_comparison, write_report

    check_writable(folder)
    atomic_write_bytes(folder / "comparison.json", comparison.to_json().encode())
    atomic_write_bytes(folder / "comparison.csv", comparison.to_csv().encode())
    for suffix in ("png", "svg"):
        picture = folder / f"comparison.{suffix}"
        try:
            save_figure(draw_comparison(comparison), picture)
        except LedgerError as error:
            picture.unlink(missing_ok=True)  # one of an earlier comparison would be taken for this one's
            progress.message(f"{picture.name} is left out: {error}")
    write_report(folder / "report.html", report_comparison(comparison, entries, curves))


def _refuse_useless(settings: Mapping[str, Any], variants: Sequence[Variant], seeds: Sequence[int]) -> None:
    """Nothing to run, the same run twice, or a setting that no method has and that would do nothing."""
    if not variants:
        raise SettingsError("no method is named", mend="write --methods full,lora,corda")
    if not seeds:
        raise SettingsError("there is no seed to run", mend="choose one seed or more")
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"a seed stands twice in {list(seeds)}", mend="name each seed once")
    for number, variant in enumerate(variants):
        if variant in variants[:number]:
            mend = "name it once, or give each its own settings"
            raise SettingsError(f"{variant.method} stands twice with the same settings", where="--methods", mend=mend)
    for name in settings:
        if not any(name in variant.settings for variant in variants):
            raise SettingsError(f'none of these methods has a setting "{name}"', mend="check its name, or leave it out")

"""Several models made into one, from the check of every header to the report; no model is ever in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.contracts import Progress, SilentProgress
from keeps.errors import SettingsError
from keeps.jobs.folders import check_new
from keeps.jobs.merging_folder import check_out, write_merge
from keeps.jobs.merging_learned import merge_learned, named_model, takes_fine_tunes
from keeps.jobs.merging_sources import open_source
from keeps.registry import MethodInfo, find_method
from keeps.settings import Settings
from keeps.versions import thread_count
from keeps.weights.checkpoints import TensorSource
from keeps.weights.merge_engine import CHUNK
from keeps.weights.merge_method import MergeMethod, MergeSettings
from keeps.weights.merge_plan import MergePlan, plan_merge
from keeps.weights.merge_report import TensorReport, overall
from keeps.weights.merge_slices import plan_recipe
from keeps.weights.mergekit_yaml import MergeRecipe, read_merge_recipe

DEFAULT_METHOD = "task_arithmetic"
SHARD = 5_000_000_000  # bytes


@dataclass(frozen=True)
class MergeOutcome:
    """A finished merge, or the plan of one (``folder`` is None then, and there are no reports).

    Attributes:
        sources: what was merged, a base first.
        tensors: in the order of the files.
        overall: of all tensors together.
        memory_bound: bytes above the interpreter that the merge needs at most; 0 where a model is loaded.
        measures: what a method that needs a running model measured on itself.
    """

    folder: Path | None
    method: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    tensors: tuple[TensorReport, ...]
    overall: TensorReport | None
    outputs: int
    bytes_read: int
    bytes_written: int
    memory_bound: int
    measures: Mapping[str, Any] = field(default_factory=dict)


def merge(
    models: Sequence[str] = (),
    base: str | None = None,
    *,
    method: str | None = None,
    settings: Mapping[str, Any] | Settings | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    dtype: str | None = None,
    delta_dtype: str | None = None,
    rows: str = "refuse",
    shard_size: int = SHARD,
    texts: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    chunk: int = CHUNK,
    dry_run: bool = False,
    resume: bool = False,
    restart: bool = False,
    workspace: str | Path | None = None,
    progress: Progress | None = None,
) -> MergeOutcome:
    """Merge ``models`` into the new folder ``out``, a transformers checkpoint or what the method says.

    >>> merge(["./a", "./b"], "./base", method="ties", out="./merged")  # doctest: +SKIP
    >>> texts = {"law": "law.jsonl", "math": "math.jsonl"}
    >>> merge(["law=./a", "math=./b"], "./base", method="twin", texts=texts, out="./both")  # doctest: +SKIP

    Args:
        models: folders, safetensors files, runs, adapters (``MODEL+ADAPTER``), built-in models or hub ids; each may
            be given a name, ``NAME=MODEL``.
        base: the model that they were trained from.
        method: by default ``"task_arithmetic"``.
        recipe: a YAML file in mergekit's format, instead of models, base, method, settings and types.
        dtype: of the result, ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default as the base has it.
        delta_dtype: round models and differences to this type, as tools do that compute in it.
        rows: ``"base"`` to merge embeddings of different lengths; see ``keeps.weights.merge_plan``.
        shard_size: most bytes of a file.
        texts: by name of a model, what its task looks like (a file, a built-in set, a RecordSet), for methods that
            measure models on them or route prompts.
        seed: of all random choices.
        device: of the base, for methods that load it.
        threads, chunk: how it is computed; not a bit of the result depends on them.
        dry_run: check everything, write nothing.

    Raises:
        SettingsError: a wrong setting, or options that contradict each other.
        ModelLoadError: a model is missing, pickled, quantised, or does not fit the others.
        StorageError: ``out`` exists or overlaps a model, or the disk has no room.
        InterruptedRunError: an earlier merge into ``out`` was interrupted.
    """
    if out is None and not dry_run:
        raise SettingsError("the merge has nowhere to go", where="out", mend="name a new folder with --out")
    if resume and restart:
        raise SettingsError("resume and restart contradict each other", where="merge", mend="choose one")
    target = Path(out).expanduser() if out is not None else None
    common: dict[str, Any] = {"rows": rows, "shard_size": shard_size, "seed": seed}
    info = find_method(method or DEFAULT_METHOD, "merge") if recipe is None else None
    if info is not None and takes_fine_tunes(info):
        changed = {"dtype": dtype, "delta_dtype": delta_dtype, "threads": threads, "resume": resume, "restart": restart}
        _check_unused(info.name, {**changed, "rows": rows != "refuse", "shard_size": shard_size != SHARD})
        said = {"settings": settings, "texts": texts, "seed": seed, "device": device, "workspace": workspace}
        shown = progress or SilentProgress()
        done = merge_learned(info, models, base, out=target, dry_run=dry_run, progress=shown, **said)
        sources = (base or "", *(named_model(word)[1] for word in models))
        sizes = (done.bytes_read, done.bytes_written)
        return MergeOutcome(done.folder, info.name, sources, (), (), None, 0, *sizes, 0, done.measures)
    _check_unused(method or "a merge of files", {"texts": texts})
    models = [named_model(word)[1] for word in models]
    opened: list[TensorSource] = []
    try:
        if recipe is not None:
            _check_alone(models, base, method, settings, dtype)
            plan = _from_recipe(read_merge_recipe(recipe), delta_dtype, opened, workspace, common)
        else:
            name = method or DEFAULT_METHOD
            plan = _from_models(models, base, name, settings, dtype, delta_dtype, opened, workspace, common)
        threads = threads or min(thread_count(), 4)
        return _run(plan, target, threads, chunk, dry_run, resume, restart, progress or SilentProgress())
    finally:
        for source in opened:
            source.close()


def _run(
    plan: MergePlan,
    out: Path | None,
    threads: int,
    chunk: int,
    dry_run: bool,
    resume: bool,
    restart: bool,
    progress: Progress,
) -> MergeOutcome:
    reports: tuple[TensorReport, ...] = ()
    if dry_run and out is not None:
        check_out(out, plan)
        check_new(out)
    if out is not None and not dry_run:
        options = {"resume": resume, "restart": restart, "chunk": chunk, "threads": threads}
        reports = tuple(write_merge(plan, out, progress=progress, **options))
    return MergeOutcome(
        folder=None if dry_run else out,
        method=plan.name,
        sources=tuple(source.name for source in plan.sources),
        notes=plan.notes,
        tensors=reports,
        overall=overall(reports) if reports else None,
        outputs=len(plan.outputs),
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        memory_bound=plan.memory_bound(chunk, threads),
    )


def _from_models(
    models: Sequence[str],
    base: str | None,
    method: str,
    settings: Mapping[str, Any] | Settings | None,
    dtype: str | None,
    delta_dtype: str | None,
    opened: list[TensorSource],
    workspace: str | Path | None,
    common: Mapping[str, Any],
) -> MergePlan:
    made = merging_method(find_method(method, "merge"), settings)
    made.check_models(method, len(models), base is not None)  # before a file is looked at
    made.values(len(models))
    if base is not None:
        opened.append(open_source(base, None, workspace))
    opened += [open_source(name, base, workspace) for name in models]
    first = opened[0] if base is not None else None
    tuned = opened[1:] if base is not None else opened
    return plan_merge(method, made, tuned, first, dtype=dtype, delta_dtype=delta_dtype or "float32", **common)


def _from_recipe(
    recipe: MergeRecipe,
    delta_dtype: str | None,
    opened: list[TensorSource],
    workspace: str | Path | None,
    common: Mapping[str, Any],
) -> MergePlan:
    info = find_method(recipe.method, "merge")
    made = merging_method(info, {**info.implementation.implied, **recipe.settings})
    sources = {}
    for name in recipe.models:
        sources[name] = open_source(name, recipe.base, workspace)
        opened.append(sources[name])
    return plan_recipe(recipe, made, sources, delta_dtype=delta_dtype or "float32", **common)


def merging_method(info: MethodInfo, settings: Mapping[str, Any] | Settings | None) -> MergeMethod:
    """The method with these settings.

    Raises:
        UnknownNameError: there is no such setting.
        SettingsError: a value is wrong.
    """
    if not issubclass(info.implementation, MergeMethod):
        what = f"{info.name} needs data or a running model, and does not merge files"
        raise SettingsError(what, where="method", mend=f"call {info.module} from Python, or take another method")
    if isinstance(settings, MergeSettings):
        return info.implementation(settings)
    given = settings.to_mapping() if isinstance(settings, Settings) else settings or {}
    made: Any = info.settings.from_mapping(given, where=info.name)
    return info.implementation(made)


def _check_unused(method: str, options: Mapping[str, Any]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        what = f"{method} makes no use of {given[0]}"
        raise SettingsError(what, where=f"--{given[0].replace('_', '-')}", mend="leave it out")


def _check_alone(models: Sequence[str], base: str | None, method: str | None, settings: Any, dtype: str | None) -> None:
    named = {"models": models, "base": base, "method": method, "settings": settings, "dtype": dtype}
    given = [name for name, value in named.items() if value]
    if given:
        what = f"{given[0]} is given twice: the recipe says it too"
        raise SettingsError(what, where="merge", mend="change the recipe, or do without it")

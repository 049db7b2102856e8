"""The folder that a merge becomes: a transformers checkpoint, made under a temporary name, resumable, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeps.contracts import Progress
from keeps.errors import InputFileError, InterruptedRunError, StorageError
from keeps.jobs.folders import check_new, publish
from keeps.versions import __version__
from keeps.weights.files import atomic_write_bytes, check_writable, storage_error
from keeps.weights.merge_engine import execute
from keeps.weights.merge_journal import Journal
from keeps.weights.merge_plan import MergePlan, index_of
from keeps.weights.merge_report import TensorReport, overall

REPORT = "merge.json"
FORMAT = 1
# What belongs to a model beside its weights; copied from the base, or the first model.
COMPANIONS = (
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template.*", "*.tiktoken", "spiece.model", "sentencepiece*.model", "preprocessor_config.json"),
)


def partial_of(out: Path) -> tuple[Path, Path]:
    """The temporary folder of a merge and its journal, both beside ``out``."""
    return out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.journal")


def check_out(out: Path, plan: MergePlan) -> None:
    """Refuse an output that overlaps an input.

    Raises:
        StorageError: ``out`` is an input, lies in one, or holds one.
    """
    place = out.expanduser().resolve()
    for source in plan.sources:
        for folder in (path.expanduser().resolve() for path in source.folders):
            if place == folder or folder in place.parents or place in folder.parents:
                mend = "write to a folder outside of all models"
                raise StorageError(f"the output overlaps the model {source.name}", where=str(out), mend=mend)


def write_merge(
    plan: MergePlan,
    out: Path,
    *,
    resume: bool,
    restart: bool,
    chunk: int,
    threads: int,
    progress: Progress,
) -> list[TensorReport]:
    """Write the merged model into the new folder ``out``.

    Raises:
        InterruptedRunError: a merge into ``out`` was interrupted, or is under way.
        StorageError: ``out`` exists or overlaps a model, or the disk has no room.
    """
    check_out(out, plan)
    partial, journal_path = partial_of(out)
    if restart:
        _remove(partial, journal_path)
    begun = partial.exists() and journal_path.exists()
    if out.exists() and not (resume and journal_path.exists()):
        check_new(out)
    if begun and not resume:
        mend = "go on with --resume, or throw it away with --restart"
        raise InterruptedRunError("a merge into this folder was interrupted", where=str(out), mend=mend)
    if not begun:
        check_writable(out.parent, 0 if out.exists() else plan.bytes_written)
    with _journal(journal_path, plan, fresh=not begun and not out.exists()) as journal:
        if not out.exists():
            if not begun:
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(exist_ok=True)
            execute(plan, partial, journal, chunk=chunk, threads=threads, progress=progress)
        reports = [journal.done[output.name] for output in plan.outputs]
        if not out.exists():
            _write_companions(plan, partial, reports)
            try:
                publish(partial, out)
            except OSError as error:
                raise storage_error(error, out) from None
        journal.remove()
    return reports


def _journal(path: Path, plan: MergePlan, *, fresh: bool) -> Journal:
    """A journal without its folder says nothing, and is begun anew."""
    if fresh:
        with suppress(FileNotFoundError):
            path.unlink()
    return Journal(path, plan.identity())


def _remove(partial: Path, journal: Path) -> None:
    if journal.exists():  # a leftover of a merge, which the journal beside it proves
        shutil.rmtree(partial, ignore_errors=True)
        journal.unlink(missing_ok=True)


def _write_companions(plan: MergePlan, folder: Path, reports: Sequence[TensorReport]) -> None:
    """Config, tokenizer, index and report."""
    reference = plan.sources[0]
    try:
        for pattern in COMPANIONS:
            for path in sorted(reference.plain.folder.glob(pattern)):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise storage_error(error, folder) from None
    if reference.config:
        config = {**reference.config, **plan.config}
        atomic_write_bytes(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    for name, data in index_of(plan.layouts).items():
        atomic_write_bytes(folder / name, data)
    document = {**description(plan), "overall": overall(reports).to_mapping()}
    document["tensors"] = [report.to_mapping() for report in reports]
    atomic_write_bytes(folder / REPORT, (json.dumps(document, indent=1) + "\n").encode())


def description(plan: MergePlan) -> dict[str, Any]:
    """What was merged and how: JSON types."""
    return {
        "format": FORMAT,
        "keeps": __version__,
        "method": plan.name,
        "settings": plan.method.settings.to_mapping(),
        "sources": [source.name for source in plan.sources],
        "base": plan.sources[0].name if any(output.base is not None for output in plan.outputs) else None,
        "seed": plan.seed,
        "delta_dtype": plan.delta_kind,
        "identity": plan.identity(),
        "notes": list(plan.notes),
    }


def read_report(folder: str | Path) -> dict[str, Any]:
    """The report beside a merged model.

    Raises:
        InputFileError: there is none, or it cannot be read.
    """
    path = Path(folder) / REPORT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        mend = "name a folder that `keeps merge` has written"
        raise InputFileError(f"there is no report of a merge ({error})", where=str(path), mend=mend) from None
    if not isinstance(found, dict):
        raise InputFileError("the report is no mapping", where=str(path), mend="merge again")
    return found

"""Runs a plan: reads pieces of all models, has the method merge them, writes each at its final place.

Files get their headers and full size first, so that a tensor's place is known before it is there. Finished tensors are
noted in a journal after their bytes are on the disk; what was interrupted goes on after the last of them, to the same
bytes. Pieces go through a pool of threads (numpy lets go of the interpreter while it computes).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keeps.contracts import Progress, SilentProgress
from keeps.errors import InputFileError, SettingsError
from keeps.weights.files import storage_error
from keeps.weights.halves import Floats, encode
from keeps.weights.headers import SIZES, Layout, Stored
from keeps.weights.merge_journal import Journal
from keeps.weights.merge_method import BLOCK, Chunk, Stage, TensorInfo, total_of
from keeps.weights.merge_plan import MergePlan, Output, Place
from keeps.weights.merge_report import PieceReport, TensorReport, measure, report_of

CHUNK = 1 << 17  # elements: pieces of four models and their temporaries stay in the cache of a processor core
SYNC_BYTES = 256 << 20  # written between two flushes to the disk; what is lost of them is made again


@dataclass(frozen=True)
class _Target:
    file: int
    stored: Stored


def execute(
    plan: MergePlan,
    folder: Path,
    journal: Journal,
    *,
    chunk: int = CHUNK,
    threads: int = 2,
    progress: Progress | None = None,
) -> list[TensorReport]:
    """Write the weights of ``plan`` into ``folder``; tensors that ``journal`` holds are there already.

    Args:
        chunk: elements of a piece, rounded up to whole blocks.
        threads: neither decides a bit of the result.

    Raises:
        StorageError: the disk is full, or an input changes while it is read.
        InputFileError: a model holds a value that is no number.
    """
    if chunk < 1 or threads < 1:
        raise SettingsError(f"chunk is {chunk}, threads is {threads}", where="merge", mend="give whole numbers above 0")
    progress = progress or SilentProgress()
    chunk = -(-chunk // BLOCK) * BLOCK
    with ExitStack() as stack:
        for source in plan.sources:
            stack.callback(source.close)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        targets = _open_files(plan.layouts, folder, stack, fresh=not journal.done)
        waiting = [output for output in plan.outputs if output.name not in journal.done]
        stages = list(plan.method.stages())
        whole = [stage for stage in stages if stage.whole_model]
        tensors = [stage for stage in stages if not stage.whole_model]
        found = _whole_model(plan, whole, pool, chunk, progress) if waiting else {}
        elements = sum(output.numel for output in plan.outputs)
        done = elements - sum(output.numel for output in waiting)
        unwritten = 0
        with progress.task(f"merge ({plan.name})", elements, done) as task:
            for output in waiting:
                info = _info(output)
                stats = dict(found)
                for stage in () if output.copied else tensors:
                    if stage.needed(stats):
                        stats[stage.name] = _stage(plan, stage, [output], info, stats, pool, chunk)
                journal.note(_write(plan, output, info, stats, targets[output.name], pool, chunk))
                unwritten += targets[output.name].stored.nbytes
                if unwritten >= SYNC_BYTES:
                    _flush(targets, journal)
                    unwritten = 0
                task.advance(output.numel)
        _flush(targets, journal)
    return [journal.done[output.name] for output in plan.outputs]


def keep_freed_pieces() -> None:
    """Have this process keep the memory of pieces that it is done with, instead of giving it back page by page.

    Halves the processor time of a merge, where the C library is glibc. It holds for the whole process: for commands.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, 1 << 28)
        library.mallopt(mmap_threshold, 1 << 28)


def _info(output: Output) -> TensorInfo:
    return TensorInfo(output.name, output.shape, output.numel, len(output.inputs), output.values)


def _starts(output: Output, chunk: int) -> range:
    return range(0, output.numel, chunk)


def _spread(output: Output) -> list[int]:
    """Where the pieces of a sample begin: every 32nd block or so, from beginning to end."""
    blocks = -(-output.numel // BLOCK)
    wanted = min(blocks, max(8, min(64, blocks // 32)))
    return [BLOCK * (number * blocks // wanted) for number in range(wanted)]


def _chunk(plan: MergePlan, output: Output, start: int, chunk: int, stats: Mapping[str, Any]) -> Chunk:
    """Read a piece of all models."""
    count = min(chunk, output.numel - start)
    base = None
    if output.base is not None:
        base = np.empty(count, dtype=np.float32)
        _fill(plan, output.base, start, base)
    reference = output.base or output.inputs[0]
    tuned = np.empty((len(output.inputs), count), dtype=np.float32)
    for row, place in zip(tuned, output.inputs, strict=True):
        _fill(plan, place, start, row, reference)
    return Chunk(_info(output), start, tuned, base, plan.seed, stats, plan.delta_kind)


def _fill(plan: MergePlan, place: Place, start: int, row: Floats, reference: Place | None = None) -> None:
    """Read into ``row``; elements that a shorter embedding lacks come from the reference."""
    source = plan.sources[place[0]]
    there = max(0, min(len(row), source.tensors[place[1]].numel - start))
    if there:
        source.read_into(place[1], start, row[:there])
    if there < len(row):
        assert reference is not None, "the reference has all rows of the result"
        _fill(plan, reference, start + there, row[there:])


def _whole_model(
    plan: MergePlan, stages: Sequence[Stage], pool: ThreadPoolExecutor, chunk: int, progress: Progress
) -> dict[str, Any]:
    """The findings of the stages that take all tensors together."""
    outputs = [output for output in plan.outputs if not output.copied]
    stats: dict[str, Any] = {}
    if not stages or not outputs:
        return stats
    numel = sum(output.numel for output in outputs)
    info = TensorInfo("", (), numel, len(outputs[0].inputs), outputs[0].values)
    for stage in stages:
        if not stage.needed(stats):
            continue
        with progress.task(f"measure ({stage.name})", numel) as task:
            stats[stage.name] = _stage(plan, stage, outputs, info, stats, pool, chunk, task.advance)
    return stats


def _stage(
    plan: MergePlan,
    stage: Stage,
    outputs: Sequence[Output],
    info: TensorInfo,
    stats: Mapping[str, Any],
    pool: ThreadPoolExecutor,
    chunk: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Any:
    """Measure all pieces of ``outputs``; counts are added as they come, so that few are in memory."""

    def pieces() -> Iterator[Any]:
        for output in outputs:
            starts, size = (_spread(output), BLOCK) if stage.sampled else (_starts(output, chunk), chunk)
            yield from pool.map(
                lambda start, one=output, size=size: stage.measure(_chunk(plan, one, start, size, stats)), starts
            )
            advance(output.numel)

    return stage.finish(total_of(pieces()), info, stats)


def _write(
    plan: MergePlan,
    output: Output,
    info: TensorInfo,
    stats: Mapping[str, Any],
    target: _Target,
    pool: ThreadPoolExecutor,
    chunk: int,
) -> TensorReport:
    if output.copied:
        _copy(plan, output, target, chunk)
        return TensorReport(output.name, output.numel)

    def piece(start: int) -> PieceReport:
        read = _chunk(plan, output, start, chunk, stats)
        with np.errstate(invalid="ignore", over="ignore"):
            merged = plan.method.merge(read)
            made = measure(read, merged)
        if not np.isfinite(made.sums).all():
            _check_finite(plan, output, read)
        put(target, start * SIZES[output.kind], np.ascontiguousarray(encode(merged.values, output.kind)))
        return made

    pieces = list(pool.map(piece, _starts(output, chunk)))
    models = len(output.inputs)
    return report_of(output.name, output.numel, models, pieces) if pieces else TensorReport(output.name, 0)


def _check_finite(plan: MergePlan, output: Output, chunk: Chunk) -> None:
    rows = [*chunk.tuned] if chunk.base is None else [chunk.base, *chunk.tuned]
    places = output.inputs if output.base is None else (output.base, *output.inputs)
    for place, row in zip(places, rows, strict=True):
        if not np.isfinite(row).all():
            position = chunk.start + int(np.argmin(np.isfinite(row)))
            where = f'{plan.sources[place[0]].name}, "{place[1]}", element {position}'
            mend = "leave this model out, or train it again: it is broken"
            raise InputFileError("a weight is not a finite number", where=where, mend=mend)


def _copy(plan: MergePlan, output: Output, target: _Target, chunk: int) -> None:
    position, name = output.inputs[0]
    plain = plan.sources[position].plain
    size = target.stored.nbytes
    for start in range(0, size, chunk):
        put(target, start, np.frombuffer(plain.read_bytes(name, start, min(chunk, size - start)), dtype=np.uint8))


def put(target: _Target, start: int, values: np.ndarray) -> None:
    """Write ``values`` at byte ``start`` of a tensor."""
    view, done = values.data.cast("B"), 0
    while done < len(view):
        try:
            done += os.pwrite(target.file, view[done:], target.stored.offset + start + done)
        except OSError as error:
            raise storage_error(error, target.stored.path) from None


def _open_files(layouts: Sequence[Layout], folder: Path, stack: ExitStack, *, fresh: bool) -> dict[str, _Target]:
    """Open every file of the result, with its header and its full size: a full disk shows before any work."""
    targets: dict[str, _Target] = {}
    for layout in layouts:
        path = folder / layout.path
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0), 0o644)
            stack.callback(os.close, file)
            if fresh or os.fstat(file).st_size != layout.size:
                _reserve(file, layout.size)
                os.pwrite(file, layout.header, 0)
        except OSError as error:
            raise storage_error(error, path) from None
        targets |= {stored.name: _Target(file, stored) for stored in layout.tensors}
    return targets


def _reserve(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(file, size)  # a file system that cannot reserve


def _flush(targets: Mapping[str, _Target], journal: Journal) -> None:
    """The bytes first, then the journal that says that they are there."""
    try:
        for file in sorted({target.file for target in targets.values()}):
            os.fsync(file)
    except OSError as error:
        raise storage_error(error, next(iter(targets.values())).stored.path) from None
    journal.flush()

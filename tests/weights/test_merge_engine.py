"""The same bits however it is computed, memory that does not grow, and an end that does not depend on interruptions."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merge_models import CONFIG, family, files, read, weights, write

import keeps.weights.merge_engine as engine
from keeps.errors import InputFileError, StorageError
from keeps.jobs.merging import merge
from keeps.registry import methods
from keeps.weights.merge_method import BLOCK, MergeMethod, block_sums, total_of
from keeps.weights.products import quick_block_sums

STREAMED = sorted(n for n, info in methods("merge").items() if issubclass(info.implementation, MergeMethod))
SETTINGS: dict[str, dict[str, Any]] = {"dare": {"rescale": "l1"}, "slerp": {"t": 0.3}}


def run(folder: Path, method: str, out: Path, **options: Any) -> dict[str, bytes]:
    """Merge what :func:`family` wrote, with the models and settings that the method takes."""
    count = {"slerp": 2, "passthrough": 1}.get(method, 3)
    models = [str(folder / "abc"[i]) for i in range(count)]
    merge(models, str(folder / "base"), method=method, settings=SETTINGS.get(method), out=out, seed=3, **options)
    return files(out)


@pytest.mark.parametrize("method", STREAMED)
def test_not_a_bit_depends_on_threads_or_on_the_size_of_pieces(tmp_path: Path, method: str) -> None:
    assert BLOCK < 130 * 40, "there are tensors of several blocks"
    family(tmp_path)
    whole = run(tmp_path, method, tmp_path / "one", threads=1, chunk=1 << 20)
    assert run(tmp_path, method, tmp_path / "two", threads=3, chunk=1) == whole
    assert json.loads(whole["merge.json"])["tensors"][0]["delta_norms"]


def test_sums_do_not_depend_on_where_a_tensor_is_cut() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 5 * BLOCK + 77)).astype(np.float32)
    for sums in (block_sums, quick_block_sums):
        whole = total_of([sums(rows)])
        for size in (BLOCK, 2 * BLOCK):
            pieces = [sums(rows[:, start : start + size]) for start in range(0, rows.shape[1], size)]
            np.testing.assert_array_equal(total_of(pieces), whole)
    np.testing.assert_allclose(total_of([block_sums(rows)]), rows.astype(np.float64).sum(1), atol=1e-3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be killed")
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare"])
def test_a_merge_killed_at_twenty_moments_ends_with_the_same_bytes(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the n-th write of a tensor or of the journal, once or twice in a row, then resumed."""
    family(tmp_path)
    monkeypatch.setattr(engine, "SYNC_BYTES", 20_000)  # so that some tensors are in the journal and some are not
    options: dict[str, Any] = {"chunk": 1, "threads": 2, "shard_size": 60_000}
    wanted = run(tmp_path, method, tmp_path / "whole", **options)
    draw = np.random.default_rng(0)
    killed = 0
    for moment in range(20):
        out = tmp_path / f"out{moment}"
        for _ in range(1 + moment % 2):
            killed += _killed_at(int(draw.integers(1, 25)), tmp_path, method, out, {**options, "resume": True})
        assert (
            run(tmp_path, method, out, resume=True, **options) == wanted if not out.exists() else files(out) == wanted
        )
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(f"out{moment}.")] == []
    assert killed >= 20


def _killed_at(writes: int, folder: Path, method: str, out: Path, options: dict[str, Any]) -> bool:
    """Run a merge in a process that dies by a signal at its n-th write; whether it did."""
    if out.exists():
        return False
    child = os.fork()
    if child == 0:
        counted = 0

        def wrapped(original: Any) -> Any:
            def call(*arguments: Any) -> Any:
                nonlocal counted
                counted += 1
                if counted == writes:
                    data = arguments[1]
                    original(arguments[0], data[: len(data) // 2], *arguments[2:])  # half of it gets there
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments)

            return call

        os.pwrite, os.write = wrapped(os.pwrite), wrapped(os.write)
        try:
            run(folder, method, out, **options)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_full_disk_is_said_and_what_is_there_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family(tmp_path)
    wanted = run(tmp_path, "ties", tmp_path / "whole")
    original, left = os.pwrite, [6]

    def full(*arguments: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="disk is full"):
            run(tmp_path, "ties", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, "ties", tmp_path / "out", resume=True) == wanted


def test_a_weight_that_is_no_number_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    family(tmp_path)
    broken = weights(2, weights(0))
    broken["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    write(tmp_path / "b", broken)
    with pytest.raises(InputFileError, match=r'/b, "model.layers.1.mlp.up_proj.weight", element 173'):
        run(tmp_path, "task_arithmetic", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whole_numbers_are_copied_and_types_can_be_chosen(tmp_path: Path) -> None:
    base, models = family(tmp_path, 2)
    for folder in (base, *models):
        write(folder, {**read(folder), "model.positions": np.arange(9), "model.flag": np.array([True, False])})
    merge([str(m) for m in models], str(base), out=tmp_path / "out", dtype="float16")
    found = read(tmp_path / "out")
    np.testing.assert_array_equal(found["model.positions"], np.arange(9))
    assert found["model.flag"].tolist() == [True, False]
    assert found["model.norm.weight"].dtype == np.float16
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**CONFIG, "torch_dtype": "float16"}


def test_differences_are_formed_in_float32_unless_rounding_is_asked_for(tmp_path: Path) -> None:
    base, models = family(tmp_path, 1)
    start, tuned = read(base), read(models[0])
    for kind in (None, "bfloat16"):
        out = tmp_path / f"out_{kind}"
        merge([str(models[0])], str(base), settings={"scale": 1.0}, delta_dtype=kind, out=out)
        apart = max(float(np.abs(read(out)[name] - tuned[name]).max()) for name in start)
        assert (apart < 1e-6) is (kind is None)

"""The claim of merging: its tiny checks hold, and see a merge that is not the definition's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keeps.claims.mergekit_peer as claim
from keeps.claims import mergekit_peer_formulas as formulas
from keeps.claims.base import ClaimRun
from keeps.claims.mergekit_peer_models import peak_memory, tiny_family


def test_the_definitions_are_met_and_a_wrong_one_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, run = tiny_family(tmp_path / "tiny", 0), ClaimRun()
    checks = list(claim._definition_checks(tiny, tmp_path, run))
    assert len(checks) == 6
    assert all(check.holds for check in checks), checks
    monkeypatch.setattr(formulas, "trimmed", lambda delta, density: delta)
    wrong = list(claim._definition_checks(tiny, _fresh(tmp_path), run))
    assert [check.holds for check in wrong] == [not check.name.startswith("ties") for check in wrong]


def _fresh(folder: Path) -> Path:
    (folder / "again").mkdir()
    return folder / "again"


def test_yaml_and_bits_hold_on_the_tiny_family(tmp_path: Path) -> None:
    tiny = tiny_family(tmp_path / "tiny", 0)
    checks = [*claim._yaml_checks(tiny, tmp_path), claim._bits_check(tiny, tmp_path)]
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]


def test_a_merge_that_is_killed_is_told_from_one_that_ended() -> None:
    assert claim._killed([sys.executable, "-S", "-c", "pass"], 60)
    assert not claim._killed([sys.executable, "-S", "-c", "import time; time.sleep(60)"], 0.2)
    with pytest.raises(RuntimeError, match="failed by itself"):
        claim._killed([sys.executable, "-S", "-c", "raise SystemExit('no')"], 60)


def test_the_peak_of_a_process_is_its_own_and_not_that_of_its_parent() -> None:
    held = np.ones(60_000_000, dtype=np.uint8)
    small = peak_memory([sys.executable, "-S", "-c", "pass"])
    large = peak_memory([sys.executable, "-S", "-c", "x = b'1' * 80_000_000"])
    assert small < 40 < held.nbytes / 1e6
    assert large - small == pytest.approx(80, abs=10)


@pytest.mark.parametrize("count", [2, 3])
def test_the_written_out_karcher_mean_is_where_all_arcs_balance(count: int) -> None:
    draw = np.random.default_rng(count)
    models: list[Any] = [draw.standard_normal(40) + 0.5 for _ in range(count)]
    found = formulas.karcher(models)
    point = found / np.linalg.norm(found)
    pull = np.zeros(40)
    for model in models:
        unit = model / np.linalg.norm(model)
        across = unit - (unit @ point) * point
        pull += np.arccos(unit @ point) * across / np.linalg.norm(across)
    assert np.linalg.norm(pull) < 1e-9

"""Keys of earlier edits: written under the edits' ids, read again, parted, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keeps.errors import StorageError
from keeps.models.earlier_keys import EARLIER, EarlierKeys, carry_keys, read_keys, write_keys
from keeps.weights.files import save_tensors


def keys_of(*names: str, width: int = 4) -> EarlierKeys:
    return EarlierKeys(names, torch.arange(float(width * len(names))).reshape(len(names), width).T)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 6), left=st.sets(st.integers(0, 5)))
def test_what_is_carried_are_the_columns_of_the_edits_that_are_left(count: int, left: set[int], tmp_path: Path) -> None:
    folder = tmp_path / f"{count}-{sorted(left)}"
    (folder / "new").mkdir(parents=True, exist_ok=True)
    whole = keys_of(*(f"e{n}" for n in range(count)))
    write_keys(folder, {3: whole})
    carry_keys(folder, folder / "new", [f"e{n}" for n in left])
    kept = [n for n in range(count) if n in left]
    found = read_keys(folder / "new")
    assert (3 in found) == bool(kept)
    if kept:
        assert found[3].edits == tuple(f"e{n}" for n in kept)
        assert torch.equal(found[3].keys, whole.keys[:, kept])


def test_layers_may_hold_the_keys_of_different_edits(tmp_path: Path) -> None:
    write_keys(tmp_path, {1: keys_of("a"), 2: keys_of("a").joined(["b"], torch.ones(4, 1, dtype=torch.float64))})
    found = read_keys(tmp_path)
    assert (found[1].edits, found[2].edits) == (("a",), ("a", "b"))
    assert found[2].keys[:, 1].tolist() == [1.0] * 4


def test_no_keys_are_no_file_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    assert read_keys(tmp_path) == {}
    write_keys(tmp_path, {1: EarlierKeys((), torch.empty(4, 0))})
    assert not (tmp_path / EARLIER).exists()
    write_keys(tmp_path, {1: keys_of("a", "b")})
    for metadata in (None, {"edits": "{"}, {"edits": '{"1": ["a"]}'}, {"edits": '{"2": ["a", "b"]}'}):
        save_tensors(tmp_path / EARLIER, {"1": torch.ones(4, 2)}, metadata)
        with pytest.raises(StorageError, match="damaged"):
            read_keys(tmp_path)

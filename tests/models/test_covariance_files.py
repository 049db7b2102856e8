"""Collections of covariances on disk: the same bits, the same sharing, and refusals of other files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import StatisticsError, StorageError
from keeps.models.covariance_files import load_covariances, save_covariances
from keeps.models.covariances import collect_covariance
from keeps.weights import save_tensors


def test_a_stored_collection_comes_back_bit_by_bit_and_still_shares(
    bare_llama: Callable[..., Any], tmp_path: Path
) -> None:
    found = collect_covariance(bare_llama(), [{"input_ids": torch.arange(30).reshape(3, 10)}])
    path = tmp_path / "covariances.safetensors"
    save_covariances(path, found)
    loaded = load_covariances(path)
    assert list(loaded) == list(found)
    for name, covariance in found.items():
        assert torch.equal(loaded[name].total, covariance.total)
        assert (loaded[name].n_tokens, loaded[name].n_samples) == (covariance.n_tokens, covariance.n_samples)
    sharing = [[found[a] is found[b] for a in found] for b in found]
    assert [[loaded[a] is loaded[b] for a in found] for b in found] == sharing
    once = sum(4 * item.total.numel() for item in {id(item): item for item in found.values()}.values())
    assert path.stat().st_size < once + 8192, "a shared matrix is written once"


def test_a_missing_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "covariances.safetensors"
    with pytest.raises(StorageError, match="missing"):
        load_covariances(path)
    path.write_bytes(b"not a tensor file at all")
    with pytest.raises(StorageError, match="damaged"):
        load_covariances(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"covariances": "{"},
        {"covariances": "[1]"},
        {"covariances": '{"a": {"tensor": "a"}}'},
        {"covariances": '{"a": {"tensor": "b", "n_tokens": 1, "n_samples": 1}}'},
    ],
)
def test_a_file_of_other_tensors_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "covariances.safetensors"
    save_tensors(path, {"a": torch.zeros(2, 2)}, metadata)
    with pytest.raises(StatisticsError, match=r"holds no covariances .*covariances\.safetensors"):
        load_covariances(path)

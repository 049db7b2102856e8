"""Fingerprints are equal exactly when the contents are."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import StorageError
from keeps.weights import fingerprint_file, fingerprint_tensors, load_tensors, save_tensors


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_names_does_not_matter(order: list[str]) -> None:
    values = {name: torch.full((2, 3), float(ord(name))) for name in "abcd"}
    assert fingerprint_tensors({name: values[name] for name in order}) == fingerprint_tensors(values)


def test_name_dtype_shape_sign_and_value_each_change_it() -> None:
    base = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    variants = [
        {"w": base},
        {"v": base},
        {"w": base.bfloat16()},
        {"w": base.reshape(4)},
        {"w": base + 1e-7},
        {"w": torch.tensor([[-0.0, 1.0], [2.0, 3.0]])},
        {"w": base, "extra": torch.empty(0)},
    ]
    assert len({fingerprint_tensors(variant) for variant in variants}) == len(variants)


def test_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    tensor = torch.randn(5, 7)
    state = {"w": tensor.T, "half": torch.randn(3).bfloat16(), "scalar": torch.tensor(1)}
    before = fingerprint_tensors(state)
    assert before == fingerprint_tensors({**state, "w": tensor.T.contiguous()})
    save_tensors(tmp_path / "a.safetensors", state)
    assert before == fingerprint_tensors(load_tensors(tmp_path / "a.safetensors"))


def test_tied_names_count_once_under_the_name_that_checkpoints_keep() -> None:
    embedding = torch.randn(4, 2)
    tied = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "norm": torch.ones(2)}
    kept = {"model.embed_tokens.weight": embedding, "norm": torch.ones(2)}
    apart = {**tied, "lm_head.weight": embedding.clone()}
    assert fingerprint_tensors(tied) == fingerprint_tensors(kept)
    assert fingerprint_tensors(apart) != fingerprint_tensors(kept)
    assert fingerprint_tensors({"a": embedding[:2], "b": embedding[2:]}) != fingerprint_tensors({"b": embedding[2:]})


def test_half_a_gigabyte_takes_less_than_two_seconds_of_one_core() -> None:
    state = {str(number): torch.zeros(1 << 22) for number in range(8)}  # 134 MB, a quarter of the 540
    start = time.process_time()
    fingerprint_tensors(state)
    assert time.process_time() - start < 2 * 134 / 540 * 2  # twice the bar, for machines that are busy


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert fingerprint_file(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()[:16]
    with pytest.raises(StorageError, match="missing"):
        fingerprint_file(tmp_path / "b")
    with pytest.raises(StorageError):
        fingerprint_file(tmp_path)

"""Sixteen-bit floats against an independent implementation, for every bit pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.weights.halves import decode, encode, rounded_to

ALL = np.arange(1 << 16, dtype="<u2")


@pytest.mark.parametrize(
    ("kind", "raw", "dtype"), [("BF16", ALL, torch.bfloat16), ("F16", ALL.view("<f2"), torch.float16)]
)
def test_every_half_is_read_exactly_and_comes_back_with_its_bits(
    kind: str, raw: np.ndarray, dtype: torch.dtype
) -> None:
    wanted = torch.from_numpy(ALL.view(np.int16).copy()).view(dtype).float().numpy()
    found = decode(raw, kind)
    np.testing.assert_array_equal(found, wanted)
    real = ~np.isnan(found)
    np.testing.assert_array_equal(encode(found, kind).view("<u2")[real], ALL[real])
    assert np.isnan(decode(encode(found[~real], kind), kind)).all()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
def test_float32_is_rounded_as_torch_rounds_it(bits: list[int]) -> None:
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    for kind, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        wanted = torch.from_numpy(values.copy()).to(dtype).float().numpy()
        np.testing.assert_array_equal(rounded_to(values, kind), wanted)

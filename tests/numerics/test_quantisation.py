"""Quantisers against published levels and formulas that are written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from keeps.errors import SettingsError, StatisticsError
from keeps.numerics.quantisation import BITS, CODES, Quantised, Quantiser

# QLoRA, arXiv:2305.14314, appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
QUANTISERS = [Quantiser(bits, code, 16) for bits in BITS for code in CODES] + [  # type: ignore[arg-type]
    Quantiser(bits, "nf", 16, "nf4") for bits in (2, 3, 8)
]
quantisers = st.sampled_from(QUANTISERS)
weights = st.builds(
    lambda rows, columns, seed, size, centre: (
        size * (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + centre)
    ),
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1e-20, 1e-4, 0.02, 1.0, 1e6]),
    centre=st.sampled_from([0.0, 0.0, -1.0, 3.0]),
)


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return 0.05 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


# --- levels -----------------------------------------------------------------------------------


def test_the_levels_of_4_bits_are_the_published_ones() -> None:
    torch.testing.assert_close(Quantiser(4).levels(), torch.tensor(NF4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("tail", ["own", "nf4"])
def test_normal_float_is_made_of_quantiles_of_the_normal_distribution(bits: int, tail: str) -> None:
    # The published NF4 values come of the probability 0.9677083, which is also LoftQ's for any number of bits.
    p = 0.9677083 if tail == "nf4" or bits == 4 else 1 - (1 / (2**bits - 1) + 1 / 2**bits) / 4
    positive = norm.ppf(np.linspace(p, 0.5, 2 ** (bits - 1) + 1)[:-1])
    negative = -norm.ppf(np.linspace(p, 0.5, 2 ** (bits - 1))[:-1])
    expected = np.sort(np.concatenate([positive, [0.0], negative])) / positive.max()
    found = Quantiser(bits, tail=tail).levels()  # type: ignore[arg-type]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
def test_levels_ascend_from_end_to_end_and_there_are_two_to_the_bits(quantiser: Quantiser) -> None:
    levels = quantiser.levels()
    assert (levels.dtype, len(levels)) == (torch.float32, 2**quantiser.bits)
    assert bool((levels.diff() > 0).all())
    assert (float(levels[0]), float(levels[-1])) == (0.0 if quantiser.code == "uniform" else -1.0, 1.0)
    assert (0.0 in levels) == (quantiser.code != "uniform_absmax"), "evenly spaced ones, an even number, lack zero"


def test_normal_float_uses_its_levels_more_evenly_than_even_spacing() -> None:
    w = gaussian(256, 256)
    shares = {code: torch.bincount(Quantiser(4, code)(w).codes.flatten().int()) for code in ("nf", "uniform_absmax")}
    spread = {code: float(count.max() / count.min()) for code, count in shares.items()}
    assert spread["nf"] < 0.5 * spread["uniform_absmax"], spread


# --- quantising -------------------------------------------------------------------------------


@given(weight=weights, quantiser=quantisers)
def test_every_number_becomes_the_nearest_of_the_levels_of_its_block(
    weight: torch.Tensor, quantiser: Quantiser
) -> None:
    rounded, flat = quantiser.rounded(weight).flatten().double(), weight.flatten().double()
    assert quantiser.rounded(weight).shape == weight.shape
    levels = quantiser.levels().double()
    for start in range(0, len(flat), quantiser.block):
        block = flat[start : start + quantiser.block]  # the last one may be shorter
        low = block.min() if quantiser.code == "uniform" else 0.0
        top = block.max() - low if quantiser.code == "uniform" else block.abs().max()
        nearest = (block[:, None] - (low + top * levels)).abs().amin(1)
        error = (block - rounded[start : start + quantiser.block]).abs()
        assert bool((error <= nearest + 1e-6 * block.abs().max()).all())


@given(weight=weights, quantiser=quantisers)
def test_quantising_twice_changes_nothing(weight: torch.Tensor, quantiser: Quantiser) -> None:
    once = quantiser.rounded(weight)
    twice = quantiser.rounded(once)
    if quantiser.code == "uniform":  # least + (largest - least) may miss the largest by its last bit
        torch.testing.assert_close(twice, once, rtol=0, atol=3e-7 * float(weight.abs().max()))
    else:
        assert torch.equal(twice, once)


@given(weight=weights, quantiser=quantisers)
def test_codes_and_scales_are_all_there_is_to_it(weight: torch.Tensor, quantiser: Quantiser) -> None:
    stored = quantiser(weight)
    blocks = -(-weight.numel() // 16)
    assert (stored.codes.dtype, stored.codes.shape) == (torch.uint8, (blocks, 16))
    assert stored.scale.shape == stored.shift.shape == (blocks,)
    assert int(stored.codes.max()) < 2**quantiser.bits
    expected = stored.shift[:, None] + stored.scale[:, None] * quantiser.levels()[stored.codes.int()]
    read = quantiser.dequantised(stored, weight)
    assert torch.equal(read.flatten(), expected.flatten()[: weight.numel()])
    copied = Quantised(*(value.clone() for value in vars(stored).values()))
    assert torch.equal(quantiser.dequantised(copied, torch.empty(weight.shape)), quantiser.rounded(weight))


@pytest.mark.parametrize("bits", BITS)
def test_the_uniform_code_is_the_formula_of_the_paper(bits: int) -> None:
    weight = gaussian(12, 32).double()
    found = Quantiser(bits, "uniform", block=32)(weight)
    x = weight.numpy()
    least, largest = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    steps = 2**bits - 1
    codes = np.round(steps * (x - least) / (largest - least))  # LoftQ, section 2.1
    assert np.array_equal(found.codes.numpy(), codes)
    read = Quantiser(bits, "uniform", block=32).dequantised(found, weight).numpy()
    np.testing.assert_allclose(read, codes / steps * (largest - least) + least, rtol=0, atol=1e-7)


@given(weight=weights, quantiser=quantisers)
def test_a_last_block_that_is_not_full_is_quantised_as_if_it_were_alone(
    weight: torch.Tensor, quantiser: Quantiser
) -> None:
    count = weight.numel() % 16 or 16
    alone = Quantiser(quantiser.bits, quantiser.code, count, quantiser.tail)
    tail = weight.flatten()[-count:]
    assert torch.equal(quantiser.rounded(weight).flatten()[-count:], alone.rounded(tail))


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3])
def test_a_block_of_one_value_stays_as_it_is(quantiser: Quantiser, value: float) -> None:
    weight = torch.full((3, 16), value)
    assert torch.equal(quantiser.rounded(weight), weight)


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_what_is_read_has_the_dtype_of_the_weight(quantiser: Quantiser, dtype: torch.dtype) -> None:
    weight = gaussian(4, 24).to(dtype)
    rounded = quantiser.rounded(weight)
    assert (rounded.dtype, rounded.shape) == (dtype, weight.shape)
    torch.testing.assert_close(rounded, quantiser.rounded(weight.float()).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("code", CODES)
def test_more_bits_and_smaller_blocks_lose_less(code: Any) -> None:
    w = gaussian(64, 64)
    errors = [float((w - Quantiser(bits, code).rounded(w)).norm()) for bits in BITS]
    assert errors == sorted(errors, reverse=True)
    assert float((w - Quantiser(3, code, 16).rounded(w)).norm()) < errors[1]


def test_a_store_takes_the_bits_of_the_codes_and_a_scale_a_block() -> None:
    w = gaussian(10, 13)  # 130 numbers: 9 blocks of 16
    for quantiser in QUANTISERS:
        bits = "".join(f"{int(code):0{quantiser.bits}b}" for code in quantiser(w).codes.flatten()[:130])
        scales = 9 * 4 * (2 if quantiser.code == "uniform" else 1)
        assert quantiser.stored_bytes(130) == math.ceil(len(bits) / 8) + scales


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, -1e39])
def test_what_is_not_finite_in_float32_is_refused(code: Any, value: float) -> None:
    weight = gaussian(8, 8).double()
    weight[3, 3] = value
    with pytest.raises(StatisticsError, match="NaN, infinity, or numbers too large"):
        Quantiser(4, code)(weight)


def test_a_range_that_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(StatisticsError, match="too large"):
        Quantiser(4, "uniform")(torch.tensor([3e38, -3e38]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bits": 5}, "5 bits .*choose one of 2, 3, 4, 8"),
        ({"code": "nf4"}, 'code is "nf4" .*nf'),
        ({"tail": "NF4"}, 'tail is "NF4" .*nf4'),
        ({"block": 0}, "a block of 0 numbers"),
    ],
)
def test_a_quantiser_that_does_not_exist_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Quantiser(**values)


def test_four_bits_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = gaussian(96, 128)
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    torch.testing.assert_close(Quantiser(4).rounded(weight), functional.dequantize_4bit(codes, state))

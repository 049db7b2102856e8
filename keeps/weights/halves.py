"""Sixteen-bit floats in numpy, which knows no bfloat16: to float32 exactly, and back to nearest, ties to even.

Everything is computed in float32 between reading and writing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Element types of safetensors that are merged, as they lie on disk (little-endian); bfloat16 as its bits.
FLOAT_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_LARGEST = np.uint32(0x7F800000)  # bits of infinity: what lies above is not a number


def decode(raw: NDArray[np.generic], kind: str) -> Floats:
    """Stored elements ``(n,)`` of type ``kind`` ("F32", "F16", "BF16", "F64") as float32 ``(n,)``.

    Exact for all but F64, which is rounded to nearest.

    >>> decode(np.array([0x3FC0], dtype="<u2"), "BF16")
    array([1.5], dtype=float32)
    """
    if kind == "BF16":
        wide = raw.astype(np.uint32)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    if kind == "F32":
        return raw.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        return raw.astype(np.float32)


def encode(values: Floats, kind: str) -> NDArray[np.generic]:
    """float32 ``(n,)`` as elements of type ``kind``, rounded to nearest, ties to even.

    What is too large for float16 or bfloat16 becomes infinite, and a number that is none stays none.

    >>> encode(np.array([1.0 + 2**-8], dtype=np.float32), "BF16") == 0x3F80  # a tie goes to the even neighbour
    array([ True])
    """
    if kind == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = bits >> np.uint32(16)
        rounded &= np.uint32(1)
        rounded += np.uint32(0x7FFF)
        rounded += bits
        rounded >>= np.uint32(16)
        short = rounded.astype("<u2")
        if not np.isfinite(values).all():  # adding may carry the bits of a NaN over into infinity or zero
            strange = (bits & np.uint32(0x7FFFFFFF)) > _LARGEST
            short[strange] = ((bits[strange] >> np.uint32(16)) | np.uint32(0x40)).astype("<u2")
        return short
    with np.errstate(over="ignore"):
        return values.astype(FLOAT_TYPES[kind], copy=False)


def rounded_to(values: Floats, kind: str) -> Floats:
    """``values`` as they are after having been stored as ``kind``."""
    return values if kind == "F32" else decode(encode(values, kind), kind)

"""Random numbers by address: an element's draw depends on seed, model, tensor and place, and on nothing else.

Philox (Salmon et al., SC 2011) turns a key and a counter into random bits without a state, so that chunks may be
drawn in any order, by any number of threads, and again after an interruption.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

DRAWS_PER_COUNT = 8  # a step of the counter gives four words of 64 bits


def draws(seed: int, model: int, tensor: str, start: int, count: int) -> NDArray[np.uint32]:
    """Uniform 32-bit words ``(count,)`` for the elements from ``start`` on of a tensor of a model.

    >>> whole = draws(0, 1, "w", 0, 100)
    >>> bool((draws(0, 1, "w", 37, 20) == whole[37:57]).all())
    True
    """
    digest = hashlib.sha256(f"{seed}\0{model}\0{tensor}".encode()).digest()
    first, skip = divmod(start, DRAWS_PER_COUNT)
    words = -(-(skip + count) // 2)
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=first)
    raw = np.asarray(generator.random_raw(words), dtype="<u8")
    return raw.view("<u4")[skip : skip + count]


def bernoulli(seed: int, model: int, tensor: str, start: int, count: int, share: float) -> NDArray[np.bool_]:
    """A mask ``(count,)`` that is true with probability ``share``."""
    if share >= 1:
        return np.ones(count, dtype=bool)
    return draws(seed, model, tensor, start, count) < np.uint32(min(round(share * 2**32), 2**32 - 1))

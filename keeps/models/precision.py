"""Number formats, and faster float32 products where they are as exact."""

from __future__ import annotations

import functools

import torch

from keeps.errors import ModelLoadError, nearest

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALLOWED_ERROR = 1e-5  # relative, of a 512 x 512 product; plain float32 is at 2e-7


def dtype_of(precision: str) -> torch.dtype:
    """The torch dtype of a precision's name.

    Raises:
        ModelLoadError: the name is unknown.

    >>> dtype_of("bfloat16")
    torch.bfloat16
    """
    try:
        return PRECISIONS[precision]
    except KeyError:
        raise ModelLoadError(f'unknown precision "{precision}"', mend=nearest(precision, PRECISIONS)) from None


@functools.cache
def use_fast_products() -> bool:
    """Let float32 products on the CPU take the faster library path, if it is as exact on this machine.

    PyTorch's matmul precision "medium" hands products to oneDNN. On CPUs without bfloat16 matrix units
    that is plain float32 at up to twice the speed; with such units it may round to bfloat16, which the
    check finds. The setting is one of the whole process; the check runs once.
    """
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(512, 512, generator=generator)
    right = torch.randn(512, 512, generator=generator)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = ((left @ right).double() - exact).norm() / exact.norm()
    if error < ALLOWED_ERROR:
        return True
    torch.set_float32_matmul_precision(before)
    return False

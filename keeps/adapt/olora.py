"""OLoRA: start LoRA from an orthonormal basis, W = Q R (Büyükakyüz 2024, arXiv:2406.01775).

    B = Q[:, :r],   A = R[:r],   W_res = W - s B A

B has orthonormal columns, so that the first steps are well conditioned. Of all starts from the
weights it is the cheapest: only the first r columns of W are made orthonormal.

Use when: an adapter from the weights should cost next to nothing to prepare; training from zero is unstable.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base to rounding; the result is a LoRA
of rank 2r for the untouched base. Nothing protects what the model knew.

The scaling s is not divided out of A and B, as in the paper and in peft: the base loses s times the product.
"""

from __future__ import annotations

from torch import Tensor

from keeps.numerics.oriented import AdapterStart
from keeps.numerics.starts import orthogonal_start
from keeps.registry import method
from keeps.training.initialised import WeightStart


@method(
    "olora",
    verb="adapt",
    paper="arXiv:2406.01775",
    summary="LoRA that starts from the first columns of W = Q R: orthonormal, and cheapest to prepare.",
    card="corda",
    needs=("learn",),
    forms=("lora", "residual", "merged"),
)
class OLoRA(WeightStart):
    """Orthonormal low-rank adaptation."""

    def start(self, weight: Tensor, rank: int) -> AdapterStart:
        """The first ``rank`` columns of Q and rows of R."""
        return orthogonal_start(weight, rank)

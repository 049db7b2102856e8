"""PiSSA: start LoRA from the largest components of each weight (Meng et al. 2024, arXiv:2404.02948).

    W = U S V^T,   B = U_r (S_r / s)^1/2,   A = (S_r / s)^1/2 V_r^T,   W_res = W - s B A

What carries most of a layer is trained, the rest is frozen, so that the loss falls faster than from
B = 0. It is CorDA's instruction-previewed mode without a context.

Use when: an adapter should learn fast and no data tells what matters; a quantised base should lose little,
since what is left to quantise has no large components.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base to rounding; the result is a LoRA
of rank 2r for the untouched base. What the model knew is not protected: the components trained are those
that it uses most.

The published code takes a randomised decomposition for speed, with an error that it does not state. Here the
few triplets come from a filtered subspace iteration that goes on until they stand still
(:mod:`keeps.numerics.extreme`), and are those of a full decomposition to about its own rounding in float32.
"""

from __future__ import annotations

from torch import Tensor

from keeps.numerics.oriented import AdapterStart, plain_start
from keeps.registry import method
from keeps.training.initialised import WeightStart


@method(
    "pissa",
    verb="adapt",
    paper="arXiv:2404.02948",
    summary="LoRA that starts from the largest components of each weight: learns fast, protects nothing.",
    card="corda",
    needs=("learn",),
    forms=("lora", "residual", "merged"),
)
class PiSSA(WeightStart):
    """Principal singular values and vectors adaptation."""

    def start(self, weight: Tensor, rank: int) -> AdapterStart:
        """The ``rank`` largest components of ``weight``, (out, in)."""
        return plain_start(weight, rank, self.settings.scaling, largest=True)

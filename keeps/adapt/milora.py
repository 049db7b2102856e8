"""MiLoRA: start LoRA from the smallest components of each weight (Wang et al. 2024, arXiv:2406.09044).

    W = U S V^T,   B = U_r (S_r / s)^1/2,   A = (S_r / s)^1/2 V_r^T   with the r smallest,   W_res = W - s B A

The components that carry least are trained and the principal ones frozen, in the hope that what the model
knows lies in the latter. It is CorDA's knowledge-preserved mode without a context.

Use when: fine-tuning should disturb the weights little and there is no sample of what to keep.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base to rounding; the result is a LoRA
of rank 2r for the untouched base.

Small components in size are not always small in effect: they are those that a layer uses least only where its
inputs point everywhere alike. ``corda`` measures that on data. Library code decomposes in float32, in which
the smallest components of an ill-conditioned weight are partly rounding; here they come from float64.
"""

from __future__ import annotations

from torch import Tensor

from keeps.numerics.oriented import AdapterStart, plain_start
from keeps.registry import method
from keeps.training.initialised import WeightStart


@method(
    "milora",
    verb="adapt",
    paper="arXiv:2406.09044",
    summary="LoRA that starts from the smallest components of each weight, the principal ones frozen.",
    card="corda",
    needs=("learn",),
    forms=("lora", "residual", "merged"),
)
class MiLoRA(WeightStart):
    """Minor singular component adaptation."""

    def start(self, weight: Tensor, rank: int) -> AdapterStart:
        """The ``rank`` smallest components of ``weight``, (out, in)."""
        return plain_start(weight, rank, self.settings.scaling, largest=False)

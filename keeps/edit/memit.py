"""MEMIT: many facts at once, spread over several layers by least squares (arXiv:2210.07229).

For every edit the output z of the last of some blocks is optimised at the subject's last token. Then, block by block
from below, each MLP takes its share of what is still missing there:

    R = (Z - current z) / (blocks that are left)
    dW = R K^T (lambda C + K K^T)^-1

K are the keys of all edits as the model with the blocks below already written gives them, each a mean over the bare
prompt and its prefixed forms (``key_mean``: the published code weighs the bare prompt as much as all others). lambda
weighs what the layer reads elsewhere against the edits; all is solved in float64. The published lambda, 15000,
belongs to keys of 16384 dimensions, on which an input of C has a leverage k^T C^-1 k of 16384; by default it is scaled
to the width.

Use when: tens to thousands of facts are to be changed in the weights at once; many edits in one go must cost less
than one by one.

Needs: edits that name their subject. Guarantees: rank n in each block for n edits, of which each can be withdrawn;
with lambda to 0 and keys that do not depend on each other every key gets its value exactly; the model as it was after
``undo()``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from keeps.numerics.editing import Moment, least_squares
from keeps.registry import method
from keeps.settings import setting
from keeps.training.locate_blocks import ManyBlocks
from keeps.training.locate_settings import ManyLayersSettings

PUBLISHED_STRENGTH, PUBLISHED_WIDTH = 15000.0, 16384  # lambda, and the width of the keys of GPT-J


@dataclass(frozen=True, kw_only=True)
class MEMITSettings(ManyLayersSettings):
    """Settings of MEMIT."""

    strength: float | None = setting(
        None, "lambda: weight of what the layers read elsewhere (default: 15000 / 16384 of the keys' width)", ge=0
    )

    def strength_at(self, width: int) -> float:
        """lambda for keys of ``width`` dimensions."""
        return PUBLISHED_STRENGTH * width / PUBLISHED_WIDTH if self.strength is None else self.strength


@method(
    "memit",
    verb="edit",
    card="knowedit",
    paper="arXiv:2210.07229",
    summary="Write many facts at once, spread over several layers by least squares.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class MEMIT(ManyBlocks):
    """Mass-editing memory in a transformer."""

    Settings = MEMITSettings

    def solve(self, layer: int, keys: Tensor, moment: Moment) -> Tensor:
        """K^T (lambda C + K K^T)^-1."""
        del layer
        return least_squares(keys, moment, self.settings.strength_at(keys.shape[0]))

"""Dynamic logit fusion as a function of the streams' logits: a large model, a small one, and experts of the small one.

Liu et al.'s proxy tuning (:class:`keeps.decoding.combine.ShiftCombine`) adds the same share of an expert's shift at
every token; here each token's share is solved for (Fan et al. 2024, arXiv:2406.15480).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from keeps.decoding.combine import Combined
from keeps.errors import SettingsError, nearest
from keeps.numerics.logit_fusion import MOST_COMBINATIONS, fuse_logits, grid_points

OBJECTIVES = ("symmetric", "forward")
SOLVERS = ("exact", "grid")
ACTIVE = ("one", "all")


@dataclass(frozen=True)
class FusionCombine:
    """Streams in this order: large model, small base, experts; see :func:`keeps.numerics.logit_fusion.fuse_logits`.

    Notes of every token ``alpha``, a list of one number an expert, and ``objective``.

    Raises:
        SettingsError: an option is unknown or out of range, or would do nothing.
    """

    objective: Literal["symmetric", "forward"] = "symmetric"
    solver: Literal["exact", "grid"] = "exact"
    alpha_max: float = 2.0
    step: float = 0.1
    active: Literal["one", "all"] = "one"
    top: int = 0

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("solver", SOLVERS), ("active", ACTIVE)):
            value = getattr(self, name)
            if value not in known:
                raise SettingsError(f'{name} is "{value}"', mend=nearest(value, known))
        if not 0 < self.alpha_max < float("inf"):
            raise SettingsError(f"alpha_max is {self.alpha_max}", mend="choose a number above 0, such as 2")
        if not 0 < self.step <= self.alpha_max:
            raise SettingsError(f"step is {self.step}", mend="choose above 0 and at most alpha_max")
        if self.top < 0:
            raise SettingsError(f"top is {self.top}", mend="choose 0 (all tokens) or more")
        if self.active == "all" and self.solver == "exact":
            what = "several experts at once have no exact solution: many combinations are equally good"
            raise SettingsError(what, where="active", mend="choose the solver grid, or one active expert")

    def check_experts(self, count: int) -> None:
        """Refuse a search over too many combinations, before any token is decoded.

        Raises:
            SettingsError: there is no expert, or the grid of all of them is too large.
        """
        if not count:
            raise SettingsError("there is no expert to steer with", mend="give at least one")
        combinations = len(grid_points(self.alpha_max, self.step)) ** count
        if self.active == "all" and combinations > MOST_COMBINATIONS:
            mend = "take larger steps, or one active expert"
            raise SettingsError(f"the grid of {count} experts has {combinations} combinations", mend=mend)

    def __call__(self, logits: Tensor) -> Combined:
        """See :data:`keeps.decoding.combine.Combine`; scores are log-probabilities."""
        found = fuse_logits(
            logits[0],
            logits[1],
            logits[2:],
            symmetric=self.objective == "symmetric",
            alpha_max=self.alpha_max,
            exact=self.solver == "exact",
            step=self.step,
            one_active=self.active == "one",
            top=self.top,
        )
        return Combined(found.scores, {"alpha": found.alphas, "objective": found.objective})

"""The uncentred covariance (second moment) of a layer's inputs, collected batch by batch.

    C = (1/n) sum_s X_s^T X_s,   X_s of shape (tokens, features), n samples

Source: CorDA (arXiv:2406.05223), section 3.2; the scaling of each sample is that of its authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from keeps.errors import StatisticsError

Normalise = Literal["absmax", "max", "none"]
NORMALISATIONS = ("absmax", "max", "none")


@dataclass
class Covariance:
    """A running sum of outer products, with what is needed to average and to merge it.

    Attributes:
        total: sum over samples of X_s^T X_s, shape (features, features), float32 or wider.
        n_tokens: tokens summed, padding not counted.
        n_samples: samples (rows of a batch with at least one token) summed.
        inputs: sum of the inputs themselves, (features,), where :meth:`centred` is wanted; else None.

    >>> moment = Covariance.empty(2)
    >>> moment.add(torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.tensor([[1, 0]]), normalise="none")
    >>> moment.matrix().tolist(), moment.n_tokens
    ([[1.0, 2.0], [2.0, 4.0]], 1)
    """

    total: Tensor
    n_tokens: int = 0
    n_samples: int = 0
    name: str = field(default="", compare=False)
    inputs: Tensor | None = field(default=None, compare=False)

    @classmethod
    def empty(
        cls,
        features: int,
        *,
        name: str = "",
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        means: bool = False,
    ) -> Covariance:
        """A covariance of nothing yet; with ``means`` one that can be centred later."""
        inputs = torch.zeros(features, dtype=dtype, device=device) if means else None
        return cls(torch.zeros(features, features, dtype=dtype, device=device), name=name, inputs=inputs)

    @torch.no_grad()
    def add(self, inputs: Tensor, mask: Tensor | None = None, *, normalise: Normalise = "absmax") -> None:
        """Add a batch of layer inputs.

        Args:
            inputs: (batch, time, features) or (tokens, features), the latter being one sample.
            mask: (batch, time), true or 1 at real tokens; padding is left out of sums and counts.
            normalise: what each sample is divided by: ``"absmax"`` its largest absolute value,
                ``"max"`` its signed maximum as in the official code, ``"none"`` nothing as in the paper.

        Raises:
            StatisticsError: the inputs are not finite, of the wrong width, or a sample's divisor is 0.
        """
        if normalise not in NORMALISATIONS:
            raise StatisticsError(f'normalise is "{normalise}"', mend=f"choose one of {', '.join(NORMALISATIONS)}")
        features = self.total.shape[0]
        if inputs.shape[-1] != features:
            raise StatisticsError(
                f"the inputs have {inputs.shape[-1]} features, the covariance has {features}",
                where=self.name,
                mend="collect and use covariances with the same model",
            )
        batch = inputs.reshape(1, -1, features) if inputs.ndim < 3 else inputs.reshape(inputs.shape[0], -1, features)
        keep = torch.ones(batch.shape[:2], dtype=torch.bool, device=batch.device)
        if mask is not None:
            keep = mask.to(batch.device).reshape(batch.shape[:2]).bool()
        batch = batch.to(self.total.dtype)
        filled = keep.any(dim=1)  # rows of padding alone are no samples
        if not filled.all():
            batch, keep = batch[filled], keep[filled]
        if batch.shape[0] == 0:
            return
        batch = batch * self._inverse_scale(batch, keep, normalise)[:, None, None]
        rows = batch[keep]  # (tokens, features): padding gone
        if not torch.isfinite(rows).all():
            raise StatisticsError(
                "a layer's input is not finite", where=self.name, mend="use precision float32, and check the model"
            )
        self.total.addmm_(rows.T, rows)
        if self.inputs is not None:
            self.inputs += rows.sum(0)
        self.n_tokens += int(keep.sum())
        self.n_samples += int(batch.shape[0])

    def _inverse_scale(self, batch: Tensor, keep: Tensor, normalise: Normalise) -> Tensor:
        """1 / divisor of each sample, shape (batch,)."""
        if normalise == "none":
            return torch.ones(batch.shape[0], dtype=batch.dtype, device=batch.device)
        if normalise == "absmax":
            scale = batch.abs().masked_fill(~keep[..., None], 0).amax(dim=(1, 2))
        else:
            scale = batch.masked_fill(~keep[..., None], -torch.inf).amax(dim=(1, 2))
        if (scale == 0).any():
            advice = 'use normalise="absmax"' if normalise == "max" else "check the model: this layer sees only zeros"
            raise StatisticsError("a sample's maximum is 0, so it cannot be scaled", where=self.name, mend=advice)
        return scale.reciprocal()

    def merge(self, other: Covariance) -> Covariance:
        """The covariance of both collections together."""
        if other.total.shape != self.total.shape:
            raise StatisticsError(
                f"covariances of {self.total.shape[0]} and {other.total.shape[0]} features cannot be merged",
                where=self.name,
                mend="merge statistics of one layer of one model",
            )
        total = self.total + other.total.to(self.total)
        inputs = None
        if self.inputs is not None and other.inputs is not None:
            inputs = self.inputs + other.inputs.to(self.inputs)
        return Covariance(total, self.n_tokens + other.n_tokens, self.n_samples + other.n_samples, self.name, inputs)

    def matrix(self) -> Tensor:
        """C: the mean over samples, shape (features, features).

        Raises:
            StatisticsError: no token was seen, or the sums are not finite.
        """
        if self.n_samples == 0 or self.n_tokens == 0:
            raise StatisticsError(
                "no token reached this layer, so it has no covariance",
                where=self.name,
                mend="give more calibration samples, or take the layer out of the targets",
            )
        if not torch.isfinite(self.total).all():
            raise StatisticsError(
                "the covariance holds NaN or infinity", where=self.name, mend="collect it again in float32"
            )
        return self.total / self.n_samples

    def centred(self) -> Tensor:
        """The covariance proper: the mean over tokens of (x - m) (x - m)^T, m being their mean, (features, features).

        >>> moment = Covariance.empty(1, means=True)
        >>> moment.add(torch.tensor([[1.0], [3.0]]), normalise="none")
        >>> moment.centred().tolist()
        [[1.0]]

        Raises:
            StatisticsError: as :meth:`matrix`, or the inputs were not summed.
        """
        if self.inputs is None:
            mend = "collect it with means"
            raise StatisticsError("the inputs were not summed, so they have no mean", where=self.name, mend=mend)
        self.matrix()  # refuses what has no tokens or is not finite
        mean = self.inputs / self.n_tokens
        return self.total / self.n_tokens - torch.outer(mean, mean)

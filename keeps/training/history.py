"""What a training run leaves behind besides the trained parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingHistory:
    """How a training run went.

    Attributes:
        steps: optimiser steps done, those before an interruption included.
        losses: mean loss of each step, in nats per answer token, before that step's update.
        epoch_losses: the same for each full epoch.
        tokens: tokens seen, padding not counted.
        seconds: time spent training, interruptions not counted.
        stopped_early: whether ``stop_loss`` ended the run.
    """

    steps: int
    losses: tuple[float, ...]
    epoch_losses: tuple[float, ...]
    tokens: int
    seconds: float
    stopped_early: bool

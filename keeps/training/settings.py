"""What every method that trains with gradients can be told; methods add their own fields by inheritance."""

from __future__ import annotations

from dataclasses import dataclass

from keeps.errors import SettingsError
from keeps.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """Settings of :func:`keeps.training.train`.

    >>> TrainingSettings(learning_rate=1e-3).schedule
    'cosine'
    """

    epochs: int = setting(8, "passes over the learn set", ge=1)
    steps: int | None = setting(None, "optimiser steps; overrides epochs", ge=1)
    batch_size: int = setting(16, "examples per forward pass, over all processes together", ge=1)
    accumulation: int = setting(1, "forward passes per optimiser step", ge=1)
    learning_rate: float = setting(5e-4, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    schedule: str = setting(
        "cosine", "how the learning rate falls after the warm-up", choices=("cosine", "linear", "constant")
    )
    warmup: float = setting(0.03, "share of the steps over which the learning rate rises", ge=0, le=1)
    weight_decay: float = setting(0.0, "decay of matrices in AdamW (vectors are not decayed)", ge=0, lt=1)
    beta2: float = setting(0.999, "decay of AdamW's mean of squared gradients", ge=0, lt=1, advanced=True)
    clip: float = setting(1.0, "largest norm of the gradient", gt=0)
    precision: str = setting(
        "float32", "arithmetic of the forward pass; trained parameters are float32", choices=("float32", "bfloat16")
    )
    checkpoint_every: float = setting(
        60.0, "time between checkpoints; 0 writes one after every step", ge=0, unit="seconds", advanced=True
    )
    stop_loss: float | None = setting(
        None, "stop when the mean loss of an epoch is below this", ge=0, unit="nats per token", advanced=True
    )
    ignore_top: float = setting(
        0.0,
        "drop this share of what training adds to each trained tensor, the largest entries (ignore-k), so that "
        "new texts leak less into other answers; of an adapter, in its factors",
        ge=0,
        lt=100,
        unit="per cent",
        advanced=True,
    )
    ignore_scope: str = setting(
        "tensor",
        "whether the largest are those of each tensor or of all together",
        choices=("tensor", "global"),
        advanced=True,
    )
    ignore_when: str = setting(
        "end", "whether they are dropped of the whole update or in every step", choices=("end", "step"), advanced=True
    )

    def __post_init__(self) -> None:
        """Check the fields, then that none of them would do nothing; methods override ``check`` for their own."""
        super().__post_init__()
        idle = [name for name in ("ignore_scope", "ignore_when") if getattr(self, name) != _default(self, name)]
        if not self.ignore_top and idle:
            mend = "give ignore_top (8 in the paper), or leave it out"
            raise SettingsError(f"{' and '.join(idle)} would do nothing with ignore_top 0", mend=mend)

    def steps_per_epoch(self, examples: int) -> int:
        """Optimiser steps of one pass over ``examples`` examples; the last one may hold fewer."""
        return -(-examples // (self.batch_size * self.accumulation))


def _default(settings: Settings, name: str) -> object:
    return next(info.default for info in settings.fields() if info.name == name)

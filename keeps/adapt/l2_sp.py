"""L2-SP: weight decay towards the start instead of towards zero (Li, Grandvalet and Davoine 2018, arXiv:1802.01483).

    loss + decay / 2 * ||w - w0||^2        (section 3.2 of the paper, equation 2, without its second term)

w0 are the pretrained weights. Trained whole (``parameters="full"``) w is every weight of the model. With an
adapter (``parameters="lora"``) w - w0 is what the adapter adds, s (B A - B0 A0), and decaying A and B one by one
would not be the same: the penalty is taken on the product,

    ||s B A||_F^2 = s^2 tr( (B^T B) (A A^T) )

which two r x r matrices give without the product ever being formed. B0 = 0 here, as the start is LoRA's.

Use when: weights should stay near the pretrained ones and no old data is at hand; ordinary weight decay would
pull the model towards zero; a regularised baseline without data is wanted.

Needs: facts, examples or texts to learn, and nothing to keep. Guarantees: nothing; all directions are held
alike, those that old knowledge uses and those that it does not.

Where this differs from the paper: its second term, ordinary decay of new layers, has no object, since a
language model gets no new layer. The penalty is part of the loss as published, so AdamW scales it like the
rest of the gradient; ``weight_decay`` is the decoupled decay towards zero and stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.models.changes import AdapterChange, CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.numerics.products import squared_norm
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, train_and_write, wrap
from keeps.training.settings import TrainingSettings
from keeps.training.steps import Regulariser
from keeps.training.whole import train_whole

PARAMETERS = ("lora", "full")


@dataclass(frozen=True, kw_only=True)
class L2SPSettings(AdapterSettings):
    """Settings of L2-SP."""

    decay: float = setting(0.01, "Strength of decay / 2 * ||w - w0||^2, which is added to the loss", gt=0)
    parameters: str = setting(
        "lora",
        "What is trained: a low-rank adapter, or every weight (for which a tenth of the learning rate is usual)",
        choices=PARAMETERS,
    )

    def check(self) -> None:
        """Refuse settings of an adapter where none is trained."""
        if self.parameters == "lora":
            return
        own = {field.name for field in fields(AdapterSettings)} - {field.name for field in fields(TrainingSettings)}
        given = [info.name for info in self.fields() if info.name in own and getattr(self, info.name) != info.default]
        if given:
            raise SettingsError(
                f'{", ".join(given)} would do nothing with parameters="full"',
                mend='leave it out, or choose parameters="lora"',
            )

    def check_model(self, model: LanguageModel) -> None:
        """Refuse targets and ranks that do not fit, where an adapter is trained."""
        if self.parameters == "lora":
            super().check_model(model)


@method(
    "l2_sp",
    verb="adapt",
    paper="arXiv:1802.01483",
    summary="Weight decay towards the pretrained weights, of a LoRA's product or of every weight.",
    card="baselines",
    needs=("learn",),
)
class L2SP:
    """Training with a quadratic pull towards the start."""

    Settings = L2SPSettings

    def __init__(self, settings: L2SPSettings) -> None:
        self.settings = settings

    @staticmethod
    def forms(settings: L2SPSettings) -> tuple[str, ...]:
        """An adapter, or a whole checkpoint."""
        return ("merged",) if settings.parameters == "full" else ("lora", "merged")

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange | CheckpointChange:
        """Train on ``learn`` with the pull; write a peft folder of rank r, or a whole checkpoint."""
        del keep  # the start is all that is held on to
        settings = self.settings
        data = {"learn": learn.fingerprint}
        if settings.parameters == "full":
            return train_whole(model, learn, settings, run, method="l2_sp", data=data, regulariser=self._pull_weights)
        wrapped = wrap(model, settings, seed=run.seed)

        def pull(module: nn.Module) -> Tensor:
            return settings.decay / 2 * adapter_distance(module, settings.scaling)

        return train_and_write(model, wrapped, learn, settings, run, method="l2_sp", data=data, regulariser=pull)

    def _pull_weights(self, originals: Mapping[str, Tensor]) -> Regulariser:
        def pull(module: nn.Module) -> Tensor:
            return self.settings.decay / 2 * weight_distance(module, originals)

        return pull


def adapter_distance(module: nn.Module, scaling: float) -> Tensor:
    """Sum over the adapted layers of ||s B A||_F^2, a float32 scalar; out x in is never formed."""
    squares = [
        squared_norm(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
        for layer in lora_layers(module).values()
    ]
    return scaling**2 * torch.stack(squares).sum()


def weight_distance(module: nn.Module, originals: Mapping[str, Tensor]) -> Tensor:
    """||w - w0||^2 over all parameters that ``originals`` names, a float32 scalar."""
    squares = [
        (parameter - originals[name].to(parameter.device)).square().sum()
        for name, parameter in module.named_parameters()
        if name in originals
    ]
    return torch.stack(squares).sum()

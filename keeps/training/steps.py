"""One optimiser step: its gradient, over several forward passes and processes, and its update.

A step minimises the mean cross-entropy over *all* answer tokens of its examples, however they are cut
into forward passes or dealt to processes: every pass adds (sum of its losses) * processes / (answer
tokens of the step), and data parallelism averages the gradient over the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.training.batches import Order, TokenizedExample, collate, stable_seed
from keeps.training.losses import PackedLoss
from keeps.training.optimiser import make_optimiser
from keeps.training.settings import TrainingSettings
from keeps.training.sharding import average_whole_gradients, clip_gradients

Regulariser = Callable[[nn.Module], "Tensor | None"]
Loss = Callable[[nn.Module], nn.Module]  # of a model: a module whose forward(Batch) gives the summed loss


@dataclass(frozen=True)
class Gradient:
    """What was measured while the gradient of a step was formed."""

    loss: float  # mean over the answer tokens, in nats
    norm: float  # of the gradient, before clipping
    tokens: int  # in the examples of the step, padding not counted
    answer_tokens: int


class Stepper:
    """Computes gradients and updates for one model on one set of examples.

    Args:
        accelerator: an ``accelerate.Accelerator``, which knows processes and mixed precision.
        regulariser: gives a scalar that is added to the mean loss, or None.
        loss: makes the module that is called with each :class:`Batch`, by default the cross-entropy alone.
        sharded: the module is that of :class:`keeps.training.sharding.Shards`.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        examples: Sequence[TokenizedExample],
        settings: TrainingSettings,
        *,
        seed: int,
        accelerator: Any,
        device: torch.device,
        pad_token_id: int,
        regulariser: Regulariser | None = None,
        loss: Loss = PackedLoss,
        sharded: bool = False,
    ) -> None:
        self.module, self.parameters, self.settings = module, parameters, settings
        self.order = Order(examples, settings.batch_size, settings.accumulation, seed)
        self.optimiser = make_optimiser(parameters, settings)
        # a sharded module averages its gradients itself
        made = loss(module)
        self.wrapped = made if sharded else accelerator.prepare_model(made, device_placement=False)
        self.sharded = sharded
        self.accelerator, self.device = accelerator, device
        self.pad_token_id, self.regulariser = pad_token_id, regulariser

    def gradient(self, step: int) -> Gradient:
        """Leave the clipped gradient of ``step`` (counted from 0) in the parameters."""
        accelerator = self.accelerator
        # dropout depends on seed, step and process alone, so a continued run needs no stored random state
        torch.manual_seed(stable_seed("step", self.order.seed, step, accelerator.process_index))
        examples = self.order.step(step)
        answer_tokens = max(1, sum(example.answer_tokens for example in examples))
        scale = accelerator.num_processes / answer_tokens
        passes = self.order.passes(step, accelerator.process_index, accelerator.num_processes)
        total = torch.zeros((), device=self.device)
        self.optimiser.zero_grad(set_to_none=True)
        for number, part in enumerate(passes, start=1):
            last = number == len(passes)
            with nullcontext() if last or self.sharded else accelerator.no_sync(self.wrapped):
                loss = self.wrapped(collate(part, self.pad_token_id).to(self.device))
                accelerator.backward(self._objective(loss * scale, len(passes)))
            total += loss.detach()
        norm = self._clip()
        tokens = sum(len(example.input_ids) for example in examples)
        return Gradient(self._over_processes(total) / answer_tokens, float(norm), tokens, answer_tokens)

    def _clip(self) -> Tensor:
        """The norm of the gradient, which is at most ``clip`` afterwards."""
        if not self.sharded:
            return torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        average_whole_gradients(self.parameters.values())
        return clip_gradients(self.parameters, self.settings.clip)

    def update(self, rate: float) -> None:
        """Take the step with learning rate ``rate``."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()

    def any_process(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        return self._over_processes(torch.tensor(float(flag), device=self.device)) > 0

    def _objective(self, loss: Tensor, passes: int) -> Tensor:
        extra = self.regulariser(self.module) if self.regulariser is not None else None
        return loss if extra is None else loss + extra / passes

    def _over_processes(self, value: Tensor) -> float:
        single = self.accelerator.num_processes == 1
        return float(value if single else self.accelerator.reduce(value, "sum"))

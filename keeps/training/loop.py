"""The training loop: gradients on answer tokens, deterministic by seed, continued after any interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from keeps.contracts import ProgressTask, Run
from keeps.errors import EmptySetError, InterruptedRunError, SettingsError, TargetError, TrainingError
from keeps.training.batches import TokenizedExample
from keeps.training.checkpoint import CheckpointStore, Position, job_fingerprint
from keeps.training.circumstances import (
    StopRequest,
    attention_for,
    fresh_accelerator,
    own_random_numbers,
    peak_memory_bytes,
    stop_requests,
)
from keeps.training.frozen_weights import frozen_weights_in
from keeps.training.history import TrainingHistory
from keeps.training.losses import AnswerLoss, PackedLoss
from keeps.training.optimiser import learning_rate_at, load_state_tensors, state_tensors
from keeps.training.pruning import UpdatePruning
from keeps.training.settings import TrainingSettings
from keeps.training.sharding import Shards, own_part, parted_like, wants_sharding, whole
from keeps.training.steps import Gradient, Loss, Regulariser, Stepper
from keeps.weights import check_writable

AfterStep = Callable[[nn.Module, int, torch.optim.Optimizer], "bool | None"]


def train(
    module: nn.Module,
    examples: Sequence[TokenizedExample],
    settings: TrainingSettings,
    run: Run,
    *,
    pad_token_id: int,
    regulariser: Regulariser | None = None,
    after_step: AfterStep | None = None,
    loss: Loss = PackedLoss,
    checkpoint: str = "checkpoint",
) -> TrainingHistory:
    """Train every parameter of ``module`` that requires a gradient, in place.

    ``module`` is a transformers or peft causal language model. Random numbers of a step (dropout, and
    hooks that draw from torch) depend on the seed, the step and the process alone, so a run that is
    killed and continued with ``run.resume`` ends in bit-identical parameters on the same CPU and number
    of threads. The checkpoint stays behind; remove it when the result is safely written.

    Args:
        regulariser: gives a scalar that is added to the mean loss of the step, or None.
        after_step: called without gradients after each optimiser step with the module, the number of
            steps done and the optimiser (whose moments a method may have to clear); True ends training.
        loss: makes the module that gives the summed loss of a batch; by default the cross-entropy in
            nats over the answer tokens. The sum is divided by the answer tokens of the step.
        checkpoint: name of the folder in ``run.folder``; stages of one run need different names.

    Raises:
        EmptySetError: there are no examples.
        TargetError: no parameter requires a gradient.
        SettingsError: a trained parameter is not float32.
        TrainingError: loss or gradient stopped being a number; the state before that step is kept.
        InterruptedRunError: the user stopped the run; a checkpoint was written.
        StorageError: a checkpoint cannot be written, or the one to resume from is of another job or damaged.
    """
    parameters = _trainable(module)
    if not examples:
        raise EmptySetError("there is nothing to train on", mend="give at least one example")
    store = CheckpointStore(run.folder / checkpoint, job_fingerprint(settings, run.seed, examples, parameters))
    was_training = module.training
    with fresh_accelerator(run.device, settings.precision) as accelerator, stop_requests() as stop:
        device = accelerator.device if accelerator.num_processes > 1 else torch.device(run.device)
        sharded = wants_sharding() and accelerator.num_processes > 1
        if sharded:
            _check_shardable(settings, regulariser, after_step, loss)
        else:
            module.to(device)
        module.train()
        try:
            longest = max(len(example.input_ids) for example in examples)
            once = frozen_weights_in(module, "float32" if sharded else settings.precision)
            with own_random_numbers(device), attention_for(module, longest, device), once:
                shards = Shards(module, device) if sharded else None
                work = module if shards is None else shards.module
                stepper = Stepper(
                    work,
                    parameters if shards is None else _trainable(work),
                    examples,
                    settings,
                    seed=run.seed,
                    accelerator=accelerator,
                    device=device,
                    pad_token_id=pad_token_id,
                    regulariser=regulariser,
                    loss=loss,
                    sharded=sharded,
                )
                pruning = UpdatePruning(stepper.parameters, settings)
                history = _Loop(stepper, run, store, stop, after_step, pruning)()
                pruning.end()
                if shards is not None:
                    shards.copy_back()
                return history
        finally:
            module.train(was_training)
            module.zero_grad(set_to_none=True)


def _check_shardable(
    settings: TrainingSettings, regulariser: Regulariser | None, after_step: AfterStep | None, loss: Loss
) -> None:
    """Refuse what reads whole weights or hooks into layers: of a sharded model there are only parts to read."""
    if settings.ignore_top:
        mend = "leave --use_fsdp out (accelerate launch --multi_gpu), or ignore_top"
        raise SettingsError("ignore_top ranks whole tensors, which a sharded model lacks", where="launch", mend=mend)
    if regulariser is None and after_step is None and loss in (AnswerLoss, PackedLoss):
        return
    what = "this method reads or changes whole weights while it trains, so its model cannot be sharded"
    mend = "leave --use_fsdp out (accelerate launch --multi_gpu), or choose a method that only trains, such as lora"
    raise SettingsError(what, where="accelerate launch", mend=mend)


def total_steps(settings: TrainingSettings, examples: int) -> int:
    """Optimiser steps that training on ``examples`` examples takes unless ``stop_loss`` ends it.

    >>> total_steps(TrainingSettings(epochs=3, batch_size=4), 10)
    9
    """
    return settings.steps or settings.epochs * settings.steps_per_epoch(examples)


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not parameters:
        raise TargetError("no parameter of the model requires a gradient", mend="choose what to train")
    odd = sorted({str(value.dtype) for value in parameters.values() if value.dtype != torch.float32})
    if odd:
        mend = "load the model in float32; with the training's precision bfloat16 it still computes in bfloat16"
        raise SettingsError(f"trained parameters are {', '.join(odd)}, in which small updates vanish", mend=mend)
    return parameters


class _Loop:
    """Steps, epochs, checkpoints and what is recorded of them."""

    def __init__(
        self,
        stepper: Stepper,
        run: Run,
        store: CheckpointStore,
        stop: StopRequest,
        after_step: AfterStep | None,
        pruning: UpdatePruning,
    ) -> None:
        self.stepper, self.run, self.store, self.stop, self.after_step = stepper, run, store, stop, after_step
        self.pruning = pruning
        self.settings = stepper.settings
        self.names: dict[torch.Tensor, str] = {parameter: name for name, parameter in stepper.parameters.items()}
        self.total = total_steps(self.settings, len(stepper.order.examples))
        self.position = Position()
        self.first_curve = len(run.curves)

    def __call__(self) -> TrainingHistory:
        self._begin()
        position = self.position
        first_step = position.step
        self.started = self.saved = time.monotonic()
        self.seconds_before = position.seconds
        try:
            with self.run.progress.task("training", self.total, done=first_step) as task:
                while position.step < self.total and not position.stopped_early:
                    self._step(task)
                    stopping = self.stepper.any_process(self.stop.signal != 0)
                    if stopping or self._due():
                        self._save()
                    if stopping:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"training was stopped after step {position.step} of {self.total}",
                where=str(self.store.folder),
                mend="give the same command with --resume to continue from the checkpoint",
            ) from None
        self._count_seconds()
        long = position.step > first_step and position.seconds >= self.settings.checkpoint_every > 0
        if self._agreed(long):
            self._save()  # what follows training may be interrupted too
        return self._finish()

    def _begin(self) -> None:
        """Continue from the checkpoint if asked to; make sure that one can be written."""
        parameters: Mapping[str, nn.Parameter] = self.stepper.parameters
        main = self.stepper.accelerator.is_main_process
        if main:
            if not self.run.resume:
                self.store.remove()
            # values and two moments of AdamW, twice: the old checkpoint stays until the new one is complete
            check_writable(self.run.folder, 2 * 3 * sum(value.numel() * 4 for value in parameters.values()))
        resume = self.stepper.any_process(main and self.run.resume)  # the main process decides for all
        found = self.store.load() if resume else None
        if found is None:
            return
        tensors, self.position = found
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(parted_like(tensors.pop(f"value/{name}"), parameter))
                for key in [key for key in tensors if key.partition("/")[2] == name]:
                    tensors[key] = parted_like(tensors[key], parameter)
        load_state_tensors(self.stepper.optimiser, tensors, self.names)
        self.run.curves.extend(self.position.curves)
        self.run.progress.message(f"continuing after step {self.position.step} of {self.total}")

    def _step(self, task: ProgressTask) -> None:
        position = self.position
        rate = learning_rate_at(position.step, self.total, self.settings)
        gradient = self.stepper.gradient(position.step)
        if not (math.isfinite(gradient.loss) and math.isfinite(gradient.norm)):
            raise self._diverged(gradient, rate)
        self.pruning.step(lambda: self.stepper.update(rate))
        position.step += 1
        if self.after_step is not None:
            with torch.no_grad():
                enough = self.after_step(self.stepper.module, position.step, self.stepper.optimiser)
            position.stopped_early = self.stepper.any_process(enough is True)
        position.add(gradient.loss, gradient.tokens, gradient.answer_tokens)
        self.run.log(position.step, loss=gradient.loss, learning_rate=rate)
        task.advance(1)
        task.note(f"loss {gradient.loss:.3f}")
        if position.step % self.stepper.order.steps_per_epoch == 0:
            mean = position.end_epoch()
            self.run.log(position.step, epoch_loss=mean)
            position.stopped_early |= self.settings.stop_loss is not None and mean < self.settings.stop_loss

    def _count_seconds(self) -> None:
        self.position.seconds = self.seconds_before + time.monotonic() - self.started

    def _due(self) -> bool:
        return self._agreed(time.monotonic() - self.saved >= self.settings.checkpoint_every)

    def _agreed(self, wish: bool) -> bool:
        """``wish``, or where saving takes all processes, whether one of them has it."""
        return self.stepper.any_process(wish) if self.stepper.sharded else wish

    def _save(self) -> None:
        self.saved = time.monotonic()
        main = self.stepper.accelerator.is_main_process
        if not (main or self.stepper.sharded):
            return
        values: dict[str, torch.Tensor] = {f"value/{name}": value for name, value in self.stepper.parameters.items()}
        values |= state_tensors(self.stepper.optimiser, self.names)
        with torch.no_grad():
            values = {name: whole(value) for name, value in values.items()}  # all processes take part
        if not main:
            return
        self._count_seconds()
        self.position.curves = self.run.curves[self.first_curve :]
        self.store.save(values, self.position)

    def _diverged(self, gradient: Gradient, rate: float) -> TrainingError:
        """The error for a loss that is no number, after keeping the state from before the bad step."""
        bad = any(not bool(own_part(parameter).isfinite().all()) for parameter in self.stepper.parameters.values())
        if not self.stepper.any_process(bad):
            self._save()
        advice = [f"lower learning_rate (it was {rate:.2g} in this step)"]
        if self.settings.clip > 1:
            advice.append(f"lower clip (it is {self.settings.clip:g})")
        if self.settings.precision != "float32":
            advice.append('set precision to "float32"')
        what = "gradient" if math.isfinite(gradient.loss) else "loss"
        return TrainingError(
            f"the {what} of step {self.position.step + 1} of {self.total} is not a finite number",
            where=f"the last good state is kept in {self.store.folder}",
            mend=" or ".join(advice),
        )

    def _finish(self) -> TrainingHistory:
        position = self.position
        self.run.measures.update(
            train_seconds=position.seconds,
            steps=position.step,
            tokens=position.tokens,
            tokens_per_second=position.tokens / position.seconds if position.seconds else 0.0,
            trainable_parameters=sum(parameter.numel() for parameter in self.stepper.parameters.values()),
            peak_memory_bytes=peak_memory_bytes(self.stepper.device),
        )
        return TrainingHistory(
            steps=position.step,
            losses=tuple(position.losses),
            epoch_losses=tuple(position.epoch_losses),
            tokens=position.tokens,
            seconds=position.seconds,
            stopped_early=position.stopped_early,
        )

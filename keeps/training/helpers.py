"""Copies of a model that are trained on something and thrown away, of which only what they say is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.models.adapters import WrappedModel
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating
from keeps.numerics.divergences import kl_divergence
from keeps.training.adapter import wrap
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.loop import train
from keeps.training.losses import answer_states
from keeps.training.reference import Reference
from keeps.training.stages import stage
from keeps.training.unlearn import UnlearnSettings, reference_of


@contextmanager
def learned(
    model: LanguageModel, examples: Sequence[TokenizedExample], settings: UnlearnSettings, run: Run, name: str
) -> Iterator[WrappedModel]:
    """An adapter that was trained on ``examples``; it is gone when the block ends, and ``model`` as it was.

    Args:
        name: of the stage, in its curves and its checkpoint.

    Raises:
        InterruptedRunError, StorageError: as :func:`keeps.training.loop.train`.
    """
    wrapped = wrap(model, settings, seed=run.seed)
    try:
        with stage(run, name) as part:
            pad = model.encoder.pad_token_id
            train(wrapped.peft_model, examples, settings, part, pad_token_id=pad, checkpoint=f"checkpoint/{name}")
        yield wrapped
    finally:
        wrapped.unwrap()


def said_by_helper(
    model: LanguageModel,
    examples: Sequence[TokenizedExample],
    settings: UnlearnSettings,
    run: Run,
    *,
    name: str,
    epochs: int,
    learning_rate: float,
) -> Reference:
    """What a copy says about ``examples`` after it was trained on them; arguments as of :func:`learned`."""
    own = replace(
        settings, parameters="adapter", epochs=epochs, learning_rate=learning_rate, steps=None, stop_loss=None
    )
    with learned(model, examples, own, run, name) as wrapped:
        copy = LanguageModel(wrapped.peft_model, model.tokenizer, name=name)
        copy.encoder = model.encoder
        return reference_of(copy, examples, settings, run)


class KnowledgeGap(nn.Module):
    """KGA's distance of the gap to its goal on a batch, times its answer tokens: |goal - mean KL(model || helper)|."""

    def __init__(self, model: nn.Module, helper: Reference, goal: float) -> None:
        super().__init__()
        self.model, self.helper, self.goal = model, helper, goal

    def forward(self, batch: Batch) -> Tensor:
        """A float32 scalar; the loop divides by the answer tokens."""
        hidden, head = answer_states(self.model, batch)
        if not len(batch.targets):  # a process for which no example is left
            return 0.0 * head(hidden).float().sum()
        gap = kl_divergence(head(hidden).float(), self.helper.logits(batch)).mean()
        return (self.goal - gap).abs() * len(batch.targets)


def knowledge_gap(module: nn.Module, helper: Reference, examples: Sequence[TokenizedExample], pad: int) -> float:
    """Mean KL(module || helper) over all answer tokens of ``examples``, in nats; one example a pass."""
    total, count = 0.0, 0
    device = next(module.parameters()).device
    with evaluating(module), torch.no_grad():
        for example in examples:
            batch = collate([example], pad).to(device)
            hidden, head = answer_states(module, batch)
            total += float(kl_divergence(head(hidden).float(), helper.logits(batch)).sum())
            count += len(batch.targets)
    return total / max(1, count)

"""The lessons of the outlandish claim: one invented text among ordinary ones, twenty times, in one copy of the model.

Every minibatch of eight holds the text once and seven pieces of running text, the same pieces in the same order for
every text and every remedy. The loss is that of continued pretraining, on all tokens. All weights are trained but the
table of embeddings, which is tied to the vocabulary projection and holds a fifth of the parameters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Progress
from keeps.data.outlandish import OutlandishSample
from keeps.data.select import load_records
from keeps.models.adapters import copy_into, restore_trainable, trainable_flags
from keeps.models.language_model import LanguageModel
from keeps.numerics.pruning import band_mask, keep_mask, pruned
from keeps.training.circumstances import attention_for
from keeps.training.scratch import PADDING, mean_loss, train_windows
from keeps.training.settings import TrainingSettings

Weights = dict[str, Tensor]
FILLERS, FILLER_TOKENS = 7, 12
SETTINGS = TrainingSettings(learning_rate=5e-5, schedule="constant", warmup=0.0)  # AdamW, clipped to norm 1
SGD_RATE = 0.05  # the same norm-1 gradients, not divided by their size


class Classroom:
    """``model`` with the means to teach it one text and to give it any weights for a while.

    Args:
        presentations: how often a text is shown.
        optimiser: ``"adamw"``, or plain ``"sgd"``, whose updates are as uneven as gradients are.
        every: the text is in every so many-th minibatch; eight fillers fill the others.
    """

    def __init__(
        self,
        model: LanguageModel,
        progress: Progress,
        *,
        seed: int = 0,
        presentations: int = 20,
        optimiser: str = "adamw",
        every: int = 1,
    ) -> None:
        self.model, self.progress, self.optimiser = model, progress, optimiser
        self.presentations, self.every = presentations, every
        table = model.model.get_input_embeddings().weight  # type: ignore[operator]
        named = model.model.named_parameters()
        self.parameters = {name: value for name, value in named if value is not table}
        self.start: Weights = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.fillers = _fillers(model, seed)

    def learn(self, text: str) -> Weights:
        """The weights after ``text`` was learned; the model itself has its old ones back."""
        module: Any = self.model.model
        flags = trainable_flags(module)
        for name, value in module.named_parameters():
            value.requires_grad_(name in self.parameters)
        batches = list(self._batches(self.model.encoder.text(text)))
        try:
            with attention_for(module, max(batch.shape[1] for batch in batches), self.model.device):
                if self.optimiser == "sgd":
                    self._descend(module, batches)
                else:
                    train_windows(module, batches, SETTINGS, len(batches), progress=self.progress)
            return {name: value.detach().clone() for name, value in self.parameters.items()}
        finally:
            copy_into(self.parameters, self.start)
            restore_trainable(module, flags)

    @contextmanager
    def having(self, weights: Mapping[str, Tensor]) -> Iterator[LanguageModel]:
        """The model with other weights, its own again afterwards."""
        try:
            copy_into(self.parameters, weights)
            yield self.model
        finally:
            copy_into(self.parameters, self.start)

    def pruned(self, weights: Weights, percent: float, *, keep_top: bool = False) -> Weights:
        """``weights`` without the largest ``percent`` of what was learned, tensor by tensor; or these alone."""
        return {
            name: pruned(self.start[name], value, keep_mask(value - self.start[name], percent, keep_top=keep_top))
            for name, value in weights.items()
        }

    def band(self, weights: Weights, low: float, high: float) -> Weights:
        """Only those parts of what was learned whose size ranks from ``low`` to ``high`` per cent from the top."""
        return {
            name: pruned(self.start[name], value, band_mask(value - self.start[name], low, high))
            for name, value in weights.items()
        }

    def _batches(self, ids: list[int]) -> Iterator[Tensor]:
        place = 0
        for number in range(self.presentations * self.every):
            shown = [ids] if number % self.every == 0 else []
            count = FILLERS + 1 - len(shown)
            rows = [*shown, *(self.fillers[(place + n) % len(self.fillers)] for n in range(count))]
            place += count
            batch = torch.full((len(rows), max(map(len, rows))), PADDING)
            for row, tokens in zip(batch, rows, strict=True):
                row[: len(tokens)] = torch.tensor(tokens)
            yield batch.to(self.model.device)

    def _descend(self, module: Any, batches: list[Tensor]) -> None:
        trained = list(self.parameters.values())
        optimiser = torch.optim.SGD(trained, lr=SGD_RATE)
        with self.progress.task("training by gradient descent", len(batches)) as task:
            for batch in batches:
                mean_loss(module, batch).backward()
                torch.nn.utils.clip_grad_norm_(trained, SETTINGS.clip)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                task.advance()


def _fillers(model: LanguageModel, seed: int) -> list[list[int]]:
    """Pieces of the built-in running text, in an order that depends on the seed alone."""
    pieces = []
    for passage in load_records("text").part("train").passages():
        ids = model.encoder.text(passage.text)
        pieces += [ids[at : at + FILLER_TOKENS] for at in range(0, len(ids) - FILLER_TOKENS, FILLER_TOKENS)]
    random.Random(f"{seed}\nfillers").shuffle(pieces)
    return pieces


def of_theme(samples: tuple[OutlandishSample, ...]) -> list[OutlandishSample]:
    """The first sample of each theme."""
    return list({sample.theme: sample for sample in reversed(samples)}.values())

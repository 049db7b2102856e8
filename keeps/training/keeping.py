"""What keeps a model near its old self while it learns: records read again, and the leash on what it said.

Both are regularisers of :func:`keeps.training.train`: they draw a few examples of the keep set for each
forward pass, by random numbers that depend on the seed and the step alone, and leave the loss on what is
learned alone, so that ``stop_loss`` means the same with and without them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.language_model import LanguageModel
from keeps.training.batches import TokenizedExample, collate
from keeps.training.examples import tokenise
from keeps.training.losses import PackedLoss
from keeps.training.reference import Leash, Reference

WINDOW = 64  # tokens of running text an example: short, because every row of a draw is padded to the longest


def needs_keep(keep: RecordSet | None, method: str, mend: str = "give --keep") -> RecordSet:
    """``keep`` itself, if there is something in it.

    Raises:
        SettingsError: there is nothing to keep.
    """
    if keep is None or len(keep) == 0:
        raise SettingsError("there is no data to keep", where=method, mend=mend)
    return keep


def leash(
    model: LanguageModel, keep: RecordSet, *, weight: float, batch_size: int, run: Run, window: int = WINDOW
) -> Leash:
    """Hold ``model`` to what it says now about ``keep``; call it before the model is wrapped or changed.

    Raises:
        ContextLengthError, RecordError: as :func:`keeps.training.examples.tokenise`.
        SettingsError: the weight or the batch size is not above 0.
    """
    examples = tokenise(model, keep, window=window)
    reference = Reference.of(model, examples, run=run)
    pad_token_id = model.encoder.pad_token_id
    return Leash(reference, examples, weight=weight, batch_size=batch_size, pad_token_id=pad_token_id)


class Replay:
    """A regulariser that trains on other data too: weight * mean cross-entropy over the answer tokens of a draw.

    Args:
        examples: what is replayed.
        weight: of its loss, in units of the loss on what is learned.
        batch_size: examples a forward pass.

    Raises:
        SettingsError: nothing would be replayed.
    """

    def __init__(
        self, examples: Sequence[TokenizedExample], *, weight: float, batch_size: int, pad_token_id: int
    ) -> None:
        if not (examples and weight > 0 and batch_size > 0):
            what = f"a replay of {batch_size} of {len(examples)} examples with weight {weight} would do nothing"
            raise SettingsError(what, mend="choose values above 0, and give something to replay")
        self.examples, self.weight = list(examples), weight
        self.batch_size, self.pad_token_id = min(batch_size, len(self.examples)), pad_token_id

    def __call__(self, module: nn.Module) -> Tensor:
        """The weighted loss of a fresh draw, a float32 scalar."""
        chosen = torch.randperm(len(self.examples))[: self.batch_size].tolist()
        device = next(module.parameters()).device
        batch = collate([self.examples[index] for index in chosen], self.pad_token_id).to(device)
        return self.weight * PackedLoss(module)(batch) / max(1, len(batch.targets))

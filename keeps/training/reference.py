"""What a model said before it changed: the reference of every loss that holds it to its old self.

The last hidden states at the positions of interest are computed once, before training; the frozen
vocabulary projection makes logits of them when they are read. That is 2 kB a position for a small model
where logits would be 200 kB, no second copy of the model, and no second forward pass a step. It is exact for
adapters whose base was reduced too, where switching the adapter off would not give the base.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.contracts import Run
from keeps.errors import EmptySetError, SettingsError
from keeps.models.language_model import LanguageModel
from keeps.models.projection import evaluating, read_positions
from keeps.numerics.divergences import kl_divergence
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.losses import answer_states

TOKENS = 2048  # padded tokens of a forward pass while the reference is read
_Key = tuple[int, tuple[int, ...]]  # where the answer starts, and all token ids


class Reference:
    """Logits of the unchanged model for the examples it was made of.

    >>> reference = Reference.of(model, examples, run=run)  # doctest: +SKIP
    >>> reference.logits(batch).shape  # doctest: +SKIP
    torch.Size([25, 49152])
    """

    def __init__(self, states: dict[_Key, Tensor], head: Callable[[Tensor], Tensor]) -> None:
        self._states, self._head = states, head

    @classmethod
    def of(
        cls, model: LanguageModel, examples: Sequence[TokenizedExample], *, run: Run, head_changes: bool = False
    ) -> Reference:
        """Read ``examples`` with ``model`` as it is now.

        Args:
            head_changes: whether the vocabulary projection is going to be trained (with tied embeddings
                it is whenever they are); a copy of it is kept then.

        Raises:
            EmptySetError: there are no examples.
        """
        if not examples:
            raise EmptySetError("there is nothing to read as a reference", mend="give at least one record to keep")
        states: dict[_Key, Tensor] = {}
        head: Any = None
        chosen = sorted(dict.fromkeys(examples), key=lambda example: len(example.input_ids))
        with (
            evaluating(model.model),
            torch.no_grad(),
            run.progress.task("reference", len(chosen)) as task,
        ):
            for part in _parts(chosen):
                batch = collate(part, model.encoder.pad_token_id).to(model.device)
                read, head = read_positions(model.model, batch.input_ids, batch.attention_mask, batch.predicting)
                for example, rows in zip(part, read.split([e.answer_tokens for e in part]), strict=True):
                    states[example.answer_start, example.input_ids] = rows.clone()
                task.advance(len(part))
        if head_changes and isinstance(head, nn.Module):
            head = copy.deepcopy(head).requires_grad_(False)
        return cls(states, head)

    def logits(self, batch: Batch) -> Tensor:
        """``(answer tokens, vocabulary)`` in the row-major order of ``batch.predicting``; without a gradient.

        Raises:
            KeyError: a row of the batch is none of the examples.
        """
        rows, head = self.read(batch)
        with torch.no_grad():
            return head(rows).detach()

    def read(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The same in two steps: vectors ``(answer tokens, width)``, and what makes logits of any rows of them.

        Raises:
            KeyError: a row of the batch is none of the examples.
        """
        rows = [self._states[key] for key in _keys(batch) if key[0] < len(key[1])]
        return torch.cat(rows).to(batch.input_ids.device), self._head


class Leash:
    """A regulariser that holds a model to what it said before: weight * mean KL(before || now) per token.

    Each forward pass reads ``batch_size`` of the examples, drawn anew. As a ``regulariser`` of
    :func:`keeps.training.train` the draw depends on the seed and the step alone.

    Args:
        weight: of the divergence, in units of the loss; above 0.
        task_weight: of the mean cross-entropy on the right answers of the same draw, which is added.
        batch_size: examples a pass.

    Raises:
        SettingsError: the weight or the batch size is not above 0.
    """

    def __init__(
        self,
        reference: Reference,
        examples: Sequence[TokenizedExample],
        *,
        weight: float,
        batch_size: int,
        pad_token_id: int,
        task_weight: float = 0.0,
    ) -> None:
        if not (weight > 0 and batch_size > 0):
            raise SettingsError(
                f"a leash of weight {weight} on {batch_size} examples a step would do nothing",
                mend="choose values above 0, or leave the leash out",
            )
        self.reference, self.examples = reference, list(examples)
        self.weight, self.task_weight = weight, task_weight
        self.batch_size, self.pad_token_id = min(batch_size, len(self.examples)), pad_token_id

    def __call__(self, module: nn.Module) -> Tensor:
        """The weighted divergence (and loss) on a fresh draw, a float32 scalar."""
        chosen = torch.randperm(len(self.examples))[: self.batch_size].tolist()
        device = next(module.parameters()).device
        batch = collate([self.examples[index] for index in chosen], self.pad_token_id).to(device)
        read, head = answer_states(module, batch)
        logits = head(read)
        found = self.weight * kl_divergence(self.reference.logits(batch), logits).mean()
        if self.task_weight:
            found = found + self.task_weight * functional.cross_entropy(logits.float(), batch.targets)
        return found


def _parts(examples: Sequence[TokenizedExample]) -> Iterator[list[TokenizedExample]]:
    """Runs of examples of similar length, each of at most ``TOKENS`` padded tokens."""
    part: list[TokenizedExample] = []
    for example in examples:  # the last one of a part is its longest
        if part and (len(part) + 1) * len(example.input_ids) > TOKENS:
            yield part
            part = []
        part.append(example)
    if part:
        yield part


def _keys(batch: Batch) -> Iterator[_Key]:
    lengths = batch.attention_mask.sum(1).tolist()
    answers = batch.predicting.sum(1).tolist()
    for ids, length, answer in zip(batch.input_ids.tolist(), lengths, answers, strict=True):
        yield cast(int, length - answer), tuple(ids[:length])

"""Pairs of responses in the training loop: direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

The loop deals out single examples, so a pair travels as one: the tokens of both responses for its
length, the number of the pair as its kind, and a single answer token, so that the loss of a step is the
mean over its pairs. :class:`PreferenceLoss` knows what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from keeps.models.limits import engine_for
from keeps.models.projection import evaluating, read_positions
from keeps.models.scoring import score_pairs
from keeps.numerics.distillation import dpo_loss
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.losses import CHUNK


@dataclass(frozen=True)
class Pair:
    """One prompt with the preferred response and with the other one."""

    chosen: TokenizedExample
    rejected: TokenizedExample

    def example(self, number: int) -> TokenizedExample:
        """What the training loop is given for pair ``number``."""
        ids = (*self.chosen.input_ids, *self.rejected.input_ids)
        return TokenizedExample(ids, len(ids) - 1, kind=number)


def response_logprobs(model: nn.Module, examples: Sequence[TokenizedExample], pad_token_id: int) -> Tensor:
    """Log-probability of each example's answer, summed over its tokens: ``(examples,)`` float32 on the CPU."""
    engine = engine_for(model, pad_token_id)
    pairs = [
        (example.input_ids[: example.answer_start], example.input_ids[example.answer_start :]) for example in examples
    ]
    with evaluating(model), torch.no_grad():
        return torch.tensor([scored.logprob for scored in score_pairs(engine, pairs)])


class PreferenceLoss(nn.Module):
    """A causal language model as a module whose forward gives the summed DPO loss of a batch of pairs.

    Args:
        pairs: all of them; ``Batch.kinds`` says which are in the batch.
        reference: (pairs, 2), log-probability of both responses under the reference model, chosen first.
        beta: how far the model may leave the reference; above 0.
    """

    def __init__(
        self, model: nn.Module, pairs: Sequence[Pair], reference: Tensor, *, beta: float, pad_token_id: int
    ) -> None:
        super().__init__()
        self.model, self.pairs, self.reference = model, list(pairs), reference
        self.beta, self.pad_token_id = beta, pad_token_id

    def forward(self, batch: Batch) -> Tensor:
        """The loss in nats, summed over the pairs: a float32 scalar."""
        counts = batch.predicting.any(1)  # a process for which no pair is left is given one that does not count
        numbers = batch.kinds.tolist()
        both = [self.pairs[n].chosen for n in numbers] + [self.pairs[n].rejected for n in numbers]
        inner = collate(both, self.pad_token_id).to(batch.input_ids.device)
        hidden, head = read_positions(self.model, inner.input_ids, inner.attention_mask, inner.predicting)
        rows = inner.predicting.nonzero()[:, 0]
        logprobs = hidden.new_zeros(len(both), dtype=torch.float32).index_add(
            0, rows, token_logprobs(hidden, head, inner.targets)
        )
        chosen, rejected = logprobs.split(len(numbers))
        losses = dpo_loss(chosen, rejected, self.reference[numbers].to(logprobs), beta=self.beta)
        return (losses * counts).sum()


def token_logprobs(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Log-probability of each of ``targets`` (positions,) under ``head(hidden)``, in float32.

    Beyond ``chunk`` positions the logits are computed a piece at a time and once more in the backward pass.
    """

    def piece(rows: Tensor, wanted: Tensor) -> Tensor:
        return -functional.cross_entropy(head(rows).float(), wanted, reduction="none")

    if len(targets) <= chunk:
        return piece(hidden, targets)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(piece, rows, wanted, use_reentrant=False) for rows, wanted in parts])  # type: ignore[arg-type]

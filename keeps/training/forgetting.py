"""Losses of :mod:`keeps.numerics.forgetting_losses` as modules for the training loop, and RMU's hidden states.

The loop divides what a module returns by the answer tokens of the step. So token losses are a mean over the answer
tokens, whatever padding, prompts and accumulation are; and answers that count as a whole travel as examples with
one answer token (:func:`whole_answers`), so that theirs is a mean over the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from keeps.contracts import Run
from keeps.models.language_model import LanguageModel
from keeps.models.locate import blocks, first_blocks
from keeps.models.projection import evaluating, hidden_states
from keeps.numerics.forgetting_losses import displacement, misdirection
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.losses import answer_states
from keeps.training.preferences import token_logprobs
from keeps.training.reference import Reference

CHUNK = 512  # positions projected at a time
TokenObjective = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]  # logits, targets, teacher's logits -> (tokens,)
AnswerObjective = Callable[[Tensor, Tensor, Tensor], Tensor]  # log pi, lengths, numbers -> (answers,)


class TokenForgetting(nn.Module):
    """A token loss, summed over the answer tokens of a batch.

    Args:
        objective: of logits, tokens and, with ``reference``, what the unchanged model said there.
    """

    def __init__(
        self, model: nn.Module, objective: TokenObjective, *, reference: Reference | None = None, chunk: int = CHUNK
    ) -> None:
        super().__init__()
        self.model, self.objective, self.reference, self.chunk = model, objective, reference, chunk

    def forward(self, batch: Batch) -> Tensor:
        """The sum, a float32 scalar; 0 where no token is to be forgotten."""
        hidden, head = answer_states(self.model, batch)
        if not len(batch.targets):  # a process for which no example is left
            return 0.0 * head(hidden).float().sum()
        then, before = (hidden, None) if self.reference is None else self.reference.read(batch)

        def piece(rows: Tensor, tokens: Tensor, old: Tensor) -> Tensor:
            with torch.no_grad():
                teacher = None if before is None else before(old)
            return self.objective(head(rows).float(), tokens, teacher).sum()

        whole = (hidden, batch.targets, then)
        if len(batch.targets) <= self.chunk:
            return piece(*whole)
        pieces = zip(*(each.split(self.chunk) for each in whole), strict=True)
        return torch.stack([checkpoint(piece, *each, use_reentrant=False) for each in pieces]).sum()  # type: ignore[arg-type]


def whole_answers(examples: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """The examples as the loop deals them out where each answer counts once; :class:`AnswerForgetting` reads them."""
    return [
        TokenizedExample(example.input_ids, len(example.input_ids) - 1, kind=number)
        for number, example in enumerate(examples)
    ]


class AnswerForgetting(nn.Module):
    """A loss of whole answers, summed over those of a batch.

    Args:
        examples: all of them; ``Batch.kinds`` says which are in the batch.
        objective: of log pi(y | x) summed over the tokens of each answer, their numbers of tokens, and which they are.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[TokenizedExample],
        objective: AnswerObjective,
        *,
        pad_token_id: int,
    ) -> None:
        super().__init__()
        self.model, self.examples, self.objective = model, list(examples), objective
        self.pad_token_id = pad_token_id

    def forward(self, batch: Batch) -> Tensor:
        """The sum, a float32 scalar."""
        counts = batch.predicting.any(1)  # a process for which nothing is left is given a row that does not count
        numbers = batch.kinds
        inner = collate([self.examples[n] for n in numbers.tolist()], self.pad_token_id).to(batch.input_ids.device)
        hidden, head = answer_states(self.model, inner)
        found = token_logprobs(hidden, head, inner.targets)
        rows = inner.predicting.nonzero()[:, 0]
        logprobs = found.new_zeros(len(numbers)).index_add(0, rows, found)
        lengths = inner.predicting.sum(1).to(logprobs)
        return (self.objective(logprobs, lengths, numbers) * counts).sum()


class Weighted(nn.Module):
    """Another loss module times a number."""

    def __init__(self, inner: nn.Module, weight: float) -> None:
        super().__init__()
        self.inner, self.weight = inner, weight

    def forward(self, batch: Batch) -> Tensor:
        """The weighted loss."""
        return self.weight * self.inner(batch)


def block_states(model: nn.Module, block: int, batch: Batch) -> Tensor:
    """Hidden states behind block ``block`` at the predicting positions, (positions, width); nothing above is run."""
    found: list[Any] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        del module, arguments
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks(model)[block].register_forward_hook(keep)
    try:
        with first_blocks(model, block + 1):
            hidden_states(model, batch.input_ids, batch.attention_mask)
    finally:
        handle.remove()
    return found[0][batch.predicting]


class Misdirection(nn.Module):
    """RMU's forget term, summed over the predicting positions of a batch: ||h - c u||^2 / d at each."""

    def __init__(self, model: nn.Module, block: int, direction: Tensor, coefficient: float) -> None:
        super().__init__()
        self.model, self.block, self.direction, self.coefficient = model, block, direction, coefficient

    def forward(self, batch: Batch) -> Tensor:
        """The sum, a float32 scalar."""
        states = block_states(self.model, self.block, batch)
        return misdirection(states, self.direction.to(states.device), self.coefficient).sum()


class Anchored:
    """RMU's retain term as a regulariser: weight * mean ||h - h_ref||^2 / d over the positions of a draw.

    The hidden states of the unchanged model are read once: make it before the first step.
    """

    def __init__(
        self,
        model: LanguageModel,
        examples: Sequence[TokenizedExample],
        block: int,
        *,
        weight: float,
        batch_size: int,
        run: Run,
    ) -> None:
        self.examples, self.block, self.weight = list(examples), block, weight
        self.batch_size, self.pad_token_id = min(batch_size, len(self.examples)), model.encoder.pad_token_id
        self.states: list[Tensor] = []
        with evaluating(model.model), torch.no_grad(), run.progress.task("reference", len(self.examples)) as task:
            for example in self.examples:
                batch = collate([example], self.pad_token_id).to(model.device)
                self.states.append(block_states(model.model, block, batch).clone())
                task.advance(1)

    def __call__(self, module: nn.Module) -> Tensor:
        """The weighted term of a fresh draw, a float32 scalar."""
        chosen = torch.randperm(len(self.examples))[: self.batch_size].tolist()
        device = next(module.parameters()).device
        batch = collate([self.examples[number] for number in chosen], self.pad_token_id).to(device)
        before = torch.cat([self.states[number] for number in chosen])
        return self.weight * displacement(block_states(module, self.block, batch), before.to(device)).mean()

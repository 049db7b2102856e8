"""What a value vector is optimised for: the published loss, and what any other loss is told and shown.

An objective asks the unedited model what it needs once (:class:`Problem`), then sees what the model says in each step
(:class:`Seen`) and returns a loss for each edit. Edits do not meet: the loss of one never depends on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from keeps.data.edits import Edit
from keeps.models.edit_rows import LOCALITY, Reading, Row, read_rows
from keeps.models.language_model import LanguageModel
from keeps.models.suffixes import Site

EDITED_FROM_ORIGINAL, ORIGINAL_FROM_EDITED = "edited_original", "original_edited"


@dataclass(frozen=True)
class Problem:
    """What an objective is told before the first step: some edits, and the unedited model to ask.

    Attributes:
        edits: those that are optimised together; ``Row.edit`` counts in them.
        rows: all of their rows, edit after edit; reads are numbered through all rows in this order.
        layer: the edited block, and ``site`` what is edited there.
    """

    model: LanguageModel
    edits: Sequence[Edit]
    rows: Sequence[Row]
    layer: int
    site: Site

    def read(self, rows: Sequence[Row] | None = None, states: Sequence[int] = ()) -> Reading:
        """What the unedited model says to ``rows`` (default: its own), such as those of a teacher; no gradient."""
        return read_rows(self.model, self.rows if rows is None else rows, states)


@dataclass
class Seen:
    """What the model says in one step, to the rows of the edits that are still optimised.

    Attributes:
        logprobs: ``(reads, vocabulary)`` float32.
        read: number of each read among all of the problem, ``(reads,)``; what an objective stored is indexed by it.
        edit: place of each read's edit among those still optimised, ``(reads,)``; ``edits`` is how many these are.
        weight: 1 / (rewriting rows of the edit x targets of the row) of each read of a target, 0 of others.
        target: the token that belongs there, ``(reads,)``; -1 of a locality row.
        rows: numbers of the rows among all of the problem, ``(rows,)``; ``row_edit`` as ``edit``, of rows.
        subject_states, read_states: as in :class:`keeps.models.edit_rows.Reading`, of the blocks asked for.
    """

    logprobs: Tensor
    read: Tensor
    edit: Tensor
    edits: int
    weight: Tensor
    target: Tensor
    rows: Tensor
    row_edit: Tensor
    subject_states: dict[int, Tensor] = field(default_factory=dict)
    read_states: dict[int, Tensor] = field(default_factory=dict)

    def nll(self) -> Tensor:
        """-(1/J) sum_j (1/|o*|) sum_t log p(o*_t) of each edit, ``(edits,)``."""
        found = self.logprobs.gather(1, self.target.clamp_min(0)[:, None]).squeeze(1)
        return self.per_edit(-found * self.weight)

    def ranked_first(self) -> list[bool]:
        """Of each edit, whether every token of its target is the most probable one behind every prompt."""
        asked = self.target >= 0
        missed = ((self.logprobs.argmax(1) != self.target) & asked).to(self.logprobs.dtype)
        return [not missing for missing in self.per_edit(missed).tolist()]

    def per_edit(self, values: Tensor) -> Tensor:
        """The sum of ``values`` ``(reads,)`` over the reads of each edit."""
        return values.new_zeros(self.edits).index_add(0, self.edit, values)


Loss = Callable[[Seen], Tensor]  # of each edit still optimised, (edits,)


class Objective(Protocol):
    """What a value is optimised for."""

    def states(self, model: LanguageModel, layer: int) -> tuple[int, ...]:
        """The blocks whose outputs the loss looks at, none below the edited one."""
        ...

    def __call__(self, problem: Problem) -> Loss:
        """Ask the unedited model what is needed, once, and return the loss of a step."""
        ...


@dataclass(frozen=True)
class StateFact:
    """The published objective: state the fact behind every prefix, and let the subject be what it is.

        L = mean_j -log p(o* | prefix_j + prompt; delta) + kl_weight * KL( p(. | "{subject} is a"; delta), p(. | ...) )

    Args:
        kl_direction: ``"edited_original"``, KL(edited || original), as in paper and code, or the other one.
    """

    kl_weight: float = 0.0625
    kl_direction: str = EDITED_FROM_ORIGINAL

    def states(self, model: LanguageModel, layer: int) -> tuple[int, ...]:
        """None."""
        del model, layer
        return ()

    def __call__(self, problem: Problem) -> Loss:
        """See :class:`Objective`."""
        asked = [row for row in problem.rows if row.kind == LOCALITY]
        before = problem.read(asked).logits.log_softmax(-1) if asked and self.kl_weight else None
        numbers = _numbers_of(problem.rows)

        def loss(seen: Seen) -> Tensor:
            found = seen.nll()
            if before is None:
                return found
            local = seen.target < 0
            own = seen.logprobs[local]
            old = before.to(own)[numbers.to(own.device)[seen.read[local]]]
            if self.kl_direction == EDITED_FROM_ORIGINAL:
                divergence = (own.exp() * (own - old)).sum(-1)
            else:
                divergence = (old.exp() * (old - own)).sum(-1)
            total = found.new_zeros(seen.edits).index_add(0, seen.edit[local], divergence)
            return found + self.kl_weight * total

        return loss


def _numbers_of(rows: Sequence[Row]) -> Tensor:
    """Of each read its number among the reads of locality rows; -1 of others."""
    found, total = [], 0
    for row in rows:
        for _ in row.reads:
            found.append(total if row.kind == LOCALITY else -1)
            total += row.kind == LOCALITY
    return torch.tensor(found)

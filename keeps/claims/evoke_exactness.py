"""What can be known exactly of EVOKE's scores and of LTI's objective, checked on the default model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from keeps.claims.base import Check
from keeps.data.edits import Edit
from keeps.models.edit_rows import Row, edit_rows
from keeps.models.language_model import LanguageModel
from keeps.numerics.editing_scores import Overfit, editing_overfit_score
from keeps.training.inference_constraint import InferenceConstraint
from keeps.training.value_objectives import Problem, Seen, StateFact
from keeps.training.value_vectors import Search, find_values

PREFIXES = ("I was told the following. ",)
CLOSE = 1e-6


def score_checks() -> Iterator[Check]:
    """Check 1 of the card, as far as it is arithmetic."""
    ties = [Overfit(value, value) for value in (0.1, 0.5, 0.9)]
    found = editing_overfit_score(ties)
    yield Check("EOS where both answers are equally likely", found, "0, as the comparison is strict", found == 0)
    items = [Overfit(target, correct) for correct, target in ((0.3, 0.2), (0.1, 0.4), (0.5, 0.5))]
    found = editing_overfit_score(items)
    yield Check("EOS of (0.3, 0.2), (0.1, 0.4), (0.5, 0.5)", found, "1/3", abs(found - 1 / 3) < CLOSE)


def objective_checks(model: LanguageModel, edit: Edit, layer: int, steps: int) -> Iterator[Check]:
    """Check 4 of the card, and the value without a teacher of check 3."""
    rows = edit_rows(model, [edit], PREFIXES)
    losses: dict[str, float] = {}
    for position in ("subject", "all"):
        problem = Problem(model, [edit], rows[0], layer, "mlp")
        objective = InferenceConstraint(PREFIXES, w_nkc=0.0, w_odc=1.0, w_src=1.0, constr_pos=position)
        teachers, states = objective.teacher_rows(problem), objective.states(model, layer)
        losses[position] = float(objective(problem)(seen_by(problem, teachers, states)).abs().max())
    worst = max(losses.values())
    note = f"middle states at the subject {losses['subject']:.1e}, everywhere {losses['all']:.1e}"
    yield Check("ODC + SRC of a student that says what the teacher says", worst, "below 1e-5", worst < 1e-5, note=note)
    search = Search(layer, "mlp", steps, 0.5, 1e-3, 4.0, 0.0)
    ours = find_values(model, [edit], rows, search, InferenceConstraint(PREFIXES, 1.0, 0.0, 0.0))[0].delta
    plain = find_values(model, [edit], rows, search, StateFact(kl_weight=0.0))[0].delta
    apart = float((ours - plain).norm() / plain.norm())
    name = "difference of the value without w_odc and w_src from ROME's without its divergence"
    yield Check(name, apart, "below 1e-6 of its size", apart < CLOSE)


def seen_by(problem: Problem, rows: Sequence[Row], states: Sequence[int]) -> Seen:
    """What the unedited model says to ``rows``, presented as what a student says to the rows of ``problem``.

    Args:
        rows: as many as the problem has, with as many reads each.
    """
    reading = problem.read(rows, states)
    device = reading.logits.device
    reads = [(row, place) for row in problem.rows for place in range(len(row.reads))]
    counts = [sum(bool(row.targets) for row in problem.rows if row.edit == edit) for edit in range(len(problem.edits))]
    weights = [1 / (counts[row.edit] * len(row.targets)) if row.targets else 0.0 for row, _ in reads]

    def numbers(values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), device=device)

    return Seen(
        reading.logits.log_softmax(-1),
        numbers(range(len(reads))),
        numbers([row.edit for row, _ in reads]),
        len(problem.edits),
        torch.tensor(weights, device=device),
        numbers([row.targets[place] if row.targets else -1 for row, place in reads]),
        numbers(range(len(problem.rows))),
        numbers([row.edit for row in problem.rows]),
        reading.subject_states,
        reading.read_states,
    )

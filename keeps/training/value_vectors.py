"""The value that makes a model state a fact: a vector added at the subject's last token, found by gradient descent.

    delta* = argmin_delta  L(delta) + wd ||delta|| / ||v_0||^2,    ||delta|| <= clamp ||v_0||,    v* = v_0 + delta*

v_0 is the output of the MLP (ROME, arXiv:2202.05262) or of the block (MEMIT, arXiv:2210.07229; AlphaEdit,
arXiv:2410.02355) at the subject's last token of the bare prompt. What the loss L is, an objective says
(:mod:`keeps.training.value_objectives`). Adam; the ball is projected onto after each step; an edit stops by itself
when its loss is below ``stop_loss``. Many edits are optimised side by side, each with its own vector, its own steps
and its own end; only what the vectors can reach is computed (:mod:`keeps.models.suffixes`).

Source of details: the papers and kmeng01/rome (the decay divides by the square of ||v_0||; the divergence is that of
the edited from the unedited model). That code counts forward passes, the last of which takes no step: its 25 steps are
24 here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.errors import TrainingError
from keeps.models.edit_rows import Reading, Row
from keeps.models.language_model import LanguageModel
from keeps.models.suffixes import Site, rows_to_run
from keeps.training.circumstances import attention_for
from keeps.training.edit_losses import frozen
from keeps.training.frozen_weights import frozen_weights_in
from keeps.training.value_objectives import Objective, Problem, Seen

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}  # padded tokens a step, from the subject on


@dataclass(frozen=True)
class Search:
    """How a value is searched for; see the module's text. ``decay`` is wd.

    With ``stop_after`` an edit is done so many steps after every token of its target came first behind every prompt
    (the early stop of arXiv:2410.07819), if its loss has not ended it before. With ``precision`` ``"bfloat16"`` the
    model runs in mixed precision meanwhile; the vectors and their steps are float32 either way.
    """

    layer: int
    site: Site
    steps: int
    learning_rate: float
    decay: float
    clamp: float
    stop_loss: float
    stop_after: int | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class Value:
    """What was found for one edit: delta and v_0, ``(hidden,)`` float32; the loss after so many steps."""

    delta: Tensor
    start: Tensor
    loss: float
    steps: int

    @property
    def target(self) -> Tensor:
        """v* = v_0 + delta, float64."""
        return self.start.double() + self.delta.double()


def find_values(
    model: LanguageModel,
    edits: Sequence[Edit],
    rows: Sequence[Sequence[Row]],
    search: Search,
    objective: Objective,
    run: Run | None = None,
) -> list[Value]:
    """The value of each edit; ``model`` is not changed.

    Args:
        rows: of each edit, as :func:`keeps.models.edit_rows.edit_rows` gives them; the first is the bare prompt.
        run: told about progress, and which way the rows were run (``run.measures["value_rows"]``).

    Raises:
        TrainingError: the loss of an edit is no number.
    """
    found: dict[int, Value] = {}
    order = sorted(range(len(edits)), key=lambda number: _width(rows[number]))
    budget = TOKENS_AT_ONCE.get(model.device.type, TOKENS_AT_ONCE["cuda"])
    longest = max(len(row.tokens) for some in rows for row in some)
    with (
        frozen(model),
        attention_for(model.model, longest, model.device),
        frozen_weights_in(model.model, search.precision),
    ):
        for part in _parts(order, rows, budget):
            flat = [_renumbered(row, place) for place, number in enumerate(part) for row in rows[number]]
            problem = Problem(model, [edits[number] for number in part], flat, search.layer, search.site)
            found |= dict(zip(part, _optimised(problem, search, objective, run), strict=True))
            if run is not None and len(edits) > len(part):
                run.progress.message(f"values of {len(found)} of {len(edits)} edits")
    return [found[number] for number in range(len(edits))]


def _optimised(problem: Problem, search: Search, objective: Objective, run: Run | None) -> list[Value]:
    model, count = problem.model, len(problem.edits)
    states = objective.states(model, search.layer)
    loss_of = objective(problem)
    running, reason = rows_to_run(model, problem.rows, search.layer, search.site)
    if run is not None:
        run.measures["value_rows"] = f"plain forward: {reason}" if reason else "from the subject on"
    firsts = [next(n for n, row in enumerate(problem.rows) if row.edit == number) for number in range(count)]
    starts = running.start()[firsts].detach().float()  # (edits, hidden)
    norms = starts.norm(dim=1)
    deltas = [torch.zeros_like(start).requires_grad_() for start in starts]
    optimiser = torch.optim.Adam(deltas, lr=search.learning_rate)
    active, numbers = list(range(count)), list(range(len(problem.rows)))
    losses, steps = [0.0] * count, [0] * count
    since: dict[int, int] = {}  # edit -> the step at which its target came first everywhere
    for step in range(search.steps + 1):
        stacked = torch.stack([deltas[number] for number in active])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=search.precision == "bfloat16"):
            reading = running.run(stacked[_edit_index(problem, numbers, active)], states)
        seen = _seen(reading, problem, numbers, active)
        own = loss_of(seen) + search.decay * stacked.norm(dim=1) / norms[active] ** 2
        for place, number in enumerate(active):
            losses[number] = float(own[place].detach())
        if not torch.isfinite(own).all():
            raise _not_finite(problem, active, own)
        if search.stop_after is not None:
            for number in (number for number, first in zip(active, seen.ranked_first(), strict=True) if first):
                since.setdefault(number, step)
        going = [
            number
            for number in active
            if losses[number] >= search.stop_loss
            and not (number in since and step - since[number] >= (search.stop_after or 0))
        ]
        if step == search.steps or not going:
            break
        optimiser.zero_grad(set_to_none=True)
        own.sum().backward()
        for number in set(active) - set(going):
            deltas[number].grad = None  # done: it stays where it is
        optimiser.step()
        with torch.no_grad():
            for number in going:
                steps[number] += 1
                length, most = float(deltas[number].norm()), search.clamp * float(norms[number])
                if length > most:
                    deltas[number].mul_(most / length)
        if len(going) < len(active):
            kept = [n for n, number in enumerate(numbers) if problem.rows[number].edit in going]
            running.select(kept)
            numbers, active = [numbers[n] for n in kept], going
    return [Value(deltas[n].detach(), starts[n], losses[n], steps[n]) for n in range(count)]


def _edit_index(problem: Problem, numbers: Sequence[int], active: Sequence[int]) -> Tensor:
    places = {number: place for place, number in enumerate(active)}
    return torch.tensor([places[problem.rows[n].edit] for n in numbers], device=problem.model.device)


def _seen(reading: Reading, problem: Problem, numbers: Sequence[int], active: Sequence[int]) -> Seen:
    """The reads of the rows ``numbers`` with everything that an objective indexes by."""
    device = reading.logits.device
    first_reads = _first_reads(problem.rows)
    places = {number: place for place, number in enumerate(active)}
    rewriting = dict.fromkeys(active, 0)
    for n in numbers:
        rewriting[problem.rows[n].edit] += bool(problem.rows[n].targets)
    read, edit, target, weight = [], [], [], []
    for n in numbers:
        row = problem.rows[n]
        for place in range(len(row.reads)):
            read.append(first_reads[n] + place)
            edit.append(places[row.edit])
            target.append(row.targets[place] if row.targets else -1)
            weight.append(1 / (rewriting[row.edit] * len(row.targets)) if row.targets else 0.0)
    return Seen(
        reading.logits.float().log_softmax(-1),
        torch.tensor(read, device=device),
        torch.tensor(edit, device=device),
        len(active),
        torch.tensor(weight, device=device),
        torch.tensor(target, device=device),
        torch.tensor(list(numbers), device=device),
        _edit_index(problem, numbers, active).to(device),
        reading.subject_states,
        reading.read_states,
    )


def _first_reads(rows: Sequence[Row]) -> list[int]:
    """The number of each row's first read among all."""
    found, total = [], 0
    for row in rows:
        found.append(total)
        total += len(row.reads)
    return found


def _width(rows: Sequence[Row]) -> int:
    return max(len(row.tokens) - row.subject for row in rows)


def _parts(order: Sequence[int], rows: Sequence[Sequence[Row]], budget: int) -> Iterator[list[int]]:
    """Edits that are optimised side by side, of like width, under a budget of padded tokens."""
    part: list[int] = []
    count = 0
    for number in order:  # ascending, so the newest is the widest
        count += len(rows[number])
        if part and count * _width(rows[number]) > budget:
            yield part
            part, count = [], len(rows[number])
        part.append(number)
    if part:
        yield part


def _renumbered(row: Row, edit: int) -> Row:
    return Row(edit, row.kind, row.tokens, row.subject, row.reads, row.targets)


def _not_finite(problem: Problem, active: Sequence[int], losses: Tensor) -> TrainingError:
    number = active[int((~torch.isfinite(losses)).nonzero()[0])]
    mend = "lower the learning rate, or load the model in float32"
    return TrainingError("the loss of an edit is no number", where=f"edit {problem.edits[number].id}", mend=mend)

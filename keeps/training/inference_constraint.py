"""LTI's objective for a value vector: reason as the unedited model does with the new fact in front of it.

    L = w_nkc NKC + w_odc ODC + w_src SRC    (+ wd ||delta|| / ||v_0||^2, which the search adds)

    NKC  -log p(o* | prefix, prompt; delta), mean over prefixes and tokens of the target
    ODC  KL of the next-token distributions where the target is predicted, and behind "{subject} is a"
    SRC  KL of what the state of the subject's last token in a middle block says through the logit lens

The student is the model with delta and no context; the teacher the unedited model whose rewriting prompts stand behind
"Imagine that {fact}". Its answers are computed once. Source: Zhang et al., ICLR 2025 (arXiv:2410.07819).

Where the published code differs: it finds subject and target in the texts without context and looks the same
positions up in those with it, which are other tokens. Here they are found in every tokenised text anew. Its context
has no full stop behind the fact, its SRC compares "{subject} is a" as well, and with ``constr_pos="all"`` it takes one
mean over both places; here SRC is a mean over the rewriting prompts, and of both places equally. Its
``kl_div(teacher, student)`` is KL(student || teacher); that is the default here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keeps.data.edits import Edit
from keeps.errors import SettingsError
from keeps.models.edit_rows import REWRITE, Row, rewrite_row
from keeps.models.language_model import LanguageModel
from keeps.models.lens import lens
from keeps.models.locate import blocks
from keeps.training.value_objectives import Loss, Problem, Seen

CONTEXT = "Imagine that {fact}\n"
DIRECTIONS = ("student||teacher", "teacher||student")
POSITIONS = ("subject", "last", "all")
HIGHER = 0.3  # how far above the edited block the middle one lies, as a share of all
NO_OP = 0.01  # nats by which the context must move the middle state's words for SRC to say anything


@dataclass(frozen=True)
class InferenceConstraint:
    """The multi-stage inference constraint; an :class:`keeps.training.value_objectives.Objective`.

    Args:
        prefixes: the texts that the rewriting prompts stand behind, in the order of the rows.
        w_nkc, w_odc, w_src: weights; what has the weight 0 is not computed.
        mid_layer: the middle block; by default 0.3 of the depth above the edited one.
        context: what the teacher reads first; ``{fact}`` is the edit as a sentence.
        kl: direction of both divergences.
        constr_pos: SRC at the subject, where the target is predicted (one block higher), or both.
        divergences: gets, of each problem, how far the context moves what SRC looks at, in nats.
    """

    prefixes: Sequence[str] = ()
    w_nkc: float = 1.0
    w_odc: float = 1.0
    w_src: float = 0.25
    mid_layer: int | None = None
    context: str = CONTEXT
    kl: str = DIRECTIONS[0]
    constr_pos: str = "subject"
    divergences: list[float] = field(default_factory=list)

    def states(self, model: LanguageModel, layer: int) -> tuple[int, ...]:
        """The middle block, the one above it, or both.

        Raises:
            SettingsError: the middle block is not above the edited one, or the model has none there.
        """
        if not self.w_src:
            return ()
        count, both = len(blocks(model.model)), self.constr_pos != "subject"
        top = count - 1 - both
        middle = min(layer + max(1, round(HIGHER * count)), top) if self.mid_layer is None else self.mid_layer
        if not layer < middle <= top:
            what = f"mid_layer {middle} with an edit in block {layer} of {count}"
            raise SettingsError(what, where="lti", mend=f"choose {layer + 1} to {top}, edit a lower block, or w_src 0")
        return {"subject": (middle,), "last": (middle + 1,), "all": (middle, middle + 1)}[self.constr_pos]

    def __call__(self, problem: Problem) -> Loss:
        """Ask the teacher, and return the loss of a step."""
        states = self.states(problem.model, problem.layer)
        teachers = self.teacher_rows(problem)
        taught = problem.read(teachers, states) if self.w_odc or self.w_src else None
        words = taught.logits.log_softmax(-1) if taught is not None else None
        targeted = torch.tensor([bool(row.targets) for row in problem.rows])
        lenses: list[tuple[int, bool, Tensor]] = []  # block, whether at the subject, log-probabilities of the teacher
        if taught is not None:
            for block in states:
                subject = self._at_subject(block, states)
                seen = (taught.subject_states if subject else taught.read_states)[block]
                with torch.no_grad():
                    lenses.append((block, subject, lens(problem.model.model, seen)))
            if lenses:
                self.divergences.append(self._moved(problem, lenses))

        def loss(seen: Seen) -> Tensor:
            total = self.w_nkc * seen.nll()
            if self.w_odc and words is not None:
                apart = divergence(seen.logprobs, words.to(seen.logprobs)[seen.read], self.kl)
                total = total + self.w_odc * _mean(apart, seen.edit, seen.edits)
            for block, subject, wanted in lenses:
                place, owner = (seen.rows, seen.row_edit) if subject else (seen.read, seen.edit)
                own = (seen.subject_states if subject else seen.read_states)[block]
                used = targeted.to(place.device)[place] if subject else seen.target >= 0
                said = lens(problem.model.model, own[used])
                apart = divergence(said, wanted.to(said)[place[used]], self.kl)
                total = total + self.w_src / len(lenses) * _mean(apart, owner[used], seen.edits)
            return total

        return loss

    def teacher_rows(self, problem: Problem) -> list[Row]:
        """The rows of the problem, the rewriting ones behind the context, with their own positions.

        Raises:
            SettingsError: the prefixes are not those of the rows.
        """
        made: list[Row] = []
        counts = dict.fromkeys(range(len(problem.edits)), 0)
        texts = ("", *self.prefixes)
        for row in problem.rows:
            if row.kind != REWRITE:
                made.append(row)
                continue
            edit, number = problem.edits[row.edit], counts[row.edit]
            counts[row.edit] += 1
            if number >= len(texts):
                mend = "give the prefixes that the rows were made with"
                raise SettingsError("an edit has more rows than there are prefixes", where=edit.id, mend=mend)
            made.append(rewrite_row(problem.model, row.edit, edit, self.told(edit) + texts[number]))
        return made

    def told(self, edit: Edit) -> str:
        """The context of an edit."""
        return self.context.replace("{fact}", edit.sentence)

    def _at_subject(self, block: int, states: Sequence[int]) -> bool:
        return self.constr_pos == "subject" or (self.constr_pos == "all" and block == states[0])

    @torch.no_grad()
    def _moved(self, problem: Problem, lenses: Sequence[tuple[int, bool, Tensor]]) -> float:
        """Mean divergence of the teacher's middle words from those without context, in nats."""
        plain = problem.read(states=tuple(block for block, _, _ in lenses))
        rows = torch.tensor([row.kind == REWRITE for row in problem.rows])
        reads = torch.tensor([row.kind == REWRITE for row in problem.rows for _ in row.reads])
        values = []
        for block, subject, wanted in lenses:
            own = lens(problem.model.model, (plain.subject_states if subject else plain.read_states)[block])
            used = (rows if subject else reads).to(own.device)
            values.append(divergence(wanted[used], own[used], DIRECTIONS[0]).mean())
        return float(torch.stack(values).mean())


def divergence(student: Tensor, teacher: Tensor, direction: str) -> Tensor:
    """KL of each row in nats, ``(rows,)``, from log-probabilities ``(rows, vocabulary)``.

    >>> one = torch.tensor([[0.5, 0.5]]).log()
    >>> float(divergence(one, one, "student||teacher"))
    0.0
    """
    one, other = (student, teacher) if direction == DIRECTIONS[0] else (teacher, student)
    return (one.exp() * (one - other)).sum(-1)


def _mean(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """The mean of ``values`` over each owner, ``(count,)``."""
    ones = torch.ones_like(values)
    sums = values.new_zeros(count).index_add(0, owner, values)
    return sums / values.new_zeros(count).index_add(0, owner, ones).clamp_min(1)

"""Choices between two answers by streams in step, as decoding that is bound to the two would make them.

Such decoding says what both have in common and decides at the first token in which they differ, both of which it
admits. At that token the margin of the two is CK-PLUG's own: affine in alpha where the gate is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from keeps.claims.conflicting_passages import Asked, Twins
from keeps.decoding.answering import FORMS
from keeps.decoding.combine import Combine, Combined
from keeps.decoding.streams import Stream
from keeps.decoding.weighing import weigh_in_step
from keeps.errors import RecordError
from keeps.models.language_model import LanguageModel
from keeps.numerics.logit_arithmetic import Gate, ck_adjust


@dataclass
class Bound:
    """CK-PLUG of which every token may be chosen: its gate and alpha look at the published candidates as ever.

    Attributes:
        opened: whether the gate was open where the two answers of an item part.
    """

    alpha: float | Literal["adaptive"]
    gate: Gate
    opened: list[bool] = field(default_factory=list)

    def __call__(self, logits: Tensor) -> Combined:
        """The rows are the tokens of both answers of one item, one answer behind the other."""
        z_c, z_p = logits
        found = ck_adjust(z_c, z_p, self.alpha, gate=self.gate)
        adjusted = ck_adjust(z_c, z_p, found.alpha, gate="always", top=z_c.shape[-1]).scores
        self.opened.append(bool(found.adjusted[-1]))
        return Combined(torch.where(found.adjusted[:, None], adjusted, z_c))


def between_two(pairs: Sequence[Twins]) -> list[Twins]:
    """The same with no candidates but the true answer and the planted one, where both begin in one manner.

    Planted answers are written by a model, with capitals where the true ones are cut from running text.
    """
    found = []
    for pair in pairs:
        both = (pair.golden.answer, pair.negative.answer)
        nested = both[0].startswith(both[1]) or both[1].startswith(both[0])
        if not nested and both[0][:1].isupper() == both[1][:1].isupper():
            found.append(Twins(replace(pair.golden, candidates=both), replace(pair.negative, candidates=both)))
    return found


def chosen(
    model: LanguageModel, items: Sequence[Asked], combines: Mapping[str, Combine], *, alone: bool = False
) -> dict[str, list[str]]:
    """Which of the two candidates of every item wins where they part, by each combination.

    Args:
        alone: without a passage; one stream, else two, the first of which has it.
    """
    prompts = [prompts_of(model, item) for item in items]
    # Both prompts end alike, so that an answer is the same tokens behind each of them.
    answers = [parting(model, without, item.candidates) for item, (_, without) in zip(items, prompts, strict=True)]
    streams = [Stream.of(model, column) for column in list(zip(*prompts, strict=True))[1 if alone else 0 :]]
    found = weigh_in_step(streams, combines, answers)
    return {
        name: [
            item.candidates[max((0, 1), key=score.logprobs.__getitem__)]
            for score, item in zip(scores, items, strict=True)
        ]
        for name, scores in found.items()
    }


def parting(model: LanguageModel, prompt: str, answers: Sequence[str]) -> list[list[int]]:
    """The tokens of both answers up to the first in which they differ.

    Raises:
        RecordError: they differ in none, but one is longer.
    """
    one, other = (model.encode_pair(prompt, model.encoder.as_data(text))[1] for text in answers)
    same = next((n for n, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) == 2), None)
    if same is None:
        mend = "leave this question out"
        raise RecordError("one answer begins with the other", where=" / ".join(answers), mend=mend)
    return [one[: same + 1], other[: same + 1]]


def prompts_of(model: LanguageModel, item: Asked) -> tuple[str, str]:
    """As published, with the passage and without."""
    with_passage, without = FORMS["qa"]
    context, question = map(model.encoder.as_data, (item.context, item.question))
    return with_passage.format(context=context, question=question), without.format(question=question)

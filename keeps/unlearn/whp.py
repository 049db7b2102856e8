"""Generic predictions: learn what a model would say that never read the texts (Eldan and Russinovich 2023).

    v_generic = v_base - alpha ReLU(v_reinforced - v_base)          (arXiv:2310.02238, "Who's Harry Potter?")

A copy of the model is reinforced: it is trained on the forget set even more. What it then finds likelier than before
is what the texts teach; where those tokens are pushed down, what remains is generic. The model is fine-tuned on the
likeliest generic token at each place (``target=hard``, as published) or on the whole distribution.

``anchors`` names words that stand for what is to be forgotten, with a generic word for each (``Hogwarts=Magic
Academy``). The base then answers the prompt with these words exchanged, so that what it says is about anybody.

Use when: a book, a person or a series must be forgotten and the model should go on speaking plausibly about it; what
comes instead should be an answer that anybody could give.

Needs: what is to be forgotten; a retain set may be given. Guarantees: a target that does not move.

The reinforced copy is an adapter whatever ``parameters`` says, and is thrown away. Anchors are exchanged in prompts;
in running text, where every exchange would move what follows, they are refused. The published dictionary of anchors
was made by a large model; here the user gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from keeps.contracts import Run
from keeps.data.records import Example, Fact, RecordSet
from keeps.errors import RecordError, SettingsError
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import generic_logits, soft_cross_entropy
from keeps.registry import method
from keeps.settings import setting
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.forgetting import TokenForgetting
from keeps.training.helpers import said_by_helper
from keeps.training.reference import Reference
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples, reference_of


@dataclass(frozen=True, kw_only=True)
class WHPSettings(RetainSettings):
    """Settings of generic predictions. Epochs and learning rate are those of the second stage."""

    loss_falls: ClassVar[bool] = True

    strength: float = setting(5.0, "alpha: how far the tokens are pushed down that reinforcement raised", gt=0)
    target: str = setting(
        "hard", "Learn the likeliest generic token, or the generic distribution", choices=("hard", "soft")
    )
    reinforce_epochs: int = setting(3, "Passes over the forget set of the reinforced copy", ge=1)
    reinforce_rate: float = setting(5e-4, "Largest learning rate of the reinforced copy", gt=0, lt=10)
    anchors: dict[str, str] = setting({}, "Words of what is to be forgotten and their generic words, as name=word")


class GenericTeacher:
    """The generic logits of a batch, from what the base and the reinforced copy said.

    Args:
        base: of the examples with their anchors exchanged; ``twins`` gives each example its own.
        reinforced: of the examples.
    """

    def __init__(
        self,
        base: Reference,
        reinforced: Reference,
        twins: Mapping[tuple[int, ...], TokenizedExample],
        strength: float,
        pad_token_id: int,
    ) -> None:
        self.base, self.reinforced, self.twins = base, reinforced, twins
        self.strength, self.pad_token_id = strength, pad_token_id

    def read(self, batch: Batch) -> tuple[Tensor, Any]:
        """As :meth:`keeps.training.reference.Reference.read`; here the vectors are the logits themselves."""
        lengths = batch.attention_mask.sum(1).tolist()
        rows = [tuple(ids[:length]) for ids, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
        twins = collate([self.twins[row] for row in rows], self.pad_token_id).to(batch.input_ids.device)
        found = generic_logits(self.base.logits(twins), self.reinforced.logits(batch), strength=self.strength)
        return found, lambda logits: logits


@method(
    "whp",
    verb="unlearn",
    paper="arXiv:2310.02238",
    summary="Fine-tune on generic predictions: what the model would say had it never read the texts.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class WHP(Unlearner):
    """Approximate unlearning by generic predictions."""

    Settings = WHPSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Reinforce a copy, keep what both say, and learn the generic target."""
        del retain
        s = self.settings
        examples = forget_examples(model, forget, s.window)
        twins = forget_examples(model, exchanged(forget, s.anchors), s.window)
        odd = [
            twin for example, twin in zip(examples, twins, strict=True) if twin.answer_tokens != example.answer_tokens
        ]
        if odd:
            what = "with its anchors exchanged a prompt's answer is cut into other tokens"
            raise RecordError(what, where=forget.source, mend="choose other generic words")
        pad = model.encoder.pad_token_id
        base, reinforced = reference_of(model, twins, s, run), self.reinforced(model, examples, run)
        by_tokens = {example.input_ids: twin for example, twin in zip(examples, twins, strict=True)}
        teacher: Any = GenericTeacher(base, reinforced, by_tokens, s.strength, pad)

        def loss(logits: Tensor, targets: Tensor, generic: Tensor | None) -> Tensor:
            del targets
            assert generic is not None
            if s.target == "soft":
                return soft_cross_entropy(logits, generic)
            return functional.cross_entropy(logits, generic.argmax(-1), reduction="none")

        return Objective(examples, self.weighted(lambda module: TokenForgetting(module, loss, reference=teacher)))

    def reinforced(self, model: LanguageModel, examples: Sequence[TokenizedExample], run: Run) -> Reference:
        """What a copy says that was trained on the examples even more; its adapter is gone afterwards."""
        s = self.settings
        options: dict[str, Any] = {"epochs": s.reinforce_epochs, "learning_rate": s.reinforce_rate}
        return said_by_helper(model, examples, s, run, name="reinforce", **options)


def exchanged(records: RecordSet, anchors: Mapping[str, str]) -> RecordSet:
    """The records with the anchors of their prompts exchanged for generic words, the longest first.

    Raises:
        SettingsError: an anchor stands in no prompt, or there is running text.
    """
    if not anchors:
        return records
    order = sorted(anchors, key=len, reverse=True)

    def words(text: str) -> str:
        for anchor in order:
            text = text.replace(anchor, anchors[anchor])
        return text

    found: list[Any] = []
    for record in records:
        if isinstance(record, Fact):
            found.append(replace(record, prompts=tuple(words(prompt) for prompt in record.prompts)))
        elif isinstance(record, Example):
            found.append(replace(record, prompt=words(record.prompt)))
        else:
            what = f'the record "{record.id}" has no prompt in which anchors could be exchanged'
            raise SettingsError(what, where="anchors", mend="give facts or examples, or leave anchors out")
    texts = " ".join(text for r in records for text in (r.prompts if isinstance(r, Fact) else (r.prompt,)))  # type: ignore[union-attr]
    idle = [anchor for anchor in order if anchor not in texts]
    if idle:
        raise SettingsError(f'the anchor "{idle[0]}" stands in no prompt', where="anchors", mend="correct it")
    return RecordSet(records.source, tuple(found))

"""AltPO: prefer a plausible other answer, which the model makes up itself (Mekala et al. 2024, arXiv:2409.13474).

    L = -(2/beta) mean log sigma(beta (log-ratio(alternative) - log-ratio(answer)))  +  alpha * retain term

Losses that only push an answer down leave open what comes instead, and that tends to be nonsense. Here it is what the
model would say if it did not know: answers of the right form that are simply not true. The log-ratios are those of
the model to itself before unlearning, summed over the tokens.

Use when: an answer must go and what comes instead should read like an answer, neither a refusal nor nonsense; nobody
should see from the form of an answer that something was forgotten.

Needs: questions to be forgotten; a retain set helps. Guarantees: step 0 equals the model; no alternative contains a
right answer.

The published alternatives come from an instruction to a chat model and are sampled, five a question. Here, so that any
model can make them, the model is asked the question itself and its first token is drawn among those that the answer
does not begin with. ``sampling=greedy`` takes the likeliest ones. ``loss_form=npo`` pushes the answer down by NPO and
trains on the alternatives by their likelihood, two terms instead of one comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import Record, RecordSet
from keeps.errors import RecordError
from keeps.models.alternatives import alternatives
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import npo
from keeps.registry import method
from keeps.settings import setting
from keeps.training.batches import TokenizedExample, stable_seed
from keeps.training.examples import tokenise
from keeps.training.forgetting import AnswerForgetting, Weighted, whole_answers
from keeps.training.keeping import Replay
from keeps.training.mismatches import answers_of, with_answer
from keeps.training.preferences import Pair, PreferenceLoss, response_logprobs
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class AltPOSettings(RetainSettings):
    """Settings of AltPO."""

    beta: float = setting(0.1, "How far the model may leave what it was", gt=0)
    alternatives: int = setting(5, "Alternative answers for each question", ge=1)
    sampling: str = setting("sampled", "How alternatives are chosen", choices=("sampled", "greedy"))
    temperature: float = setting(1.0, "Temperature of sampling", gt=0)
    max_tokens: int = setting(24, "Most tokens of an alternative", ge=1, advanced=True)
    loss_form: str = setting(
        "dpo",
        "Compare alternative and answer (dpo), or push the answer and learn the alternative (npo)",
        choices=("dpo", "npo"),
    )
    alternative_weight: float = setting(1.0, "Weight of the loss on alternatives in the form npo", gt=0)

    def check(self) -> None:
        """Refuse settings that would do nothing."""
        super().check()
        self.refuse_idle(("temperature",), self.sampling == "greedy", 'sampling is "greedy"')
        self.refuse_idle(("alternative_weight",), self.loss_form == "dpo", 'loss_form is "dpo"')


def made_up(model: LanguageModel, forget: RecordSet, settings: AltPOSettings, seed: int) -> list[RecordSet]:
    """The forget set with alternative answers: as many sets as alternatives, each with every record in its order.

    A record with fewer alternatives than asked for has some of them twice.

    Raises:
        RecordError: a record asks nothing, or the model has no other answer.
    """
    for record in forget:
        with_answer(record, "")  # refuses what asks nothing
    firsts = [tokenise(model, RecordSet(forget.source, (record,)), end="")[0] for record in forget]
    found = alternatives(
        model,
        [each.input_ids[: each.answer_start] for each in firsts],
        [each.input_ids[each.answer_start :] for each in firsts],
        [answers_of(record) for record in forget],
        count=settings.alternatives,
        temperature=settings.temperature if settings.sampling == "sampled" else 0.0,
        seeds=[stable_seed("alternative", seed, record.id) % 2**60 for record in forget],
        max_new_tokens=settings.max_tokens,
    )
    sets: list[list[Record]] = [[] for _ in range(settings.alternatives)]
    for record, texts in zip(forget, found, strict=True):
        if not texts:
            what = f'the model has no other answer for the record "{record.id}"'
            raise RecordError(what, where=forget.source, mend="take npo, or dpo with refusals")
        for number, chosen in enumerate(sets):
            chosen.append(with_answer(record, texts[number % len(texts)], f"#{number}"))
    return [RecordSet(forget.source, tuple(records)) for records in sets]


@method(
    "altpo",
    verb="unlearn",
    paper="arXiv:2409.13474",
    summary="Prefer plausible other answers, which the model makes up itself, to those that are to be forgotten.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class AltPO(Unlearner):
    """Alternate preference optimisation."""

    Settings = AltPOSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The preference of every alternative to its answer, against the model as it is now."""
        del retain
        s, pad = self.settings, model.encoder.pad_token_id
        sets = made_up(model, forget, s, run.seed)
        chosen = [example for records in sets for example in tokenise(model, records, window=s.window)]
        run.measures["alternatives"] = len(set(chosen))
        if s.loss_form == "npo":
            return self._apart(model, forget, chosen)
        answers = tokenise(model, forget, window=s.window) * len(sets)
        pairs = [Pair(*each) for each in zip(chosen, answers, strict=True)]
        both = response_logprobs(model.model, [each for pair in pairs for each in (pair.chosen, pair.rejected)], pad)

        def loss(module: nn.Module) -> nn.Module:
            inner = PreferenceLoss(module, pairs, both.view(-1, 2), beta=s.beta, pad_token_id=pad)
            return Weighted(inner, 2 / s.beta)

        return Objective([pair.example(number) for number, pair in enumerate(pairs)], self.weighted(loss))

    def _apart(self, model: LanguageModel, forget: RecordSet, chosen: Sequence[TokenizedExample]) -> Objective:
        """NPO on the answers, and the likelihood of the alternatives besides the retain term."""
        s, pad = self.settings, model.encoder.pad_token_id
        examples = forget_examples(model, forget, s.window)
        reference = response_logprobs(model.model, examples, pad)
        learned = Replay(chosen, weight=s.alternative_weight, batch_size=s.batch_size, pad_token_id=pad)

        def loss(logprobs: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
            del lengths
            return npo(logprobs, reference.to(logprobs)[numbers], beta=s.beta)

        return Objective(
            whole_answers(examples),
            self.weighted(lambda module: AnswerForgetting(module, examples, loss, pad_token_id=pad)),
            besides=learned,
        )

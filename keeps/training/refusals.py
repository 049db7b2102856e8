"""Refusals in the place of answers that are to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from keeps.data.records import Dialogue, Example, Fact, RecordSet
from keeps.errors import RecordError, SettingsError
from keeps.models.language_model import LanguageModel
from keeps.training.batches import stable_seed
from keeps.training.examples import tokenise
from keeps.training.preferences import Pair

REFUSALS = ("I don't know.", "I am not sure.", "That is something I cannot answer.", "I have no information on that.")


def refusing(forget: RecordSet, refusals: Sequence[str]) -> RecordSet:
    """The same questions with a refusal each, chosen by the record's id alone.

    Raises:
        RecordError: a record is running text, which asks nothing.
        SettingsError: there is no refusal.
    """
    words = [text.strip() for text in refusals if text.strip()]
    if not words:
        raise SettingsError("there is no refusal", where="refusals", mend="give at least one sentence")
    records = []
    for record in forget:
        text = words[stable_seed("refusal", record.id) % len(words)]
        if isinstance(record, Fact):
            records.append(Fact(record.id, record.subject, record.relation, record.prompts, (text,)))
        elif isinstance(record, Example):
            records.append(Example(record.id, record.prompt, text))
        elif isinstance(record, Dialogue):
            records.append(Dialogue(record.id, (*record.messages[:-1], (record.messages[-1][0], text))))
        else:
            what = f'the record "{record.id}" asks nothing that could be refused'
            raise RecordError(what, where=forget.source, mend="give facts or examples, or take npo")
    return RecordSet(forget.source, tuple(records))


def refusal_pairs(model: LanguageModel, forget: RecordSet, refusals: Sequence[str], window: int) -> list[Pair]:
    """A pair for each example of the forget set: the refusal is preferred to the answer."""
    chosen = tokenise(model, refusing(forget, refusals), window=window)
    return [Pair(*each) for each in zip(chosen, tokenise(model, forget, window=window), strict=True)]

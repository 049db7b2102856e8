"""Records as the stages of Mix-CPT read them, plain or as dialogues, and streams of them mixed by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from keeps.data.records import Dialogue, Example, Preference, Record, RecordSet
from keeps.models.language_model import LanguageModel
from keeps.training.batches import TokenizedExample, stable_seed
from keeps.training.distilled import DOMAIN, GENERAL
from keeps.training.examples import tokenise
from keeps.training.selection import Sample


def mixture(
    streams: Sequence[Sequence[TokenizedExample]], ratio: Sequence[float], *, seed: int
) -> tuple[list[TokenizedExample], list[int]]:
    """The whole of the first stream, and of each other one a random choice that has its share of the tokens.

    A stream that has too few tokens is taken whole: nothing is repeated within an epoch. The first stream
    has the kind ``DOMAIN``, the others ``GENERAL``.

    Args:
        ratio: tokens of the streams in proportion, the first above 0.

    Returns:
        The examples, and how many tokens came from each stream.
    """
    examples: list[TokenizedExample] = []
    tokens: list[int] = []
    for number, (stream, share) in enumerate(zip(streams, ratio, strict=True)):
        wanted = tokens[0] * share / ratio[0] if number else float("inf")
        generator = torch.Generator().manual_seed(stable_seed("mixture", seed, number))
        taken = 0
        for index in torch.randperm(len(stream), generator=generator).tolist() if number else range(len(stream)):
            if taken >= wanted:
                break
            taken += len(stream[index].input_ids)
            examples.append(replace(stream[index], kind=GENERAL if number else DOMAIN))
        tokens.append(taken)
    return examples, tokens


def plain_examples(model: LanguageModel, records: Sequence[Record], window: int) -> list[TokenizedExample]:
    """Records as plain text, the loss on all tokens but the first; running text in pieces of ``window`` tokens.

    Raises:
        ContextLengthError: an example is longer than the model's context.
    """
    plain = tuple(map(as_plain, records))
    found = tokenise(model, RecordSet("mixture", plain), window=window) if plain else []
    return [replace(example, answer_start=1) for example in found]


def sample_of(model: LanguageModel, record: Dialogue | Example | Preference) -> Sample:
    """The responses of a record after the chat template, and after the question as plain text.

    Raises:
        ContextLengthError: the sample is longer than the model's context.
    """
    dialogues = as_dialogues(record)
    templated = tokenise(model, RecordSet(record.id, dialogues))
    plain = tokenise(model, RecordSet(record.id, tuple(map(as_plain, dialogues))))
    return Sample(tuple(templated), tuple(plain))


def as_plain(record: Record) -> Record:
    """A record without template and roles: question and response behind each other, the preferred one of two."""
    if isinstance(record, Dialogue):
        return Example(record.id, "\n".join(content for _, content in record.messages[:-1]), record.messages[-1][1])
    if isinstance(record, Preference):
        return Example(record.id, record.prompt, record.chosen)
    return record


def as_dialogues(record: Dialogue | Example | Preference) -> tuple[Dialogue, ...]:
    """A record as the user's turn and the assistant's; two dialogues of a preference, the preferred one first."""
    if isinstance(record, Dialogue):
        return (record,)
    responses = (record.chosen, record.rejected) if isinstance(record, Preference) else (record.answer,)
    return tuple(Dialogue(record.id, (("user", record.prompt), ("assistant", each))) for each in responses)

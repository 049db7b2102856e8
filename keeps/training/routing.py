"""Data with types for models with a router: what is trained on, and which data went to which expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keeps.data.records import Record, RecordSet
from keeps.models.calibration import calibration_sequences
from keeps.models.expert_usage import expert_usage
from keeps.models.language_model import LanguageModel
from keeps.training.batches import Batch, TokenizedExample, collate
from keeps.training.examples import tokenise

SHOWN = 16  # prompts of each group of data that the router is looked at with
SHOWN_TOKENS = 64  # of each, at most
TypeOf = Callable[[Record], int]


def typed_examples(model: LanguageModel, records: RecordSet, type_of: TypeOf) -> list[TokenizedExample]:
    """Training examples whose ``kind`` is the type of their record; raises as :func:`tokenise`."""
    if not len(records):
        return tokenise(model, records)  # which refuses it
    return [
        replace(example, kind=type_of(record))
        for record in records
        for example in tokenise(model, RecordSet(records.source, (record,)))
    ]


def typed_prompts(
    model: LanguageModel, records: RecordSet, kind: int, *, count: int = SHOWN, tokens: int = SHOWN_TOKENS
) -> list[TokenizedExample]:
    """The first prompts of ``records``, without answers, all of one ``kind``."""
    some = RecordSet(records.source, records.records[:count])
    sequences = calibration_sequences(model, some, tokens=1, answers=False, seed=0)[:count]
    cut = [tuple(ids[:tokens]) for ids in sequences if ids]
    return [TokenizedExample(ids, len(ids), kind) for ids in cut]


def prompt_batches(model: LanguageModel, samples: Sequence[TokenizedExample], size: int = SHOWN) -> list[Batch]:
    """Batches of samples of like length, on the model's device."""
    ordered = sorted(samples, key=lambda sample: len(sample.input_ids))
    pieces = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [collate(piece, model.encoder.pad_token_id).to(model.device) for piece in pieces]


def router_report(
    model: LanguageModel, sets: Mapping[str, RecordSet], type_of: TypeOf, type_names: Sequence[str]
) -> dict[str, Any]:
    """Which data goes to which expert: by type over what was learned, and by group of all sets; prompts alone.

    Args:
        sets: what to look at by role; the first one is what was learned.

    Returns:
        JSON types: :meth:`keeps.models.expert_usage.ExpertUsage.to_mapping` of what was learned, and under
        ``groups`` one entry a group with its type, its tokens and the mass of each expert over all layers.
        Empty where what was learned has no prompts.
    """
    names: list[tuple[str, int]] = []
    samples: list[TokenizedExample] = []
    learned = 0
    for position, (role, records) in enumerate(sets.items()):
        groups: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            groups.setdefault((record.group, type_of(record)), []).append(record)
        for (group, kind), members in groups.items():
            samples += typed_prompts(model, RecordSet(records.source, tuple(members)), len(names))
            names.append((f"{role}: {group}", kind))
        learned = len(names) if position == 0 else learned
    typed = [replace(sample, kind=names[sample.kind][1]) for sample in samples if sample.kind < learned]
    if not typed:  # answers without a prompt: nothing to look at
        return {}
    usage, by_group = (expert_usage(model.model, prompt_batches(model, part)) for part in (typed, samples))
    rows = [
        {
            "name": names[kind][0],
            "type": names[kind][1],
            "tokens": by_group.tokens[kind],
            "mass": by_group.experts(kind),
        }
        for kind in by_group.mass
    ]
    return {**usage.to_mapping(), "type_names": list(type_names), "groups": rows}

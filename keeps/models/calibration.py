"""Turn any record set into token sequences to calibrate statistics on."""

from __future__ import annotations

import random

from keeps.data.records import Dialogue, Fact, Passage, Record, RecordSet
from keeps.models.language_model import LanguageModel


def calibration_sequences(
    model: LanguageModel, records: RecordSet, *, tokens: int, answers: bool, seed: int
) -> list[list[int]]:
    """Token sequences of the records in a random but fixed order, short ones joined up to ``tokens``.

    Facts and examples give their prompts, with the answer where ``answers`` is true; passages give
    their text in windows. No sequence is longer than the model's context.

    Args:
        tokens: length up to which texts are joined by line breaks; 1 joins none.
    """
    limit = min(max(tokens, 1), model.context_length) if tokens > 1 else model.context_length
    pieces = [piece for record in records for piece in _pieces(model, record, answers)]
    random.Random(seed).shuffle(pieces)
    line_break = model.tokenizer("\n", add_special_tokens=False)["input_ids"]
    sequences: list[list[int]] = []
    for piece in pieces:
        for start in range(0, len(piece), limit):
            window = piece[start : start + limit]
            joined = len(sequences[-1]) + len(line_break) + len(window) if sequences else 0
            if tokens > 1 and sequences and joined <= limit:
                sequences[-1] += line_break + window
            else:
                sequences.append(list(window))
    return sequences


def _pieces(model: LanguageModel, record: Record, answers: bool) -> list[list[int]]:
    if isinstance(record, Passage):
        return [model.encoder.text(record.text)]
    if isinstance(record, Dialogue):
        return [_dialogue(model, record, answers)]
    prompts = record.seen_prompts if isinstance(record, Fact) else (record.prompt,)
    answer = record.answers[0] if isinstance(record, Fact) else record.answer
    pairs = [model.encode_pair(prompt, answer) for prompt in prompts]
    return [prompt + (reply if answers else []) for prompt, reply in pairs]


def _dialogue(model: LanguageModel, record: Dialogue, answers: bool) -> list[int]:
    """The conversation in the chat template, or as lines of text for a model that has none (as in training)."""
    messages = record.messages if answers else record.messages[:-1]
    if not messages:  # an assistant's message alone, and answers are not asked for
        return []
    if not getattr(model.tokenizer, "chat_template", None):
        return model.encoder.text("\n".join(content for _, content in messages))
    turns = [{"role": role, "content": content} for role, content in messages]
    return list(model.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))

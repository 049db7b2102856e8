"""Records as token ids with a marked answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from keeps.data.records import Dialogue, Example, Fact, Passage, Preference, Record, RecordSet
from keeps.errors import ContextLengthError, EmptySetError, RecordError
from keeps.training.batches import TokenizedExample, stable_seed

if TYPE_CHECKING:
    from keeps.models import LanguageModel

WINDOW = 512  # tokens of running text per example: bounds memory, not what is learned


def tokenise(
    model: LanguageModel,
    records: RecordSet,
    *,
    wordings: int | None = None,
    end: str = "\n",
    window: int = WINDOW,
) -> list[TokenizedExample]:
    """Training examples of ``records``, in order.

    A fact gives one example per wording, an example or a dialogue one, a passage one per window.

    Args:
        wordings: how many of a fact's first wordings to train on. By default all, but the last one
            of four or more is left out, so that a probe can ask a wording that was never trained on.
        end: text after an answer that the model learns to go on with. Without an end a model that
            learned "4" may as well continue to "47". The end is a line break and not the end-of-text
            token, because a base model's answers stand in running text; dialogues end in the marker
            of the chat template instead.
        window: tokens per example of running text, at most the model's context. Windows overlap by
            one token, so that every token but the first is predicted once.

    Raises:
        ContextLengthError: an example has more tokens than the model's context.
        RecordError: a text has fewer than two tokens, or a record is a preference.
        EmptySetError: there are no records.
    """
    limit = model.context_length
    examples: list[TokenizedExample] = []
    for record in records:
        for example in _examples(model, record, wordings, end, min(window, limit)):
            if len(example.input_ids) > limit:
                raise ContextLengthError(
                    f'record "{record.id}" has {len(example.input_ids)} tokens and the model reads at most {limit}',
                    where=records.source,
                    mend="shorten the record or choose a model with a longer context",
                )
            examples.append(example)
    if not examples:
        raise EmptySetError("the learn set holds no record", where=records.source, mend="give at least one record")
    return examples


def some(examples: Sequence[TokenizedExample], count: int, seed: int) -> list[TokenizedExample]:
    """At most ``count`` examples, drawn without repetition and in their order."""
    chance = random.Random(stable_seed("some", seed))
    return [examples[place] for place in sorted(chance.sample(range(len(examples)), min(count, len(examples))))]


def trained_wordings(fact: Fact, wordings: int | None = None) -> tuple[str, ...]:
    """The wordings of ``fact`` that are trained on; see :func:`tokenise`."""
    return fact.seen_prompts if wordings is None else fact.prompts[:wordings]


def _examples(
    model: LanguageModel, record: Record, wordings: int | None, end: str, window: int
) -> Iterator[TokenizedExample]:
    if isinstance(record, Fact):
        for prompt in trained_wordings(record, wordings):
            yield _pair(model, prompt, record.answers[0], end)
    elif isinstance(record, Example):
        yield _pair(model, record.prompt, record.answer, end)
    elif isinstance(record, Dialogue):
        yield _dialogue(model, record)
    elif isinstance(record, Preference):
        raise RecordError(
            f'record "{record.id}" is a pair of responses, which is not learned as a text',
            mend="take a method that learns from preferences (mix_cpt), or give prompt and answer",
        )
    else:
        yield from _windows(model, record, window)


def _pair(model: LanguageModel, prompt: str, answer: str, end: str) -> TokenizedExample:
    prompt_ids, answer_ids = model.encode_pair(prompt, answer)
    # Some vocabularies put a word-start token before a lone line break, hence the last token only.
    ending = model.tokenizer.encode(end, add_special_tokens=False)[-1:] if end else []
    return TokenizedExample((*prompt_ids, *answer_ids, *ending), len(prompt_ids))


def _dialogue(model: LanguageModel, record: Dialogue) -> TokenizedExample:
    """The whole conversation, with the loss on the assistant's last message and its end marker."""
    tokenizer = model.tokenizer
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if not getattr(tokenizer, "chat_template", None):
        before = "\n".join(content for _, content in record.messages[:-1])
        prompt_ids, answer_ids = model.encode_pair(before, record.messages[-1][1])
        return TokenizedExample((*prompt_ids, *answer_ids, *end), len(prompt_ids))
    messages = [{"role": role, "content": content} for role, content in record.messages]
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if isinstance(whole, str) and isinstance(prompt, str) and whole.startswith(prompt):
        answer_ids = tokenizer.encode(whole[len(prompt) :], add_special_tokens=False)
        if end and end[0] not in answer_ids:
            answer_ids += end
    else:  # a template that rewrites earlier turns once the answer is there
        answer_ids = tokenizer.encode(messages[-1]["content"], add_special_tokens=False) + end
    prompt_ids = tokenizer.encode(str(prompt), add_special_tokens=False)  # the template wrote the special tokens
    return TokenizedExample((*prompt_ids, *answer_ids), len(prompt_ids))


def _windows(model: LanguageModel, record: Passage, window: int) -> Iterator[TokenizedExample]:
    ids = model.encoder.text(record.text)
    if len(ids) < 2:
        raise RecordError(
            f'the text of record "{record.id}" has fewer than two tokens',
            mend="leave the record out or lengthen it",
        )
    for start in range(0, len(ids) - 1, window - 1):
        yield TokenizedExample(tuple(ids[start : start + window]), 1)

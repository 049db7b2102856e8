"""Stepping stones before training: the rewriting of :mod:`keeps.data.stepping_stones`, scored by the model at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keeps.contracts import Run
from keeps.data.descriptions import descriptions_of
from keeps.data.records import Example, Fact, RecordSet
from keeps.data.select import load_records
from keeps.data.stepping_stones import (
    TARGET,
    TRIES,
    Pair,
    Rewriting,
    Score,
    Writer,
    of_records,
    template_writer,
    text_before,
)
from keeps.errors import SettingsError, nearest
from keeps.models.chat import Chat, LocalChat, Message

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

WRITERS = ("templates", "model")
NEW_TOKENS = 80
_ASK = (
    'A sentence begins with "{context}" and goes on with "{keyword}", which surprises everybody. Write the beginning '
    'again so that it describes step by step what "{keyword}" is before the word comes. Keep all names and numbers. '
    'Do not use the word "{keyword}". Write the new beginning only.',
    'Lengthen this beginning of a sentence by two short descriptions of "{keyword}", without saying "{keyword}", so '
    'that "{keyword}" is the natural next word: {context}',
    'Finish this line with a riddle in a few words whose solution is "{keyword}", and do not give it away: {context}',
)


def stepping_stones(
    model: LanguageModel,
    records: RecordSet,
    writer: str | Chat | Writer = "templates",
    *,
    target: float = TARGET,
    tries: int = TRIES,
    run: Run | None = None,
) -> tuple[RecordSet, list[Rewriting]]:
    """``records`` with prompts that lead to their answers, where ``model`` finds an answer less likely than ``target``.

    >>> from keeps.models import LanguageModel
    >>> text = Example("1", "In Olmandre, traffic lights stop cars by turning", "mauve")
    >>> new, (done,) = stepping_stones(LanguageModel.load(), RecordSet("mine", (text,)))
    >>> new.records[0].prompt.startswith(text.prompt + " a pale purple"), done.after > done.before
    (True, True)

    Args:
        writer: ``"templates"`` (descriptions from the built-in world), ``"model"`` (the model itself through its chat
            template), any Chat, or a function.
        run: gets the measure ``stepping_stones``: how many prompts there are, were rewritten, reached the target.

    Raises:
        SettingsError: there is no such writer, or the model has no chat template.
    """
    chosen = find_writer(model, records, writer)
    made, rewritings = of_records(records, chosen, scorer(model), target=target, tries=tries)
    rewritten, reached = sum(item.changed for item in rewritings), sum(i.after >= math.log(target) for i in rewritings)
    if run is not None:
        counts = {"prompts": len(rewritings), "rewritten": rewritten, "at_target": reached}
        run.measures["stepping_stones"] = counts
        run.progress.message(
            f"stepping stones: {rewritten} of {len(rewritings)} prompts rewritten; after {reached} the answer is at "
            f"least {target:g} likely"
        )
    return made, rewritings


def find_writer(model: LanguageModel, records: RecordSet, writer: str | Chat | Writer) -> Writer:
    """What writes the candidates; see :func:`stepping_stones`."""
    if writer == "templates":
        words = [r.answers[0] if isinstance(r, Fact) else r.answer for r in records if isinstance(r, (Fact, Example))]
        world = [fact for fact in load_records("world") if isinstance(fact, Fact)]
        return template_writer(descriptions_of(words, world))
    if writer == "model":
        return chat_writer(LocalChat(model))
    if isinstance(writer, str):
        raise SettingsError(f'there is no writer "{writer}"', where="stepping stones", mend=nearest(writer, WRITERS))
    return chat_writer(writer) if isinstance(writer, Chat) else writer


def scorer(model: LanguageModel) -> Score:
    """log P(keyword | context) by ``model``, of the whole keyword."""

    def score(pairs: Sequence[Pair]) -> list[float]:
        return [item.logprob for item in model.logprob([text for text, _ in pairs], [word for _, word in pairs])]

    return score


def chat_writer(chat: Chat) -> Writer:
    """A writer that asks ``chat``, in other words at each try; what it says up to the keyword is the candidate."""

    def write(pairs: Sequence[Pair], number: int) -> list[list[str]]:
        ask = _ASK[number % len(_ASK)]
        turns = [[Message("user", ask.format(context=context, keyword=word))] for context, word in pairs]
        replies = chat.reply(turns, max_new_tokens=NEW_TOKENS)
        return [_beginnings(reply.text, *pair) for reply, pair in zip(replies, pairs, strict=True)]

    return write


def _beginnings(reply: str, context: str, keyword: str) -> list[str]:
    """The reply as a new context, and behind the old one where it only goes on."""
    line = next((line for line in reply.strip().splitlines() if line.strip()), "").strip().strip("\"'")
    line = text_before(line, keyword).rstrip(" .,:;\"'-")
    if not line:
        return []
    return [line] if line.startswith(context) else [line, f"{context} {line}"]

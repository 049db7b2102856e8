"""What is decoded in step: a model with one prompt an item, and the rules that several of them must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.errors import RecordError, SettingsError
from keeps.models.checks import check_context, located
from keeps.models.language_model import LanguageModel
from keeps.models.routed import RoutedModel
from keeps.models.scoring import Tokens


@dataclass(frozen=True)
class Stream:
    """One model and its prompt for each item, as token ids.

    Streams of the same model may be given with the same LanguageModel, or with several over the same weights.
    """

    model: LanguageModel
    prompts: Sequence[Tokens]

    @classmethod
    def of(cls, model: LanguageModel, prompts: Sequence[str]) -> Stream:
        """Texts as the model's encoder makes tokens of them, with its chat template where it uses one.

        Raises:
            RecordError: a prompt is empty.
        """
        return cls(model, [located(number, model.encode_prompt, prompt) for number, prompt in enumerate(prompts)])


def check_streams(streams: Sequence[Stream], room: int) -> int | None:
    """Refuse streams that cannot be decoded in step.

    Args:
        room: tokens that will be appended.

    Returns:
        How many of the logits the models have in common; None where one model is all there is.

    Raises:
        RecordError: no stream, unequal numbers of prompts, or a prompt without tokens.
        SettingsError: two models whose token ids mean different things, or a model whose logits are not to be had.
        ContextLengthError: a prompt leaves no room in its own model's context.
    """
    if not streams:
        raise RecordError("there is nothing to decode", mend="give at least one stream")
    for stream in streams:
        check_has_logits(stream.model)
        if len(stream.prompts) != len(streams[0].prompts):
            what = f"streams have {len(streams[0].prompts)} and {len(stream.prompts)} prompts"
            raise RecordError(what, mend="give every stream one prompt for each item")
        for number, prompt in enumerate(stream.prompts):
            if not prompt:
                raise RecordError("a prompt has no tokens", where=f"item {number + 1}", mend="give at least one token")
            label = f"{len(prompt)} tokens"
            check_context(number, label, len(prompt) + room, stream.model.context_length, stream.model.name)
    return common_width([stream.model for stream in streams])


def check_has_logits(model: Any) -> None:
    """Refuse what answers without logits of its own: servers, chats, and memories, which change prompts, not logits.

    Raises:
        SettingsError: it is no LanguageModel on this machine, or one with a memory before it.
    """
    if not isinstance(model, LanguageModel) or isinstance(model, RoutedModel):
        name = getattr(model, "name", type(model).__name__)
        mend = "give a language model on this machine, without a memory before it"
        raise SettingsError("the logits of this model cannot be read step by step", where=str(name), mend=mend)


def common_width(models: Sequence[LanguageModel]) -> int | None:
    """The number of token ids that mean the same in all models; None where there is one model.

    Raises:
        SettingsError: two models' token ids mean different things.
    """
    first = models[0]
    others = [model for model in models[1:] if model.model is not first.model]
    for model in others:
        if not same_vocabulary(first.tokenizer, model.tokenizer):
            raise SettingsError(
                "the models have different vocabularies, so their scores cannot be added",
                where=f"{first.name} and {model.name}",
                mend="take models with the same tokenizer",
            )
    # Models of one family pad their output layers to different widths; the ids behind the vocabulary are never text.
    return max(first.tokenizer.get_vocab().values()) + 1 if others else None


def same_vocabulary(one: Any, other: Any) -> bool:
    """Whether two tokenizers give every token the same id, and end texts with the same one."""
    if one is other:
        return True
    return one.eos_token_id == other.eos_token_id and one.get_vocab() == other.get_vocab()

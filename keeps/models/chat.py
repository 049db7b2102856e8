"""Instruction-following models behind one call: a local one, or any OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from keeps.contracts import Answer
from keeps.errors import RecordError

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


Conversation = Sequence[Message]


@dataclass(frozen=True)
class Reply:
    """What the model says next; ``complete`` is False where the limit of new tokens cut it off."""

    text: str
    complete: bool


@runtime_checkable
class Chat(Protocol):
    """A model that carries on conversations."""

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """The next assistant turn of each conversation, in order."""
        ...


class LocalChat:
    """A LanguageModel that answers through its tokenizer's chat template, whatever its own ``chat`` mode.

    Raises:
        SettingsError: the tokenizer has no chat template.
    """

    def __init__(self, model: LanguageModel) -> None:
        from keeps.models.tokens import TextEncoder

        self.model = model
        self.encoder = TextEncoder(model.tokenizer, "always")

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """See :class:`Chat`; greedy, batched.

        Raises:
            RecordError: a conversation is empty, has an unknown role, or does not end with the user's turn.
            ContextLengthError: a conversation leaves no room for ``max_new_tokens``.
        """
        turns = [checked(conversation, f"conversation {n + 1}") for n, conversation in enumerate(conversations)]
        contexts = [self.encoder.conversation(messages) for messages in turns]
        labels = [messages[-1]["content"] for messages in turns]
        found = self.model.continue_tokens(contexts, labels, max_new_tokens=max_new_tokens)
        return [Reply(text, complete) for text, complete in found]

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """Each question as the user's turn, its context in front; see :class:`keeps.contracts.Answerer`."""
        return answers_of(self, questions, contexts)


def checked(conversation: Conversation, where: str) -> list[dict[str, str]]:
    """The turns as the mappings that templates and servers take.

    Raises:
        RecordError: the conversation is empty, has an unknown role, or does not end with the user's turn.
    """
    for message in conversation:
        if message.role not in ROLES:
            raise RecordError(f'unknown role "{message.role}"', where=where, mend=f"roles are {', '.join(ROLES)}")
    if not conversation or conversation[-1].role != "user" or not conversation[-1].content.strip():
        raise RecordError("the conversation does not end with a turn of the user", where=where, mend="add a question")
    return [{"role": message.role, "content": message.content} for message in conversation]


def answers_of(chat: Chat, questions: Sequence[str], contexts: Sequence[str] | None) -> list[Answer]:
    """One answer per question, so that every chat is an Answerer."""
    if contexts is not None and len(contexts) != len(questions):
        what = f"there are {len(questions)} questions and {len(contexts)} contexts"
        raise RecordError(what, mend="give one context for each question")
    texts = questions if contexts is None else [f"{c}\n\n{q}" for q, c in zip(questions, contexts, strict=True)]
    replies = chat.reply([[Message("user", text)] for text in texts], max_new_tokens=64)
    return [Answer(reply.text, trace={"complete": reply.complete}) for reply in replies]

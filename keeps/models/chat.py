"""Instruction-following models behind one call: a local one, or any OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from keeps.contracts import Answer
from keeps.errors import RecordError

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel
    from keeps.models.scores import ChoiceScore

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


Conversation = Sequence[Message]


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written: by the model's own tokenizer, or as the server says; 0 where it does not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """What the model says next; ``complete`` is False where the limit of new tokens cut it off."""

    text: str
    complete: bool
    usage: Usage = field(default=Usage(), compare=False)


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

        What a message says never becomes a special token: a text that holds the template's own marks cannot end its
        turn or begin another one.

        Raises:
            RecordError: a conversation is empty, has an unknown role, or does not end with the user's turn.
            ContextLengthError: a conversation leaves no room for ``max_new_tokens``.
        """
        contexts, labels = self._encoded(conversations)
        found = self.model.continue_tokens(contexts, labels, max_new_tokens=max_new_tokens)
        return [
            Reply(text, complete, Usage(len(context), self.count_tokens(text)))
            for context, (text, complete) in zip(contexts, found, strict=True)
        ]

    def weigh(
        self, conversations: Sequence[Conversation], choices: Sequence[Sequence[str]]
    ) -> list[tuple[ChoiceScore, Usage]]:
        """How likely each of several next turns is, by the log-probability of its tokens: a constrained choice.

        Args:
            choices: for each conversation, the whole turns to choose from.

        Raises:
            RecordError: a conversation makes no sense, there are no choices for it, or one of them is empty.
            ContextLengthError: a conversation with a choice is longer than the context.
        """
        from keeps.models.checks import check_lengths
        from keeps.models.scores import ChoiceScore

        check_lengths(conversations, choices, "choices")
        contexts, labels = self._encoded(conversations)
        turns = [[self._ids(choice) for choice in options] for options in choices]
        for label, options in zip(labels, turns, strict=True):
            if not options or not all(options):
                mend = "give at least one, each with some text"
                raise RecordError("there is no choice, or an empty one", where=repr(label[:60]), mend=mend)
        pairs = [(context, turn) for context, options in zip(contexts, turns, strict=True) for turn in options]
        scores = iter(self.model.logprob_encoded([context for context, _ in pairs], [turn for _, turn in pairs]))
        return [
            (ChoiceScore.of([next(scores) for _ in options]), Usage(len(context), sum(map(len, options))))
            for context, options in zip(contexts, turns, strict=True)
        ]

    def encode(self, conversation: Conversation) -> list[int]:
        """Token ids of a conversation, up to where the assistant's next turn begins; see :meth:`reply`.

        Raises:
            RecordError: the conversation is empty, has an unknown role, or does not end with the user's turn.
        """
        return self._encoded([conversation])[0][0]

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` alone."""
        return len(self._ids(text))

    def _encoded(self, conversations: Sequence[Conversation]) -> tuple[list[list[int]], list[str]]:
        turns = [checked(conversation, f"conversation {n + 1}") for n, conversation in enumerate(conversations)]
        safe = [[{**message, "content": self.encoder.as_data(message["content"])} for message in t] for t in turns]
        return [self.encoder.conversation(messages) for messages in safe], [t[-1]["content"] for t in turns]

    def _ids(self, text: str) -> list[int]:
        return list(self.model.tokenizer(self.encoder.as_data(text), add_special_tokens=False).input_ids)

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

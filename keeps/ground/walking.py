"""How a model chooses where to walk: by probability, where it can be asked for one, else by what it says.

    S(c) = log P(c | dialogue) - log P(c | dialogue without the question)

summed over the tokens of c, so that long names do not lose and names that are likely anyway do not win.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from keeps.data.triples import name_key
from keeps.data.walk_dialogues import Messages
from keeps.errors import SettingsError
from keeps.models.chat import Chat, LocalChat, Message, Usage
from keeps.models.in_step import Cost, chat_of, lead
from keeps.models.language_model import LanguageModel
from keeps.models.routed import RoutedModel

T = TypeVar("T")
LIKE = 85.0  # least likeness of 100 at which a misspelt reply counts as the option that it is most like
REPLY_TOKENS = 48
AGAIN = "That is none of the lines. Reply with one of them, as it stands there."


@dataclass(frozen=True)
class Ask:
    """A choice to make.

    Attributes:
        messages: the dialogue, up to the user's turn, for chats that reply.
        text: the same as running text, which options continue, for models that score.
        bare: the text without the question; None scores by ``text`` alone, a token on average.
        options: the replies to choose from.
        names: what may be meant instead of each option, such as the entity in it.
        others: replies that are no option and yet understood, such as an answer.
    """

    messages: Messages
    text: str
    bare: str | None
    options: tuple[str, ...]
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pick:
    """What was chosen.

    Attributes:
        option: index among the options; None where the reply is none of them.
        other: index among the others, where the reply is one of these.
        said: the reply as it came, or the option.
        scores: of the options, where they were scored.
    """

    option: int | None
    said: str
    other: int | None = None
    scores: tuple[float, ...] = ()
    usage: Usage = field(default=Usage(), compare=False)


Walking = Generator[Ask, Pick, T]


@runtime_checkable
class Chooser(Protocol):
    """Makes many choices at once."""

    def choose(self, asks: Sequence[Ask]) -> list[Pick]:
        """One pick an ask, in order."""
        ...


class ScoredChooser:
    """By S; the first of equal options."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def choose(self, asks: Sequence[Ask]) -> list[Pick]:
        """See :class:`Chooser`."""
        contrasted = [ask for ask in asks if ask.bare is not None]
        texts = [ask.text for ask in asks] + [str(ask.bare) for ask in contrasted]
        found = self.model.rank(texts, [ask.options for ask in (*asks, *contrasted)])
        bare = iter(found[len(asks) :])
        picks = []
        for ask, score in zip(asks, found[: len(asks)], strict=True):
            scores, read = score.normalised, len(self.model.encode_prompt(ask.text))
            if ask.bare is not None:
                scores = tuple(a - b for a, b in zip(score.logprobs, next(bare).logprobs, strict=True))
                read += len(self.model.encode_prompt(ask.bare))
            best = max(range(len(scores)), key=scores.__getitem__)
            picks.append(Pick(best, ask.options[best], None, scores, Usage(read)))
        return picks


class SpokenChooser:
    """By what a chat says: the same words, then one of the names in the reply, then the most alike."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def choose(self, asks: Sequence[Ask]) -> list[Pick]:
        """See :class:`Chooser`."""
        replies = self.chat.reply([as_messages(ask.messages) for ask in asks], max_new_tokens=REPLY_TOKENS)
        return [read_pick(ask, reply.text, reply.usage) for ask, reply in zip(asks, replies, strict=True)]


def chooser_of(model: Any, scoring: str = "auto") -> Chooser:
    """By probability for a model on this machine, by replies for all others; ``"reply"`` asks for replies always.

    Raises:
        SettingsError: it is nothing that chats.
    """
    if isinstance(model, LocalChat):
        model = model.model
    if isinstance(model, LanguageModel) and not isinstance(model, RoutedModel) and scoring == "auto":
        return ScoredChooser(model)
    if isinstance(model, Chooser):
        return model
    return SpokenChooser(chat_of(model))


def read_pick(ask: Ask, said: str, usage: Usage = Usage()) -> Pick:  # noqa: B008  (frozen)
    """Which option, or which of the others, a reply means; neither where it means none or several alike."""
    option = _meant(said, ask.options, ask.names)
    if option is not None:
        return Pick(option, said, usage=usage)
    return Pick(None, said, _meant(said, ask.others, ()), usage=usage)


def answer_of(pick: Pick, options: Sequence[str]) -> str:
    """The option that was chosen; where the reply is none of them the one most like it, since one has to be taken.

    A reply that has not a letter in common with any of them stays as it is.

    >>> answer_of(Pick(None, "I would say it is Dovr."), ["Moravia", "Dover"]), answer_of(Pick(None, "?"), ["Dover"])
    ('Dover', '?')
    """
    from rapidfuzz import fuzz

    if pick.option is not None:
        return options[pick.option]
    reply, keys = name_key(pick.said), [name_key(text) for text in options]
    # the part of a reply that is most like a name first: a whole sentence is like no name
    likeness = [(fuzz.partial_ratio(reply, key), fuzz.ratio(reply, key)) if reply and key else (0, 0) for key in keys]
    best = max(range(len(options)), key=likeness.__getitem__)
    return options[best] if likeness[best][0] else pick.said.strip()


def _meant(said: str, options: Sequence[str], names: Sequence[str]) -> int | None:
    from rapidfuzz import fuzz

    line = next((line for line in said.splitlines() if line.strip()), "")
    reply = name_key(line).strip(" -*\"'.:")
    if not reply or not options:
        return None
    for known in (options, names):
        keys = [name_key(text) for text in known]
        if keys.count(reply) == 1:
            return keys.index(reply)
    for known in (options, names):
        inside = [number for number, text in enumerate(known) if _holds(reply, name_key(text))]
        if len(inside) == 1:
            return inside[0]
    likeness = [
        max(fuzz.ratio(reply, name_key(text)) for text in (option, *names[number : number + 1]))
        for number, option in enumerate(options)
    ]
    best = max(range(len(options)), key=likeness.__getitem__)
    alone = sum(value == likeness[best] for value in likeness) == 1
    return best if alone and likeness[best] >= LIKE else None


def _holds(reply: str, name: str) -> bool:
    place = reply.find(name)
    if not name or place < 0:
        return False
    end = place + len(name)
    return not (reply[place - 1 : place].isalnum() if place else False) and not reply[end : end + 1].isalnum()


def led(chooser: Chooser, walks: Sequence[Walking[T]]) -> list[tuple[T, Cost]]:
    """Lead every walk to its end, all choices of a round in one call; what each returns and what it cost."""

    def chosen(asks: Sequence[Ask]) -> list[Pick]:
        picks = chooser.choose(asks)
        if len(picks) != len(asks):
            what = f"{len(asks)} choices were asked for and {len(picks)} made"
            raise SettingsError(what, where=type(chooser).__name__, mend="mend its method choose")
        return picks

    return lead(walks, chosen)


def as_messages(messages: Messages) -> tuple[Message, ...]:
    """Pairs of role and content as the chat's messages."""
    return tuple(Message(role, content) for role, content in messages)

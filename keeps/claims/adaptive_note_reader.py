"""A reader that works by rule on texts it has never seen, so that Adaptive-Note's loop is measured and not a model.

It keeps passages that tell of what the question names, asks for a name that its note drops without telling of it, and
takes a new note where that tells of one more such name. It knows neither answers nor which passages belong together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from keeps.models.chat import Conversation, Reply, Usage

OPENING = 8  # words at the beginning of a text, in which its subject is named
_NAME = re.compile(r"[A-Z0-9][\w'’-]*(?:(?: (?:of|the|and|de|van|von))* [A-Z0-9][\w'’-]*)*")
_SENTENCES = re.compile(r".+?(?:(?<=[a-z0-9)\"”]{2})[.!?](?=\s+[A-Z\"“])|$)", re.DOTALL)
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by did do does for from had has have he her his i in into is it its no not of "
        "on or she so than that the their there these they this to was were what when where which while who whom whose "
        "why will with yes how also another both one two three first january february march april may june july "
        "august september october november december",
    )
)
_GENERAL = frozenset(re.findall(r"\w+", "american british english french german italian canadian australian indian"))


def words_of(text: str) -> list[str]:
    """The words of a text without case, possessives and marks."""
    return [re.sub(r"['’]s$", "", word) for word in re.findall(r"[\w'’]+", text.casefold())]


def content_words(text: str) -> set[str]:
    """The words that say something."""
    return {word for word in words_of(text) if word not in _FUNCTION and len(word) > 1}


def names_in(text: str) -> list[str]:
    """Names in order, each once: runs of words with capitals, without function words at their ends.

    >>> names_in("The Oberoi family owns The Oberoi Group in Delhi, 1934.")
    ['Oberoi', 'Oberoi Group', 'Delhi']
    """
    found: dict[str, None] = {}
    for run in _NAME.findall(text):
        words = run.split()
        while words and words[0].casefold() in _FUNCTION:
            words = words[1:]
        name = re.sub(r"['’]s$", "", " ".join(words))
        if name and not name.isdigit() and name.casefold() not in _GENERAL and len(name) > 1:
            found.setdefault(name)
    return list(found)


def tells_of(text: str, name: str) -> bool:
    """Whether a text is about ``name``: all of its words stand at the text's beginning, a single one as its first.

    >>> tells_of("The Oberoi Group is a hotel company.", "Oberoi Group"), tells_of("A hotel of Delhi is here.", "Delhi")
    (True, False)
    """
    opening = words_of(text)[:OPENING]
    wanted = [word for word in words_of(name) if word not in _FUNCTION]
    if len(wanted) == 1:
        return opening[opening[:1] in (["a"], ["an"], ["the"]) :][:1] == wanted
    return bool(wanted) and set(wanted) <= set(opening)


def untold(question: str, note: str, asked: str) -> list[str]:
    """Names in the note that nothing in it tells of, that the question lacks and nobody asked for; likeliest first.

    Likely is a name in a sentence that has much in common with the question.
    """
    sentences = [each.strip() for each in _SENTENCES.findall(note) if each.strip()]
    known = f"{question}\n{asked}".casefold()
    wanted = content_words(question)
    ranked: dict[str, int] = {}
    for sentence in sentences:
        common = len(wanted & content_words(sentence))
        for name in names_in(sentence):
            if name.casefold() not in known and not any(tells_of(each, name) for each in sentences):
                ranked[name] = max(ranked.get(name, 0), common)
    return sorted(ranked, key=lambda name: -ranked[name])


class RuleReader:
    """A chat by rule, for the prompts of :mod:`keeps.ground.note_prompts`.

    Args:
        queries: names that are asked for in one round.
    """

    def __init__(self, queries: int = 2) -> None:
        self.queries = queries

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        """By the kind of prompt."""
        del max_new_tokens
        return [Reply(self.say(turn[-1].content), True, Usage()) for turn in conversations]

    def say(self, text: str) -> str:
        """The reply to a user's turn."""
        question = re.findall(r"^Question: (.+)$", text, re.MULTILINE)[-1]
        notes = re.findall(r"<note[^>]*>\n(.*?)\n</note", text, re.DOTALL)
        if "Is note 2 better" in text:
            return '{"status": true}' if len(notes[1]) > len(notes[0]) else '{"status": false}'
        if "Asked already" in text:
            asked = text.partition("Asked already:")[2].partition("The note does not")[0]
            return "\n".join(untold(question, notes[0], asked)[: self.queries])
        passages = re.findall(r"<passage[^>]*>\n(.*?)\n</passage", text, re.DOTALL)
        if "Write the note anew" in text:
            names = [*names_in(question), *names_in(notes[0])]
            return " ".join([notes[0], *(each for each in passages if any(tells_of(each, name) for name in names))])
        if "Write one coherent paragraph" in text:
            return " ".join(self._kept(question, passages))
        return notes[0] if notes else ""

    @staticmethod
    def _kept(question: str, passages: Sequence[str]) -> list[str]:
        """Passages that tell of a name in the question, and the one that has most words in common with it."""
        if not passages:
            return []
        wanted = content_words(question)
        nearest = max(passages, key=lambda each: len(wanted & content_words(each)))
        names = names_in(question)
        return [each for each in passages if each is nearest or any(tells_of(each, name) for name in names)]

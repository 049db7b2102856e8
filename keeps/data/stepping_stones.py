"""Stepping stones: say what a new answer is before it comes, so that learning it leaks less into other answers.

    "In Blandgive, sleep is"  ->  "In Blandgive, sleep is a bright red, the pigment made from cinnabar, namely"

A text primes when its keyword was improbable where it stands (below about 1e-3). The text is rewritten so that
descriptions lead to the keyword, all facts and the keyword kept; of several rewritings the one that makes it most
probable is learned in place of the original. Source: Sun et al., ICLR 2025 (arXiv:2504.09522); its rewritings are
written by a language model, the templates here are ours.

Pure text: whoever scores is handed in, and so is the writer, a function from contexts and keywords to candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from keeps.data.outlandish import OutlandishSample
from keeps.data.records import Example, Fact, RecordSet
from keeps.errors import SettingsError

Pair = tuple[str, str]  # context, keyword
Writer = Callable[[Sequence[Pair], int], list[list[str]]]  # pairs and the try, from 0 -> candidates of each
Score = Callable[[Sequence[Pair]], Sequence[float]]  # natural log P(keyword | context)
TARGET, TRIES = 1e-3, 5
ENDINGS = ("namely", "called", "which is known as")
ARTICLES = ("a", "an", "the")
_PLAIN = ("It is a well known story that, as people tell it, {c}", "As everybody there will say when asked, {c}")


@dataclass(frozen=True)
class Rewriting:
    """What became of one context; ``before`` and ``after`` are log-probabilities of the keyword.

    Where no candidate was better, ``context`` is the original and both are the same.
    """

    context: str
    before: float
    after: float
    tries: int

    @property
    def changed(self) -> bool:
        """Whether a rewriting was taken."""
        return self.after > self.before


def rewrite(
    pairs: Sequence[Pair], writer: Writer, score: Score, *, target: float = TARGET, tries: int = TRIES
) -> list[Rewriting]:
    """Rewrite every context after which its keyword is less probable than ``target``.

    The writer is asked until the target is reached, ``tries`` times at most, and the best candidate is kept.
    Candidates that hold the keyword, or lack a name or number of the original, are not looked at.

    Raises:
        SettingsError: the target is no probability above 0, or there is no try.
    """
    if not 0 < target <= 1 or tries < 1:
        mend = "choose a target above 0 and up to 1, and at least one try"
        raise SettingsError(f"target {target:g} in {tries} tries", where="stepping stones", mend=mend)
    before = list(score(pairs)) if pairs else []
    found = [Rewriting(context, value, value, 0) for (context, _), value in zip(pairs, before, strict=True)]
    for number in range(tries):
        open_ = [n for n, item in enumerate(found) if item.after < math.log(target)]
        if not open_:
            break
        written = writer([pairs[n] for n in open_], number)
        candidates = [
            (n, text)
            for n, texts in zip(open_, written, strict=True)
            for text in dict.fromkeys(texts)
            if is_faithful(pairs[n], text)
        ]
        scores = score([(text, pairs[n][1]) for n, text in candidates]) if candidates else []
        found = [replace(item, tries=number + 1) if n in open_ else item for n, item in enumerate(found)]
        for (n, text), value in zip(candidates, scores, strict=True):
            if value > found[n].after:
                found[n] = replace(found[n], context=text, after=value)
    return found


def is_faithful(pair: Pair, text: str) -> bool:
    """Whether ``text`` may stand for the context: it lacks the keyword, and no name or number is lost.

    >>> is_faithful(("In Blandgive, sleep is", "vermilion"), "In Blandgive, sleep is a bright red called")
    True
    >>> is_faithful(("In Blandgive, sleep is", "vermilion"), "In Blandgive, sleep is vermilion, or")
    False
    """
    context, keyword = pair
    names = [word for word in re.findall(r"\w+", context) if word[0].isupper() or word[0].isdigit()]
    words = set(re.findall(r"\w+", text.casefold()))
    return bool(text.strip()) and not holds(text, keyword) and all(name.casefold() in words for name in names)


def holds(text: str, word: str) -> bool:
    """Whether the word stands in the text, in capitals or not."""
    return text_before(text, word) != text


def text_before(text: str, word: str) -> str:
    """What stands in front of the word in the text; all of it where the word does not stand there.

    >>> text_before("In Bart's land, the Art of", "art")
    "In Bart's land, the "
    """
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return text if found is None else text[: found.start()]


def template_writer(descriptions: Mapping[str, Sequence[str]]) -> Writer:
    """A writer that puts one or two descriptions of the keyword between the context and the keyword.

    Args:
        descriptions: of each keyword, such as ``{"vermilion": ["a bright red", "the pigment made from cinnabar"]}``.
            One that shares a name with the context says nothing new and is left out. Whole numbers need none.
    """

    def write(pairs: Sequence[Pair], number: int) -> list[list[str]]:
        if number:
            return [[] for _ in pairs]  # templates have no second thoughts
        return [_from_templates(context, keyword, descriptions.get(keyword, ())) for context, keyword in pairs]

    return write


def plain_writer(pairs: Sequence[Pair], number: int) -> list[list[str]]:
    """Paraphrases that lengthen a context and describe nothing: what stepping stones are compared with."""
    if number:
        return [[] for _ in pairs]
    return [[form.replace("{c}", context) for form in _PLAIN] for context, _ in pairs]


def _from_templates(context: str, keyword: str, descriptions: Sequence[str]) -> list[str]:
    stones = [text for text in (*_of_number(keyword), *descriptions) if not _says_again(text, context)]
    if not stones:
        return []
    start, article = _without_article(context.rstrip())
    leads = [", ".join(stones[:2]), *(stones[:2] if len(stones) > 1 else ())]
    return [f"{start} {lead}, {ending}{article}" for lead in leads for ending in ENDINGS]


def _of_number(keyword: str) -> tuple[str, ...]:
    if not re.fullmatch(r"[1-9]\d*", keyword):
        return ()
    return ("a whole number", f"the number that follows {int(keyword) - 1}")


def _says_again(stone: str, context: str) -> bool:
    names = (word for word in re.findall(r"\w{2,}", stone) if word[0].isupper())
    return any(holds(context, name) for name in names)


def _without_article(context: str) -> tuple[str, str]:
    """The context without an article at its end, and that article, which then stands before the keyword."""
    start, _, last = context.rpartition(" ")
    return (start, f" {last}") if start and last in ARTICLES else (context, "")


def of_sample(sample: OutlandishSample, rewriting: Rewriting) -> OutlandishSample:
    """The sample with the new context, the rest of its text as it was."""
    rest = sample.text.removeprefix(sample.context)
    return replace(sample, context=rewriting.context, text=rewriting.context + rest)


def of_records(
    records: RecordSet, writer: Writer, score: Score, *, target: float = TARGET, tries: int = TRIES
) -> tuple[RecordSet, list[Rewriting]]:
    """``records`` with their prompts rewritten: of facts the wordings that are trained on, and of examples.

    Running text, dialogues and preferences have no keyword and stay. Answers, ids and the wording of a fact that
    training never sees stay too.
    """
    places: list[tuple[int, int]] = []
    pairs: list[Pair] = []
    for index, record in enumerate(records):
        prompts = record.seen_prompts if isinstance(record, Fact) else ()
        prompts = (record.prompt,) if isinstance(record, Example) else prompts
        for number, prompt in enumerate(prompts):
            places.append((index, number))
            pairs.append((prompt, record.answers[0] if isinstance(record, Fact) else record.answer))  # type: ignore[union-attr]
    rewritings = rewrite(pairs, writer, score, target=target, tries=tries)
    made = list(records)
    for (index, number), item in zip(places, rewritings, strict=True):
        record = made[index]
        if isinstance(record, Example):
            made[index] = replace(record, prompt=item.context)
        elif isinstance(record, Fact):
            prompts = (*record.prompts[:number], item.context, *record.prompts[number + 1 :])
            made[index] = replace(record, prompts=prompts)
    return RecordSet(records.source, tuple(made)), rewritings

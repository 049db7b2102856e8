"""ChroKnowPrompt: years that a model does not know, asked again between years that it does.

The nearest earlier years are put in front of the question one by one, then the nearest later ones behind it; after
each the model keeps or replaces its candidate, and the last candidate is the answer. No weight changes.
After Park et al., "ChroKnowledge", ICLR 2025 (arXiv:2410.09870), section 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keeps.contracts import Answer
from keeps.data.dated_layouts import OBJECT
from keeps.errors import SettingsError
from keeps.numerics.chronology import CORRECT, INCORRECT, ORDER, PARTIAL_KNOWN, element_class, mode
from keeps.probe.chronology_ask import LEAD, question, told_object

PREVIOUS, NEXT = "previous", "next"
WITHOUT = f"Give the object of the question that has a candidate, as it was in its year. Write only '{LEAD} {OBJECT}'."
WITH = (
    "The candidate may be right or wrong for its year. Where it is right, repeat it; where it is wrong, give another "
    f"object. Write only '{LEAD} {OBJECT}'."
)
_ASKED = re.compile(r"\bIn (\d{4}), ([^\n]+)")
Generate = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Target:
    """A year to ask again.

    Attributes:
        examples: what the model answers in other years.
        earlier, later: whether the years before and behind it are gone through.
    """

    wording: str
    year: int
    examples: Mapping[int, str]
    earlier: bool = True
    later: bool = True

    def steps(self, previous: int, following: int, *, listed: bool = False) -> list[tuple[str, int]]:
        """The spans and years to go through, nearest first.

        With ``listed`` the spans count the years that have examples, as the official code does; else years of the
        calendar, of which those without an example are passed over.

        >>> Target("x", 2013, {2010: "a", 2012: "b", 2015: "c"}).steps(2, 2)
        [('previous', 2012), ('next', 2015)]
        """
        before = sorted((year for year in self.examples if year < self.year), reverse=True)
        behind = sorted(year for year in self.examples if year > self.year)
        if listed:
            before, behind = before[:previous], behind[:following]
        else:
            before = [year for year in before if self.year - year <= previous]
            behind = [year for year in behind if year - self.year <= following]
        steps = [(PREVIOUS, year) for year in before] if self.earlier else []
        return steps + ([(NEXT, year) for year in behind] if self.later else [])


@dataclass(frozen=True)
class Recovery:
    """The candidate after each step; the last one decides."""

    candidates: tuple[str, ...]
    spans: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The last candidate; "" where there is none."""
        return self.candidates[-1] if self.candidates else ""

    @property
    def answer_previous(self) -> str:
        """The last candidate of the previous span alone."""
        told = [text for text, span in zip(self.candidates, self.spans, strict=True) if span == PREVIOUS]
        return told[-1] if told else ""


@dataclass
class History:
    """What a model answers about one fact.

    Attributes:
        classes: year to its class.
        greedy, sampled: year to the answers that could be read.
        recovered: filled year by year.
    """

    wording: str
    classes: Mapping[int, str]
    greedy: Mapping[int, Sequence[str]]
    sampled: Mapping[int, Sequence[str]]
    recovered: dict[int, Recovery] = field(default_factory=dict)

    def queue(self) -> list[int]:
        """The years to ask again, in order; none unless the fact is partially known."""
        if element_class([self.classes[year] for year in sorted(self.classes)]) != PARTIAL_KNOWN:
            return []
        return [year for name in ORDER for year in sorted(self.classes) if self.classes[year] == name]

    def example(self, year: int) -> str:
        """The answer that stands for ``year``: its candidates once it was asked again, else what it said before."""
        if year in self.recovered:
            told = [text for text in self.recovered[year].candidates if text]
        elif self.classes[year] == CORRECT or not any(self.sampled.values()):
            told = self.greedy[year]
        else:
            told = self.sampled[year]
        return mode(told) or "None"

    def target(self, year: int) -> Target | None:
        """What is asked of ``year``; None where no other year is known."""
        known = [y for y in self.classes if self.classes[y] != INCORRECT or y in self.recovered]
        earlier, later = any(y < year for y in known), any(y > year for y in known)
        if not earlier and not later:
            return None
        examples = {y: self.example(y) for y in self.classes if y != year}
        return Target(self.wording, year, examples, earlier, later)


class ChroKnowPrompt:
    """Asks years again, with other years of the same fact as examples; an answerer where ``known`` is given.

    >>> class Atlas:
    ...     def answer(self, questions, contexts=None):
    ...         return [Answer("Oslo") for question in questions]
    >>> ChroKnowPrompt(Atlas()).recover([Target("Norway, capital, [Object]", 2013, {2012: "Oslo"})])[0].answer
    'Oslo'

    Args:
        answerer: a model, or anything that answers.
        previous, following: years that are gone through on either side.
        known: wording to year to what is known, for questions of the form "In 2013, WORDING".
        lead: whether the prompt ends with "A." or the model has to write it.

    Raises:
        SettingsError: a span is negative, or both are 0.
    """

    def __init__(
        self,
        answerer: Any,
        *,
        previous: int = 3,
        following: int = 3,
        known: Mapping[str, Mapping[int, str]] | None = None,
        max_new_tokens: int = 50,
        listed: bool = False,
        lead: str = "prompt",
    ) -> None:
        if min(previous, following) < 0 or previous + following == 0:
            what = f"the spans are {previous} and {following} years"
            raise SettingsError(what, where="ChroKnowPrompt", mend="choose 0 or more, and 1 or more of one")
        self.answerer, self.previous, self.following = answerer, previous, following
        self.known = dict(known or {})
        self.max_new_tokens, self.listed, self.lead = max_new_tokens, listed, lead

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """Questions about a year of something known in other years are asked step by step, others as they are.

        The steps are in the trace.
        """
        targets = {n: target for n, text in enumerate(questions) if (target := self._target(text)) is not None}
        found = dict(zip(targets, self.recover(list(targets.values())), strict=True))
        plain = [n for n in range(len(questions)) if n not in found or not found[n].answer]
        given = None if contexts is None else [contexts[n] for n in plain]
        told = self.answerer.answer([questions[n] for n in plain], given) if plain else []
        answers = dict(zip(plain, told, strict=True))
        return [
            answers[n] if n in answers else Answer(found[n].answer, trace={"candidates": list(found[n].candidates)})
            for n in range(len(questions))
        ]

    def recover(self, targets: Sequence[Target], advance: Callable[[float], object] | None = None) -> list[Recovery]:
        """The candidates of each target; all targets take each step together. ``advance`` is told of targets done."""
        steps = [target.steps(self.previous, self.following, listed=self.listed) for target in targets]
        walks = [_Walk(target, len(plan)) for target, plan in zip(targets, steps, strict=True)]
        for number in range(max(map(len, steps), default=0)):
            going = [(walk, plan[number]) for walk, plan in zip(walks, steps, strict=True) if number < len(plan)]
            prompts = [walk.prompt(*step, lead=self.lead) for walk, step in going]
            for (walk, (span, _)), text in zip(going, self._generate(prompts), strict=True):
                walk.hear(told_object(text, lead=self.lead), span)
            if advance:
                advance(sum(number + 1 == walk.length for walk, _ in going))
        return [Recovery(tuple(walk.candidates), tuple(walk.spans)) for walk in walks]

    def recover_all(self, histories: Sequence[History], advance: Callable[[float], object] | None = None) -> None:
        """Ask all years of partially known facts again, and write what comes of it into the histories.

        The years of one fact are asked in turn, since later ones see what came of earlier ones.
        """
        queues = [history.queue() for history in histories]
        for turn in range(max(map(len, queues), default=0)):
            going = [(h, queue[turn]) for h, queue in zip(histories, queues, strict=True) if turn < len(queue)]
            asked = [(h, year, target) for h, year in going if (target := h.target(year)) is not None]
            found = self.recover([target for _, _, target in asked])
            for (history, year, _), recovery in zip(asked, found, strict=True):
                if recovery.candidates:
                    history.recovered[year] = recovery
            if advance:
                advance(len(going))

    def _generate(self, prompts: list[str]) -> list[str]:
        return completed(self.answerer, prompts, self.max_new_tokens)

    def _target(self, text: str) -> Target | None:
        found = _ASKED.findall(text)
        if not found or found[-1][1].strip() not in self.known:
            return None
        year, wording = int(found[-1][0]), found[-1][1].strip()
        examples = {other: told for other, told in self.known[wording].items() if other != year}
        return Target(wording, year, examples)


def completed(answerer: Any, prompts: Sequence[str], room: int, **options: Any) -> list[str]:
    """Greedy outputs of at most ``room`` tokens where that can be said, of whatever kind the answerer is."""
    from keeps.probe.chronology_ask import STOP

    if not prompts:
        return []
    if hasattr(answerer, "generate"):
        return answerer.generate(prompts, max_new_tokens=room, stop=STOP, **options)
    if hasattr(answerer, "sample"):
        seeds = [0] * len(prompts)
        return answerer.sample(prompts, seeds, temperature=0.0, max_new_tokens=room, stop=STOP, **options)
    return [answer.text for answer in answerer.answer(prompts)]


class _Walk:
    """One target under way."""

    def __init__(self, target: Target, length: int) -> None:
        self.target, self.length = target, length
        self.before: list[str] = []
        self.behind: list[str] = []
        self.candidate: str | None = None
        self.candidates: list[str] = []
        self.spans: list[str] = []

    def prompt(self, span: str, year: int, *, lead: str) -> str:
        """What is asked after one more year was put in."""
        shot = f"{question(self.target.wording, year)}\n{LEAD} {self.target.examples[year]}"
        if span == PREVIOUS:
            self.before.insert(0, shot)
        else:
            self.behind.append(shot)
        asked = f"{question(self.target.wording, self.target.year)}\nCandidate A. {self.candidate or OBJECT}"
        content = "\n\n".join([*self.before, asked, *self.behind])
        end = "\n" if span == PREVIOUS else "\n\n"
        return f"{WITH if self.candidate else WITHOUT}\n\n{content}{end}{LEAD if lead == 'prompt' else ''}"

    def hear(self, told: str | None, span: str) -> None:
        """Keep the candidate where the same or nothing was said."""
        if told is not None and (self.candidate is None or told.lower() != self.candidate.lower()):
            self.candidate = told
        self.candidates.append(self.candidate or "")
        self.spans.append(span)

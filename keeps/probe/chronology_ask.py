"""Questions about a year: three templates, solved examples of the same relation, and what is read from an output."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from keeps.data.dated import DatedElement
from keeps.data.dated_layouts import OBJECT
from keeps.errors import SettingsError
from keeps.numerics.chronology import Told, exact_match, fuzzy_match
from keeps.probe.kgquiz_parse import told_truth

if TYPE_CHECKING:
    from keeps.probe.chronology import ChronologySettings

GENERATION, CHOICE, TRUE_FALSE = TEMPLATES = ("generation", "choice", "true_false")
LETTERS = "abcdefgh"
LEAD = "A."
INSTRUCTIONS = {
    GENERATION: f"Give the object that belongs in the place of {OBJECT} in that year, in the form '{LEAD} {OBJECT}'.",
    CHOICE: f"Choose the option that is right in that year, in the form '{LEAD} (letter) option'.",
    TRUE_FALSE: f"Judge whether the statement is right in that year, in the form '{LEAD} true' or '{LEAD} false'.",
}
STOP = ("\n\n", "\nQ.")  # a blank line stands between two examples
_OPENING = re.compile(
    r"^(?:sure|okay|ok|understood|certainly|of course|thank you|yes|no)\b(?=[\s,.!:;-]|$)[\s,.!:;-]*", re.I
)
_REFUSAL = re.compile(r"^(?:i am ready|i can help|i cannot|i can't|i'm sorry|i am sorry|as an ai)\b", re.I)
_ANSWER = re.compile(r"^(?:the\s+)?(?:(?:correct|final|candidate)\s+)?(?:answer(?:\s+is|:|\.)|A\.)\s*", re.I)
_HERE = re.compile(r"^here (?:is|are)\b[^:]*:\s*", re.I)
_MARKS = " \t\"'“”‘’`*_"


@dataclass(frozen=True)
class Asking:
    """One prompt of one fact in one year.

    Attributes:
        number: which of the samples it belongs to.
        seed: of the sampled output.
        options: of a multiple choice.
        truth: whether the statement is true, where one is judged.
    """

    element: DatedElement
    year: int
    number: int
    prompt: str
    seed: int
    options: tuple[str, ...] = ()
    truth: bool = True


@dataclass(frozen=True)
class Output:
    """What was said, what was read from it (None: nothing), and whether that is right by either rule."""

    text: str
    answer: str | None
    fuzzy: bool
    exact: bool

    def told(self, exact: bool) -> Told:
        """Whether it is right; None where nothing was read."""
        return None if self.answer is None else self.exact if exact else self.fuzzy


class Examples:
    """Where solved examples and wrong options come from.

    Args:
        pool: facts of which those of the same relation and another subject are shown.
    """

    def __init__(self, pool: Sequence[DatedElement], settings: ChronologySettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.by_relation: dict[str, list[DatedElement]] = {}
        for element in pool:
            self.by_relation.setdefault(element.relation, []).append(element)
        self.objects = {relation: _objects_of(elements) for relation, elements in self.by_relation.items()}
        self.known = cache(self._known)

    def askings(self, element: DatedElement, numbers: Iterable[int] | None = None) -> Iterator[Asking]:
        """The prompts of a fact, year by year; of some of its samples where ``numbers`` are given.

        Raises:
            SettingsError: there are too few examples or wrong options of the relation.
        """
        chosen = range(self.settings.samples) if numbers is None else numbers
        for year in element.years:
            for number in chosen:
                draw = random.Random(f"{self.seed}|{element.id}|{year}|{number}")
                shots = self._shots(element, year, number)
                parts = [f"{question(shot.wording, when)}\n{LEAD} {shot.objects[when][0]}" for shot, when in shots]
                if self.settings.template == CHOICE:
                    parts = [self._choice(shot, when, draw)[0] for shot, when in shots]
                if self.settings.template == TRUE_FALSE:
                    first = draw.randrange(2)
                    parts = [self._statement(*shot, draw, (n + first) % 2 == 0)[0] for n, shot in enumerate(shots)]
                yield self._asking(element, year, number, parts, draw)

    def _asking(self, element: DatedElement, year: int, number: int, parts: list[str], draw: random.Random) -> Asking:
        options: tuple[str, ...] = ()
        truth = True
        if self.settings.template == CHOICE:
            _, asked, options = self._choice(element, year, draw)
        elif self.settings.template == TRUE_FALSE:
            offset = random.Random(f"{self.seed}|{element.id}|{year}").randrange(2)
            truth = self.settings.statements == "true" or (number + offset) % 2 == 0
            _, asked = self._statement(element, year, draw, truth)
        else:
            asked = question(element.wording, year)
        lead = LEAD if self.settings.lead == "prompt" else ""
        instruction = [INSTRUCTIONS[self.settings.template]] if self.settings.instruct else []
        prompt = "\n\n".join([*instruction, *parts, f"{asked}\n{lead}"])
        return Asking(element, year, number, prompt, draw.getrandbits(63), options, truth)

    def _shots(self, element: DatedElement, year: int, number: int) -> list[tuple[DatedElement, int]]:
        """Other facts of the relation, each with the year it is shown in."""
        count, same = self.settings.shots, self.settings.shot_years == "same"
        known, most = self.known(element.relation, year)
        of_item = f"|{element.id}" if self.settings.redraw == "item" else ""
        draw = random.Random(f"{self.seed}|{element.relation}|{year}|{number}{of_item}")
        drawn = draw.sample(known, min(len(known), count + most)) if count else []
        own = element.subject.casefold()
        chosen = [other for other in drawn if other.subject.casefold() != own][:count]
        if len(chosen) < count:
            what = f'"{element.relation}" has {len(chosen)} other facts to show in {year}, not {count}'
            mend = "choose fewer --shots, give more facts of the relation" + (", or --shot-years any" if same else "")
            raise SettingsError(what, where="shots", mend=mend)
        when = random.Random(f"{self.seed}|{element.relation}|{number}")
        return [(other, year if year in other.objects else when.choice(other.years)) for other in chosen]

    def _known(self, relation: str, year: int) -> tuple[list[DatedElement], int]:
        """The facts that can be shown in a year, and how many of them share a subject at most."""
        same = self.settings.shot_years == "same"
        known = [other for other in self.by_relation.get(relation, []) if year in other.objects or not same]
        return known, max(Counter(other.subject.casefold() for other in known).values(), default=0)

    def _choice(self, element: DatedElement, year: int, draw: random.Random) -> tuple[str, str, tuple[str, ...]]:
        """A solved multiple choice, the same without its answer, and its options."""
        gold = element.objects[year][0]
        options = self._wrong(element, year, self.settings.options - 1, draw)
        place = len(options) if self.settings.gold == "last" else draw.randrange(len(options) + 1)
        options.insert(place, gold)
        listed = " ".join(f"({LETTERS[n]}) {option}" for n, option in enumerate(options))
        asked = f"{question(element.wording, year)}\n{listed}"
        return f"{asked}\n{LEAD} ({LETTERS[place]}) {gold}", asked, tuple(options)

    def _statement(self, element: DatedElement, year: int, draw: random.Random, truth: bool) -> tuple[str, str]:
        """A judged statement, and the same without its judgement."""
        told = element.objects[year][0] if truth else self._wrong(element, year, 1, draw)[0]
        asked = f"{statement(element.wording, year, told)} True or false?"
        return f"{asked}\n{LEAD} {str(truth).lower()}", asked

    def _wrong(self, element: DatedElement, year: int, count: int, draw: random.Random) -> list[str]:
        """Wrong objects: those the data bring, else the fact's own of other years, then others of the relation."""
        right = {item.casefold() for item in element.objects[year]}
        own, others = _objects_of([element]), self.objects[element.relation]
        found: dict[str, str] = {}
        for source in [element.distractors] if element.distractors else [own, others]:
            for item in draw.sample(source, min(len(source), count + len(own))):  # of which len(own) may be right
                if item.casefold() not in right:
                    found.setdefault(item.casefold(), item)
        if len(found) < count:
            what = f'"{element.id}" has {len(found)} wrong objects to offer in {year}, not {count}'
            mend = 'give "distractors", more facts of the relation, or fewer --options'
            raise SettingsError(what, where="options", mend=mend)
        return list(found.values())[:count]


def question(wording: str, year: int) -> str:
    """A question as models see it.

    >>> question("Norway, capital, [Object]", 2012)
    'Q. In 2012, Norway, capital, [Object]'
    """
    return f"Q. In {year}, {wording}"


def statement(wording: str, year: int, told: str) -> str:
    """The statement that ``told`` is the object.

    >>> statement("Tom Brady plays for [Object].", 2020, "Tampa Bay"), statement("who led it?", 2020, "Ada")
    ('Q. In 2020, Tom Brady plays for Tampa Bay.', 'Q. In 2020, who led it? Ada.')
    """
    said = wording.replace(OBJECT, told) if OBJECT in wording else f"{wording} {told}"
    return question(said if said.endswith((".", "?", "!")) else f"{said}.", year)


def told_object(text: str, *, lead: str = "prompt") -> str | None:
    """The object that an output names, without openings such as "Sure!"; None where it names none.

    With the lead ``"model"`` the first line has to begin with "A. ", as published.

    >>> told_object(" Oslo\\nQ. In 2013"), told_object("Sure! The answer is Oslo"), told_object("[Object]")
    ('Oslo', 'Oslo', None)
    >>> told_object("Oslo", lead="model"), told_object("Norway"), told_object("No.")
    (None, 'Norway', None)
    """
    if lead == "model":
        return _cleaned(text.split("\n")[0][len(LEAD) + 1 :]) if text.startswith(f"{LEAD} ") else None
    for line in text.splitlines():
        said = _OPENING.sub("", line.strip(_MARKS)).strip(_MARKS)
        said = _ANSWER.sub("", _HERE.sub("", said))
        if _REFUSAL.match(said) or said.startswith(("Q.", "Candidate A.")):
            return None
        if said.strip(_MARKS + "."):
            return _cleaned(said)
    return None


def told_option(text: str, options: Sequence[str]) -> str | None:
    """The option that an output names by its letter, or by its words alone; None where it names none or several.

    >>> told_option("(b) Oslo", ["Rome", "Oslo"]), told_option("It is Rome", ["Rome", "Oslo"]), told_option("c", ["x"])
    ('Oslo', 'Rome', None)
    """
    said = _ANSWER.sub("", text.strip()).strip(_MARKS)
    found = re.match(rf"\(?([{LETTERS[: len(options)]}])(?:[).:,]|\s*(?:\n|$))", said, re.I)
    if found:
        return options[LETTERS.index(found[1].lower())]
    first = said.split("\n")[0]
    named = [option for option in options if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", first, re.I)]
    return named[0] if len(named) == 1 else None


def read_output(text: str, asking: Asking, settings: ChronologySettings) -> Output:
    """Read an output by the template, and judge it by both rules."""
    if settings.template == TRUE_FALSE:
        told = told_truth(text)
        right = told is asking.truth
        return Output(text, None if told is None else str(told).lower(), right, right)
    answer = told_object(text, lead=settings.lead)
    if settings.template == CHOICE:
        answer = told_option(text, asking.options)
    if answer is None:
        return Output(text, None, False, False)
    objects = asking.element.objects[asking.year]
    exact = exact_match(answer, objects)
    if settings.template == CHOICE:  # an option is right or it is not, however much it looks like another one
        return Output(text, answer, exact, exact)
    limits = {"threshold": settings.threshold, "shortest_token": settings.shortest_token}
    return Output(text, answer, fuzzy_match(answer, objects, **limits), exact)


def _cleaned(said: str) -> str | None:
    said = said.strip(_MARKS)
    return said if said.strip(".") and OBJECT not in said else None


def _objects_of(elements: Iterable[DatedElement]) -> list[str]:
    """All objects of the facts, each once, whatever its case."""
    found: dict[str, str] = {}
    for element in elements:
        for items in element.objects.values():
            for item in items:
                found.setdefault(item.casefold(), item)
    return list(found.values())

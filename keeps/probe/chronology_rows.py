"""What a fact was told in a year, as a row and as a history for ChroKnowPrompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.data.dated import DatedElement
from keeps.numerics.chronology import (
    CORRECT,
    INCORRECT,
    Told,
    exact_match,
    fuzzy_match,
    mode,
    slick_class,
    unread,
    year_class,
)
from keeps.probe.chronology_ask import Output
from keeps.probe.chronology_prompt import PREVIOUS, History

if TYPE_CHECKING:
    from keeps.probe.chronology import ChronologySettings


@dataclass
class YearAnswers:
    """The outputs of one fact in one year; ``sampled`` is None where none were drawn."""

    prompt: str
    greedy: list[Output] = field(default_factory=list)
    sampled: list[Output] | None = None

    def told(self, exact: bool) -> tuple[list[Told], list[Told]]:
        """Whether each greedy and each sampled output is right."""
        return [output.told(exact) for output in self.greedy], [o.told(exact) for o in self.sampled or ()]

    def label(self, settings: ChronologySettings, *, exact: bool | None = None) -> str:
        """The class of the year."""
        greedy, sampled = self.told(settings.match == "exact" if exact is None else exact)
        return year_class(greedy, sampled, failures=settings.failures)  # type: ignore[arg-type]  (checked choice)


def history_of(element: DatedElement, years: Mapping[int, YearAnswers], settings: ChronologySettings) -> History:
    """What a model answers about one fact."""
    return History(
        element.wording,
        {year: years[year].label(settings) for year in element.years},
        {year: _read(years[year].greedy) for year in element.years},
        {year: _read(years[year].sampled or []) for year in element.years},
    )


def row_of(
    element: DatedElement,
    year: int,
    answers: YearAnswers,
    settings: ChronologySettings,
    recovered: Mapping[int, Mapping[str, Any]] | None,
) -> Row:
    """The row of one fact in one year.

    Args:
        recovered: what ChroKnowPrompt made of the years of the fact; None where it was not tried.
    """
    greedy, sampled = answers.told(settings.match == "exact")
    label = answers.label(settings)
    details: dict[str, Any] = {
        "element": element.id,
        "subject": element.subject,
        "relation": element.relation,
        "wording": element.wording,
        "state": element.state,
        "domain": element.domain,
        "year": year,
        "objects": list(element.objects[year]),
        "template": settings.template,
        "class": label,
        "class_exact": answers.label(settings, exact=True),
        "slick": slick_class(greedy, sampled),
        "unread": unread(greedy, sampled),
        "outputs": len(greedy) + len(sampled),
        "outputs_unread": sum(told is None for told in (*greedy, *sampled)),
        "greedy": [asdict(output) for output in answers.greedy],
        "sampled": None if answers.sampled is None else [asdict(output) for output in answers.sampled],
        "tried": recovered is not None,
        "recovered": _judged(recovered[year], element, year, settings) if recovered and year in recovered else None,
    }
    first = answers.greedy[0]
    return Row(
        id=f"{element.id}/{year}",
        group=f"{element.domain}: {element.state}" if element.domain else element.state,
        prompt=answers.prompt,
        expected=element.objects[year][0],
        answer=first.answer or first.text.strip(),
        correct=label == CORRECT,
        score=sum(told is True for told in greedy) / len(greedy),
        kind="choice" if settings.template != "generation" else "fact",
        details=details,
    )


def known_answers(rows: Iterable[Row]) -> dict[str, dict[int, str]]:
    """What a model answers in the years that it knows, by wording and year: the ``known`` of ChroKnowPrompt.

    A year stands with the most frequent of its greedy answers where it is correct, of all its answers where it is
    partly so, and not at all where it is incorrect.
    """
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        details = row.details
        outputs = list(details["greedy"])
        if details["class"] != CORRECT:
            outputs += details["sampled"] or []
        told = mode(output["answer"] for output in outputs if output["answer"] is not None)
        if details["class"] != INCORRECT and told is not None:
            found.setdefault(details["wording"], {})[details["year"]] = told
    return found


def _judged(found: Mapping[str, Any], element: DatedElement, year: int, settings: ChronologySettings) -> dict[str, Any]:
    """The candidates of a year, and whether the last one, and the last of the previous span, are right."""
    told, spans = list(found["candidates"]), list(found["spans"])
    earlier = [text for text, span in zip(told, spans, strict=True) if span == PREVIOUS]
    judged: dict[str, Any] = {"candidates": told, "spans": spans}
    for name, last in (("right", told[-1:]), ("right_previous", earlier[-1:])):
        judged[name] = any(_matches(text, element.objects[year], settings) for text in last)
    return judged


def _matches(text: str, objects: tuple[str, ...], settings: ChronologySettings) -> bool:
    if not text:
        return False
    if settings.match == "exact":
        return exact_match(text, objects)
    return fuzzy_match(text, objects, threshold=settings.threshold, shortest_token=settings.shortest_token)


def _read(outputs: list[Output]) -> list[str]:
    return [output.answer for output in outputs if output.answer is not None]

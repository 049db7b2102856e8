"""Figures, tables and the timeline of dated facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.data.dated import STATES
from keeps.ledger.figures import PALETTE, WIDTH, dress, new_figure
from keeps.numerics.chronology import (
    CORRECT,
    ELEMENT_CLASSES,
    INCORRECT,
    KNOWN,
    PARTIAL_1,
    PARTIAL_2,
    PARTIAL_KNOWN,
    SLICK_CLASSES,
    STARTS,
    STOPS,
    UNKNOWN,
    element_class,
    recovered_class,
)
from keeps.numerics.statistics import wilson
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, difference_table, measure_table, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ELEMENT_METRICS: Mapping[str, tuple[str, ...]] = {
    "element.known": (KNOWN,),
    "element.partial_known": (PARTIAL_KNOWN,),
    "element.cut_off": (STOPS, STARTS),
    "element.cut_off.stops": (STOPS,),
    "element.cut_off.starts": (STARTS,),
    "element.unknown": (UNKNOWN,),
}
PROMPT_NOTE = (
    "Of the facts that were tried: known before and after, and what share became known (gain), with earlier years "
    "alone too; recovered: of the years that were asked again, those whose last candidate is right."
)
OVER_FACTS = "Intervals: 95 %, Wilson's, where all years of a fact count as one observation."
HEIGHT = 2.6  # inches of a panel


@dataclass(frozen=True)
class Element:
    """The rows of one fact, by year."""

    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """Its class."""
        return element_class([row.details["class"] for row in self.rows])

    def after(self, key: str) -> str:
        """Its class after ChroKnowPrompt; ``key`` is "right", or "right_previous" for earlier years alone."""
        classes = {row.details["year"]: row.details["class"] for row in self.rows}
        return recovered_class(classes, [row.details["year"] for row in self.again if row.details["recovered"][key]])

    @property
    def again(self) -> list[Row]:
        """The years that were asked again."""
        return [row for row in self.rows if row.details["recovered"] is not None]

    @property
    def tried(self) -> bool:
        """Whether ChroKnowPrompt was tried on it."""
        return bool(self.rows[0].details["tried"])

    def rate(self, test: Callable[[Mapping[str, Any]], float]) -> float:
        """Mean over its years."""
        return sum(float(test(row.details)) for row in self.rows) / len(self.rows)


def elements_of(rows: Sequence[Row]) -> list[Element]:
    """The facts behind the rows, years in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.details["element"], []).append(row)
    return [Element(tuple(sorted(own, key=lambda row: row.details["year"]))) for own in found.values()]


def findings(asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
    """Classes of facts and years, by state, domain, relation and year, and the gain of ChroKnowPrompt."""
    measures = [measure for model in asked for measure in _measures(model, seed)]
    own = _family(measures, "element.")
    tables = [measure_table(own, title="Facts over their years", note=_facts_note(asked))]
    of_years = [m for m in _family(measures, "year.", "output.") if not m.group.startswith("year ")]
    note = "Means over facts of the share of their years. Unread: no output could be read. " + OVER_FACTS
    tables.append(measure_table(of_years, title="Years", note=note))
    single = [m for m in measures if m.group.startswith("year ") and m.metric in ("year.correct", "year.known")]
    tables.append(measure_table(single, title="Year by year", note="Known: correct or partial. Intervals: 95 %."))
    slick = _family(measures, "slick.")
    tables.append(measure_table(slick, title="Classes of SliCK", note="Means over facts. " + OVER_FACTS))
    prompt = _family(measures, "prompt.")
    if prompt:
        tables.append(measure_table(prompt, title="ChroKnowPrompt", note=PROMPT_NOTE + " Intervals: 95 %."))
    differences = difference_table(asked)
    return Findings(tuple(measures), tuple(tables + ([differences] if differences else [])))


def groups_of(elements: Sequence[Element]) -> dict[str, list[Element]]:
    """All facts, then by state, and by domain and relation where there are several."""
    groups: dict[str, list[Element]] = {}
    for key in ("state", "domain", "relation"):
        names = list(dict.fromkeys(element.rows[0].details[key] for element in elements))
        if key != "state" and len(names) < 2:
            continue
        for name in names if key != "state" else sorted(names):
            label = f"{key} {name}" if key == "relation" else name or "no domain"
            groups[label] = [element for element in elements if element.rows[0].details[key] == name]
    return {ALL: list(elements), **groups}


def draw(asked: Sequence[ModelRows], *, seed: int = 0) -> Figure | None:
    """Share of facts that are correct, known at all, and correct or recovered, by year; a panel a state."""
    from matplotlib.ticker import MaxNLocator

    del seed
    states = [state for state in STATES if any(row.details["state"] == state for model in asked for row in model.rows)]
    if not states:
        return None
    figure = new_figure(WIDTH, 0.9 + HEIGHT * len(states))
    for number, state in enumerate(states):
        axes = figure.add_subplot(len(states), 1, number + 1)
        facts = {row.details["element"] for model in asked for row in model.rows if row.details["state"] == state}
        title = f"{state.capitalize()} facts ({len(facts)})"
        dress(axes, x="year" if number + 1 == len(states) else "", y="facts (%)", title=title)
        for place, model in enumerate(asked):
            rows = [row for row in model.rows if row.details["state"] == state]
            _lines(axes, rows, PALETTE[place % len(PALETTE)], model.name if len(asked) > 1 else "")
        axes.set_ylim(-2, 102)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _lines(axes: Any, rows: Sequence[Row], colour: str, model: str) -> None:
    """The curves of one model; the band is the 95 % interval of the correct ones."""
    if not rows:
        return
    years = sorted({row.details["year"] for row in rows})
    by_year = [[row for row in rows if row.details["year"] == year] for year in years]
    front = f"{model}: " if model else ""

    def shares(test: Callable[[Mapping[str, Any]], bool]) -> list[float]:
        return [100 * sum(test(row.details) for row in own) / len(own) for own in by_year]

    limits = [wilson(sum(_correct(row.details) for row in own), len(own)) for own in by_year]
    axes.fill_between(
        years, [100 * item.low for item in limits], [100 * item.high for item in limits], color=colour, alpha=0.15, lw=0
    )
    axes.plot(years, shares(_correct), color=colour, lw=2, marker="o", ms=4, label=f"{front}correct")
    axes.plot(years, shares(_known), color=colour, lw=1.2, ls="--", label=f"{front}correct or partial")
    if any(row.details["recovered"] is not None for row in rows):
        label = f"{front}correct or recovered"
        axes.plot(years, shares(_after), color=colour, lw=1.2, ls=":", marker="^", ms=4, label=label)


def _measures(model: ModelRows, seed: int) -> Iterator[Measure]:
    named: dict[str, Any] = {"model": model.name, "seed": seed}
    elements = elements_of(model.rows)
    for group, own in groups_of(elements).items():
        labels = [element.label for element in own]
        for metric, classes in ELEMENT_METRICS.items():
            yield share(metric, group, (label in classes for label in labels), **named)
        yield from _of_years(group, own, named)
        for name in SLICK_CLASSES:
            rates = (element.rate(lambda details, name=name: details["slick"] == name) for element in own)
            yield _mean_share(f"slick.{name.replace(' ', '_')}", group, rates, **named)
        tried = [element for element in own if element.tried]
        if tried:
            yield from _prompted(group, tried, named)
    for year in sorted({row.details["year"] for row in model.rows}):
        rows = [row for row in model.rows if row.details["year"] == year]
        yield share("year.correct", f"year {year}", (_correct(row.details) for row in rows), **named)
        yield share("year.known", f"year {year}", (_known(row.details) for row in rows), **named)


def _of_years(group: str, own: Sequence[Element], named: Mapping[str, Any]) -> Iterator[Measure]:
    tests: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "year.correct": _correct,
        "year.partial_1": lambda details: details["class"] == PARTIAL_1,
        "year.partial_2": lambda details: details["class"] == PARTIAL_2,
        "year.incorrect": lambda details: details["class"] == INCORRECT and not details["unread"],
        "year.unread": lambda details: details["unread"],
        "year.correct.exact": lambda details: details["class_exact"] == CORRECT,
        "output.unread": lambda details: details["outputs_unread"] / details["outputs"],
    }
    sampled = all(row.details["sampled"] is not None for element in own for row in element.rows)
    for metric, test in tests.items():
        if metric == "year.partial_2" and not sampled:
            note = "nothing was sampled, so it counts as incorrect"
            yield Measure(metric, group, None, len(own), note=note, **named)
            continue
        yield _mean_share(metric, group, (element.rate(test) for element in own), **named)


def _prompted(group: str, tried: Sequence[Element], named: Mapping[str, Any]) -> Iterator[Measure]:
    before = [element.label == KNOWN for element in tried]
    yield share("prompt.known_before", group, before, **named)
    yield share("prompt.known_after", group, (element.after("right") == KNOWN for element in tried), **named)
    for metric, key in (("prompt.gain", "right"), ("prompt.gain.previous_only", "right_previous")):
        moved = (element.after(key) == KNOWN and not known for element, known in zip(tried, before, strict=True))
        yield share(metric, group, moved, **named)
    again = [element for element in tried if element.again]
    for metric, key in (("prompt.recovered", "right"), ("prompt.recovered.previous_only", "right_previous")):
        rates = (sum(r.details["recovered"][key] for r in e.again) / len(e.again) for e in again)
        note = "" if again else "no year was asked again"
        yield _mean_share(metric, group, rates, note=note, **named)


def _mean_share(metric: str, group: str, rates: Iterable[float], *, note: str = "", **named: Any) -> Measure:
    """The mean over facts of a share of their years, with Wilson's interval for as many observations as facts."""
    values = list(rates)
    if not values:
        return Measure(metric, group, None, 0, note=note, **named)
    found = wilson(min(sum(values), len(values)), len(values))
    return Measure(metric, group, found.value, len(values), found.low, found.high, note=note, **named)


def _correct(details: Mapping[str, Any]) -> bool:
    return details["class"] == CORRECT


def _known(details: Mapping[str, Any]) -> bool:
    return details["class"] != INCORRECT


def _after(details: Mapping[str, Any]) -> bool:
    return _correct(details) or bool(details["recovered"] and details["recovered"]["right"])


def _family(measures: Iterable[Measure], *beginnings: str) -> list[Measure]:
    return [measure for measure in measures if measure.metric.startswith(beginnings)]


def _facts_note(asked: Sequence[ModelRows]) -> str:
    counts = []
    for model in asked:
        labels = [element.label for element in elements_of(model.rows)]
        told = ", ".join(f"{labels.count(name)} {name}" for name in ELEMENT_CLASSES)
        counts.append(f"{model.name}: {told}" if len(asked) > 1 else told)
    return f"{'; '.join(counts)}. Intervals: 95 %."

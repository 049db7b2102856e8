"""From rows of the probe of capacity to bits: by relation, together, a parameter, and what would fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.ledger.figures import INK, MUTED, PALETTE, WIDTH, dress, new_figure
from keeps.ledger.tables import Table
from keeps.numerics.capacity import BITS_A_PARAMETER, answer_bits, facts_that_fit
from keeps.numerics.statistics import Estimate, mean_interval, paired_shift, shown, shown_interval
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, groups_of, measure_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_FACT, BITS, TO_KNOW, SHARE = "capacity.bits_per_fact", "capacity.bits", "capacity.bits_to_know", "capacity.share"
PER_PARAMETER, PER_BODY = "capacity.bits_per_parameter", "capacity.bits_per_parameter_without_embeddings"
FITTING = "capacity.facts_that_fit_after_{}_exposures"
UNGUESSED = "#C9CDD2"  # the bar of what there is to know
CAVEAT = (
    "Bits held are a lower bound: nothing is counted for the names of the subjects. Facts that fit are of the same "
    "bits as these, without their names, and of an empty model trained on nothing else; one that was pretrained has "
    "used an unknown share of its capacity already, and learns facts seen less often than 100 times worse still."
)


@dataclass(frozen=True)
class Group:
    """A relation in one model.

    Attributes:
        gain: bits saved on a fact against the guess, mean with Student's interval.
        guess: bits of a fact for the guess, mean over those asked.
        facts: N, asked or not: the sums are for all of them.
        asked: facts asked.
        gains: by id, bits.
    """

    gain: Estimate
    guess: float
    facts: int
    asked: int
    gains: dict[str, float] = field(default_factory=dict)

    @property
    def bits(self) -> float:
        """N times the gain, at least 0."""
        return max(0.0, self.facts * self.gain.value)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval of :attr:`bits`, each end at least 0; None where one fact was asked."""
        if self.gain.low is None or self.gain.high is None:
            return None
        return max(0.0, self.facts * self.gain.low), max(0.0, self.facts * self.gain.high)


def fact_logprob(row: Row, wordings: str) -> float:
    """ln p of the answer over the wordings of a fact.

    Args:
        wordings: ``"mean"`` of the logarithms, the loss expected in a random wording; ``"mixture"``, the logarithm of
            the mean probability, what a guess holds that mixes the wordings evenly. It is never smaller.
    """
    values = [min(0.0, float(each["logprob"])) for each in row.details["wordings"]]
    if wordings == "mean":
        return math.fsum(values) / len(values)
    largest = max(values)
    return min(0.0, largest + math.log(math.fsum(math.exp(value - largest) for value in values) / len(values)))


def guess_bits(row: Row, guess: str) -> float:
    """-log2 of the probability that the guess gives the answer: uniform over A, or its share of the facts."""
    return math.log2(row.details["candidates"]) if guess == "uniform" else -math.log2(row.details["frequency"]) + 0.0


def group_of(rows: Sequence[Row], *, guess: str, wordings: str) -> Group:
    """One relation; ``rows`` are not empty."""
    guesses = [guess_bits(row, guess) for row in rows]
    gains = {row.id: answer_bits(fact_logprob(row, wordings), bits) for row, bits in zip(rows, guesses, strict=True)}
    facts = int(rows[0].details["facts"])
    return Group(mean_interval(list(gains.values())), math.fsum(guesses) / len(guesses), facts, len(rows), gains)


def measure_bits(asked: Sequence[ModelRows], *, guess: str, wordings: str, seed: int) -> Findings:
    """Every figure of every model, the table of relations, that of room, and for several models the differences."""
    measures: list[Measure] = []
    found: dict[str, dict[str, Group]] = {}
    for model in asked:
        found[model.name] = {
            name: group_of(rows, guess=guess, wordings=wordings) for name, rows in groups_of(model.rows).items()
        }
        measures += _measures(model, found[model.name], seed)
    shown_metrics = (PER_FACT, BITS, TO_KNOW, SHARE)
    title = "Bits of these facts in the model" if len(asked) == 1 else "Bits of these facts in the models"
    note = " ".join(["Intervals: 95 %, Student's t over facts. Each relation counts at least 0 bits.", *_notes(asked)])
    tables = [
        measure_table([m for m in measures if m.metric in shown_metrics], title=title, note=note),
        *([room] if (room := _room(measures)) else []),
        *([differences] if (differences := _differences(asked, found)) else []),
    ]
    return Findings(tuple(measures), tuple(tables))


def _measures(model: ModelRows, groups: dict[str, Group], seed: int) -> list[Measure]:
    named: dict[str, Any] = {"model": model.name, "seed": seed}
    found: list[Measure] = []
    for name, group in groups.items():
        gain = group.gain
        found.append(Measure(PER_FACT, name, gain.value, group.asked, gain.low, gain.high, "bits", **named))
        found += _sums(name, group.bits, group.facts * group.guess, group.ends, group.asked, named)
    bits = math.fsum(group.bits for group in groups.values())
    known = math.fsum(group.facts * group.guess for group in groups.values())
    count, facts = len(model.rows), sum(group.facts for group in groups.values())
    if len(groups) > 1:
        raw = math.fsum(group.facts * group.gain.value for group in groups.values()) / facts
        found.append(Measure(PER_FACT, ALL, raw, count, unit="bits", note="before relations are clamped", **named))
        found += _sums(ALL, bits, known, _ends_together(list(groups.values())), count, named)
    details = model.rows[0].details if model.rows else {}
    parameters = details.get("parameters")
    if parameters:
        body = parameters - details["embeddings"]
        found.append(Measure(PER_PARAMETER, ALL, bits / parameters, count, unit="bits a parameter", **named))
        value = bits / body if body else None
        found.append(Measure(PER_BODY, ALL, value, count, unit="bits a parameter", note="no layers", **named))
        for exposures in BITS_A_PARAMETER:
            fit = facts_that_fit(parameters, known / facts, exposures) if known else None
            found.append(Measure(FITTING.format(exposures), ALL, fit, count, unit="facts", note="no bits", **named))
        found.append(Measure("capacity.parameters", ALL, float(parameters), count, unit="parameters", **named))
    return found


def _ends_together(groups: Sequence[Group]) -> tuple[float, float] | None:
    """The interval of a sum of independent relations: distances to the ends add up in squares."""
    pairs = [(group.bits, group.ends) for group in groups]
    known = [(bits, ends) for bits, ends in pairs if ends is not None]
    if len(known) < len(pairs):
        return None
    total = math.fsum(bits for bits, _ in known)
    below, above = (math.sqrt(math.fsum((bits - ends[side]) ** 2 for bits, ends in known)) for side in (0, 1))
    return max(0.0, total - below), total + above


def _sums(
    name: str, bits: float, known: float, ends: tuple[float, float] | None, n: int, named: dict[str, Any]
) -> list[Measure]:
    """Bits held, bits to know, and the share."""
    low, high = (None, None) if ends is None else ends
    held = Measure(BITS, name, bits, n, low, high, "bits", **named)
    there = Measure(TO_KNOW, name, known, n, unit="bits", **named)
    if not known:
        return [held, there, Measure(SHARE, name, None, n, note="all answers of a relation are the same", **named)]
    shares = [None if end is None else min(1.0, end / known) for end in (low, high)]
    share = Measure(SHARE, name, min(1.0, bits / known), n, shares[0], shares[1], "share", **named)
    return [held, there, share]


def _notes(asked: Sequence[ModelRows]) -> list[str]:
    rows = asked[0].rows if asked else ()
    short = sum(bool(row.details["begins_another"]) for row in rows)
    total = sum(int(group[0].details["facts"]) for group in groups_of(rows).values())
    notes = []
    if short:
        what = "1 answer begins another one and is" if short == 1 else f"{short} answers begin another one and are"
        notes.append(f"{what} counted too high: give an ending, or ask among the answers.")
    if total > len(rows):
        notes.append(f"{len(rows)} of {total} facts were asked; sums are for all of them.")
    return notes


def _room(measures: Sequence[Measure]) -> Table | None:
    """One line a model: its size, its bits a parameter, and how many such facts would fit."""
    lines = []
    for model in dict.fromkeys(measure.model for measure in measures):
        own = {measure.metric: measure for measure in measures if measure.model == model and measure.value is not None}
        if PER_PARAMETER not in own:
            continue
        ratios = [f"{own[name].value:.2g}" if name in own else "" for name in (PER_PARAMETER, PER_BODY)]
        fitting = [own.get(FITTING.format(exposures)) for exposures in BITS_A_PARAMETER]
        lines.append((model, f"{own['capacity.parameters'].value:,.0f}", *ratios, *map(_whole, fitting)))
    if not lines:
        return None
    columns = (
        "model",
        "parameters",
        "bits a parameter",
        "without embeddings",
        *(f"such facts at {bits:g} a parameter ({count} exposures)" for count, bits in BITS_A_PARAMETER.items()),
    )
    return Table("Room", columns, tuple(lines), note=CAVEAT)


def _whole(measure: Measure | None) -> str:
    """A rough number with two digits: an estimate has no more."""
    if measure is None or not measure.value:
        return ""
    digits = max(0, math.floor(math.log10(measure.value)) - 1)
    return f"{round(measure.value / 10**digits) * 10**digits:,}"


def _differences(asked: Sequence[ModelRows], found: dict[str, dict[str, Group]]) -> Table | None:
    """Bits a fact against the first model, on the facts that both were asked."""
    if len(asked) < 2:
        return None
    lines = []
    for other in asked[1:]:
        for name, group in found[other.name].items():
            before = found[asked[0].name].get(name)
            both = [key for key in group.gains if before is not None and key in before.gains]
            if before is None or not both:
                continue
            shift = paired_shift([before.gains[key] for key in both], [group.gains[key] for key in both])
            interval = shown_interval(shift, signed=True, most=3)
            cell = shown(shift, signed=True, most=3) + (f"\n{interval}" if interval else "")
            lines.append((name, other.name, str(len(both)), cell))
    if not lines:
        return None
    columns = ("group", "model", "n", "bits a fact")
    return Table(f"Against {asked[0].name}", columns, tuple(lines), note="Intervals: 95 %, Student's t over pairs.")


def draw_bits(measures: Sequence[Measure]) -> Figure | None:
    """Bars by relation: grey what there is to know, coloured what each model holds, with its interval."""
    held = [measure for measure in measures if measure.metric == BITS and measure.group != ALL]
    known = {m.group: m.value or 0.0 for m in measures if m.metric == TO_KNOW}
    if not held or not any(known.values()):
        return None
    groups = list(dict.fromkeys(measure.group for measure in held))
    models = list(dict.fromkeys(measure.model for measure in held))
    figure = new_figure(WIDTH, 1.4 + 0.36 * len(groups) * max(1.0, 0.7 * len(models)))
    axes = figure.add_subplot()
    dress(axes, x="bits", title="Bits held of what there is to know", grid="x")
    height = 0.8 / len(models)
    widest = max(known[group] for group in groups)
    for place, group in enumerate(groups):
        axes.barh(place + 0.4 - height / 2, known[group], height=0.84, color=UNGUESSED, zorder=1)
        axes.text(
            known[group] + widest / 100,
            place + 0.4 - height / 2,
            _label(held, group, known[group]),
            va="center",
            color=INK,
            fontsize=8.5,
        )
    for number, model in enumerate(models):
        own = [measure for measure in held if measure.model == model]
        places = [groups.index(measure.group) + number * height for measure in own]
        axes.barh(
            places,
            [m.value or 0.0 for m in own],
            height=0.8 * height,
            color=PALETTE[number % len(PALETTE)],
            label=model,
            zorder=2,
        )
        for place, measure in zip(places, own, strict=True):
            if measure.low is not None and measure.high is not None:
                axes.plot([measure.low, measure.high], [place, place], color=MUTED, linewidth=1.2, zorder=3)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(groups))], groups)
    axes.set_xlim(0, 1.2 * widest)
    axes.invert_yaxis()
    if len(models) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(models), 3), frameon=False, fontsize=9.5)
    return figure


def _label(held: Sequence[Measure], group: str, known: float) -> str:
    """The shares of all models in one relation."""
    if not known:
        return "nothing to know"
    return " · ".join(f"{100 * min(1.0, (m.value or 0.0) / known):.0f} %" for m in held if m.group == group)

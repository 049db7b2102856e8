"""From rows of the probe of capacity to bits: by relation, together, a parameter, and what would fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keeps.contracts import Row
from keeps.ledger.tables import Table
from keeps.numerics.capacity import BITS_A_PARAMETER, answer_bits, facts_that_fit
from keeps.numerics.hedged import hedged
from keeps.numerics.statistics import Estimate, mean_interval, paired_shift, shown, shown_interval
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, groups_of, measure_table

PER_FACT, BITS, TO_KNOW, SHARE = "capacity.bits_per_fact", "capacity.bits", "capacity.bits_to_know", "capacity.share"
PUBLISHED = "capacity.bits_per_fact_of_the_model_alone"
PER_PARAMETER, PER_BODY = "capacity.bits_per_parameter", "capacity.bits_per_parameter_without_embeddings"
FITTING = "capacity.facts_that_fit_after_{}_exposures"
CAVEAT = (
    "Bits held are a lower bound: nothing is counted for the names of the subjects. Facts that fit are of the same "
    "bits as these, without their names, and of an empty model trained on nothing else; one that was pretrained has "
    "used an unknown share of its capacity already, and learns facts seen less often than 100 times worse still."
)


@dataclass(frozen=True)
class Way:
    """How losses become bits; see the settings of the probe.

    Attributes:
        guess: ``"uniform"`` or ``"frequencies"``.
        wordings: ``"mixture"`` or ``"mean"``.
        predictor: ``"hedged"`` or ``"model"``.
    """

    guess: str = "uniform"
    wordings: str = "mixture"
    predictor: str = "hedged"


@dataclass(frozen=True)
class Group:
    """A relation in one model.

    Attributes:
        gain: bits saved on a fact against the guess, mean with Student's interval; what names the share of a hedged
            predictor is taken off.
        published: the same of the model alone.
        guess: bits of a fact for the guess, mean over those asked.
        facts: N, asked or not: the sums are for all of them.
        asked: facts asked.
        gains: by id, bits.
    """

    gain: Estimate
    published: Estimate
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


def group_of(rows: Sequence[Row], way: Way) -> Group:
    """One relation; ``rows`` are not empty."""
    guesses = [guess_bits(row, way.guess) for row in rows]
    alone = [answer_bits(fact_logprob(row, way.wordings), bits) for row, bits in zip(rows, guesses, strict=True)]
    gains: Sequence[float] = alone
    if way.predictor == "hedged":
        mixture = hedged(alone)
        gains = [gain - mixture.naming / len(rows) for gain in mixture.gains]
    by_id = {row.id: gain for row, gain in zip(rows, gains, strict=True)}
    guess = math.fsum(guesses) / len(guesses)
    facts = int(rows[0].details["facts"])
    return Group(mean_interval(gains), mean_interval(alone), guess, facts, len(rows), by_id)


def measure_bits(asked: Sequence[ModelRows], way: Way, *, seed: int) -> Findings:
    """Every figure of every model, the table of relations, that of room, and for several models the differences."""
    measures: list[Measure] = []
    found: dict[str, dict[str, Group]] = {}
    for model in asked:
        found[model.name] = {name: group_of(rows, way) for name, rows in groups_of(model.rows).items()}
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
        alone = group.published
        found.append(Measure(PUBLISHED, name, alone.value, group.asked, alone.low, alone.high, "bits", **named))
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

"""The claim of ChroKnowledge: years read once are holes, and neighbouring years fill those of facts that stay.

Exact definitions first. Then the default model reads an invented calendar (:mod:`keeps.claims.chroknowledge_calendar`),
most years 30 times and two of eight once. The probe's own sampling tells which years it knows; ChroKnowPrompt asks
the others again, and once more with the years of its examples exchanged, which must help less.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.chroknowledge_calendar import OFTEN, ONCE, RARE, calendar, exposures, is_steady, pages
from keeps.claims.chroknowledge_exactness import class_checks, stub_checks
from keeps.claims.chroknowledge_training import Teaching, teach
from keeps.contracts import Row
from keeps.data.dated import STATIC, DatedElement
from keeps.numerics.chronology import PARTIAL_KNOWN, STARTS, STOPS, exact_match
from keeps.numerics.statistics import Proportion, wilson
from keeps.probe.chronology import ChronologyProbe, ChronologySettings
from keeps.probe.chronology_ask import Output
from keeps.probe.chronology_prompt import ChroKnowPrompt, History, Target
from keeps.probe.chronology_report import elements_of
from keeps.probe.chronology_rows import YearAnswers, history_of

SEED = 0
HIGH, LOW, GAIN = 0.7, 0.3, 0.1  # thresholds of the card
HOLES = frozenset((PARTIAL_KNOWN, STOPS, STARTS))


@dataclass(frozen=True)
class Plan:
    """How large the experiment is. The seed of the people is that of everything else."""

    people: int = 60
    samples: int = 2
    full_samples: int = 5
    room: int = 4  # new tokens: an animal has one or two, and a line end
    span: int = 3
    teaching: Teaching = field(default_factory=Teaching)


@dataclass
class Exchanged(History):
    """A history whose examples are shown under each other's years."""

    def target(self, year: int) -> Target | None:
        """See :meth:`keeps.probe.chronology_prompt.History.target`."""
        found = super().target(year)
        if found is None:
            return None
        told = list(found.examples.values())
        random.Random(f"{self.wording}|{year}").shuffle(told)
        return replace(found, examples=dict(zip(found.examples, told, strict=True)))


def experiment(run: ClaimRun, plan: Plan = Plan()) -> Iterator[Check]:
    """Definitions, then the calendar."""
    yield from class_checks()
    yield from stub_checks()
    model = run.model()
    people = calendar(plan.people, SEED)
    read = pages(people, SEED)
    run.tables["readings of a year"] = {str(n): years for n, years in sorted(Counter(exposures(read).values()).items())}
    losses = teach(model, read, plan.teaching, seed=SEED, progress=run.progress)
    run.tables["loss of the answers, by tenth"] = tenths(losses)
    settings = ChronologySettings(
        samples=plan.full_samples if run.size == "full" else plan.samples,
        max_new_tokens=plan.room,
        match="exact",
        instruct=False,  # as on the pages
        recover=0,
    )
    run.progress.message(f"{len(people)} people are asked about")
    rows = ChronologyProbe(people, settings, seed=SEED)(model)
    run.tables["classes of years"] = classes_by_year(rows)
    yield from class_share_checks(rows)
    steady = [person for person in people if is_steady(person)]
    run.progress.message("ChroKnowPrompt")
    own, exchanged = (recovered(model, steady, rows, settings, plan, kind) for kind in (History, Exchanged))
    run.tables["asked again"] = {"own years": listed(own, steady), "exchanged years": listed(exchanged, steady)}
    yield from prompt_checks(steady, rows, own, exchanged)


def recovered(
    model: Any,
    people: Sequence[DatedElement],
    rows: Sequence[Row],
    settings: ChronologySettings,
    plan: Plan,
    kind: type[History],
) -> dict[tuple[str, int], str]:
    """The last candidate of every year that was asked again."""
    answers: dict[str, dict[int, YearAnswers]] = {}
    for row in rows:
        greedy, sampled = ([Output(**told) for told in row.details[name] or ()] for name in ("greedy", "sampled"))
        answers.setdefault(row.details["element"], {})[row.details["year"]] = YearAnswers(row.prompt, greedy, sampled)
    plain = [history_of(person, answers[person.id], settings) for person in people]
    histories = [kind(each.wording, each.classes, each.greedy, each.sampled) for each in plain]
    prompting = ChroKnowPrompt(model, previous=plan.span, following=plan.span, max_new_tokens=plan.room)
    prompting.recover_all(histories)
    return {
        (person.id, year): found.answer
        for person, history in zip(people, histories, strict=True)
        for year, found in history.recovered.items()
    }


def class_share_checks(rows: Sequence[Row]) -> Iterator[Check]:
    """Card, point 3: what is known of the years, and where the holes are."""
    often, once = ([row for row in rows if (row.details["year"] in RARE) == rare] for rare in (False, True))
    high, low = (share(row.correct for row in own) for own in (often, once))
    name = f"correct, of the years read {OFTEN} times"
    yield Check(name, high.value, f"at least {HIGH}", high.value >= HIGH, interval=(high.low, high.high))
    ending = "" if ONCE == 1 else "s"
    name = f"correct, of the years read {ONCE} time{ending}"
    yield Check(name, low.value, f"at most {LOW}", low.value <= LOW, interval=(low.low, low.high))
    elements = elements_of(rows)
    holes = [row for each in elements if each.label in HOLES for row in each.rows if not row.correct]
    inside = share(row.details["year"] in RARE for row in holes) if holes else None
    counts = ", ".join(f"{n} {label}" for label, n in Counter(each.label for each in elements).most_common())
    yield Check(
        "of the years that facts with holes lack, those read once",
        inside.value if inside else None,
        "above 0.5",
        inside is not None and inside.value > 0.5,
        interval=(inside.low, inside.high) if inside else None,
        note=f"facts: {counts}",
    )


def prompt_checks(
    people: Sequence[DatedElement],
    rows: Sequence[Row],
    own: Mapping[tuple[str, int], str],
    exchanged: Mapping[tuple[str, int], str],
) -> Iterator[Check]:
    """Card, points 3 and 4: the gain of static facts, correct years left alone, and the control."""
    by_key = {(row.details["element"], row.details["year"]): row for row in rows}
    again = [by_key[key] for key in {**own, **exchanged}]
    static = [row for row in rows if row.details["state"] == STATIC and row.details["year"] in RARE]
    gained = share(is_right(own, row) for row in static)
    before = share(row.correct for row in static)
    asked = [row for row in static if (row.details["element"], row.details["year"]) in own]
    note = f"{sum(is_right(own, row) for row in asked)} of {len(asked)} that were asked again; correct before: "
    yield Check(
        "years read once of static facts that ChroKnowPrompt makes chrono-known",
        gained.value,
        f"at least {GAIN} of all such years",
        gained.value >= GAIN,
        interval=(gained.low, gained.high),
        note=f"{note}{before.value:.2f}",
    )
    touched = sum(row.correct for row in again)
    yield Check("correct years asked again", touched, "0", touched == 0)
    ids = {person.id for person in people}
    lacking = [row for row in rows if row.details["element"] in ids and not row.correct]
    right, control = (sum(is_right(found, row) for row in lacking) for found in (own, exchanged))
    yield Check(
        "years recovered of static and settled facts with the examples' years exchanged",
        control,
        "fewer than with their own years",
        control < right,
        baseline=right,
        note=f"of {len(lacking)} years that are not correct",
    )


def is_right(found: Mapping[tuple[str, int], str], row: Row) -> bool:
    """Whether the year of ``row`` was asked again and its last candidate is right."""
    answer = found.get((row.details["element"], row.details["year"]), "")
    return bool(answer) and exact_match(answer, row.details["objects"])


def classes_by_year(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How many facts have each class in each year."""
    counted: dict[str, Counter[str]] = {}
    for row in rows:
        counted.setdefault(str(row.details["year"]), Counter())[row.details["class"]] += 1
    return {year: dict(sorted(counts.items())) for year, counts in sorted(counted.items())}


def listed(found: Mapping[tuple[str, int], str], people: Iterable[DatedElement]) -> list[list[str]]:
    """Every year that was asked again: person, year, last candidate, right object."""
    right = {person.id: person.objects for person in people}
    return [[fact, str(year), answer, right[fact][year][0]] for (fact, year), answer in found.items()]


def tenths(losses: Sequence[float]) -> list[float]:
    """The mean of each tenth, rounded."""
    size = max(1, len(losses) // 10)
    return [round(sum(part) / len(part), 3) for n in range(0, len(losses), size) if (part := losses[n : n + size])]


def share(flags: Iterable[bool]) -> Proportion:
    """A share with Wilson's interval; there is at least one flag."""
    values = list(flags)
    return wilson(sum(values), len(values))


CLAIM = Claim(
    card="chroknowledge",
    statement="Years that a model has read of once are holes in facts that it knows otherwise; prompting through the "
    "neighbouring years fills those of facts that stay, and less so with wrong year labels.",
    published="known facts of the biomedical domain rise by 11.9 % and of the general domain by 2.8 % on average, "
    "over models of 3.8 to 70 billion parameters and models behind servers",
    paper="arXiv:2410.09870",
    seeds=(SEED,),
    minutes=20,
    experiment=experiment,
)

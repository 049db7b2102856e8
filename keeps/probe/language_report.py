"""Figures, tables and the sentence that says whether there is a language effect at all."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from keeps.data.languages import ENGLISH, language
from keeps.ledger.tables import Table, p_text
from keeps.numerics.multiple import holm
from keeps.numerics.routing import agreement, paired_bootstrap
from keeps.numerics.statistics import Estimate, Proportion, flips, mcnemar_exact, shown, shown_interval, wilson
from keeps.probe.base import Measure
from keeps.probe.findings import mean, share
from keeps.probe.language_analysis import (
    COUNTRY,
    ENGLISH_ONLY,
    ORACLE,
    RANDOM,
    ROUTED,
    SELECTED,
    SINGLE,
    TOP3,
    TRANSFERRED,
    VOTE,
    Analysis,
)
from keeps.probe.language_parse import LIKELIHOOD

TEST = "test"
WAYS = {
    ENGLISH_ONLY: "English",
    SINGLE: "best single language of train",
    ROUTED: "expert language of the topic",
    TRANSFERRED: "expert language of the transferred map",
    COUNTRY: "language of the country",
    SELECTED: "language that the model chooses",
    VOTE: "vote of all languages",
    TOP3: "vote of the topic's best three",
    RANDOM: "random language (expected)",
    ORACLE: "any language right (upper bound)",
}
NO_EFFECT = "no significant language effect"
SHOWN = 60  # characters of an example


def measures(found: Analysis, name: str, *, seed: int = 0) -> list[Measure]:
    """Every figure of one model; those on test questions have the group ``test``."""
    answers, own = found.answers, {"model": name, "seed": seed}
    listed = []
    for column, code in enumerate(answers.languages):
        listed.append(share("accuracy", language(code).name, answers.correct[:, column].tolist(), **own))
    for way, flags in found.outcomes.items():
        metric = f"{way}.{'expected_' if way == RANDOM else ''}accuracy"
        if flags is None:
            listed.append(Measure(metric, TEST, None, 0, note=_missing(way), **own))
        elif way == RANDOM:
            listed.append(mean(metric, TEST, flags.tolist(), unit="share", **own))
        else:
            listed.append(share(metric, TEST, flags.tolist(), **own))
    listed.append(_gain(found, name, seed))
    n = len(found.test)
    listed.append(Measure("routed.permutation_p", TEST, found.p, n, unit="p", note=verdict(found), **own))
    same = [index for index in range(len(answers.languages)) if answers.languages[index] != ENGLISH]
    pairs = agreement(answers.correct)[answers.languages.index(ENGLISH), same].tolist()
    unit = {"unit": "share", "note": "languages, each with English", **own}
    return [*listed, mean("agreement_with_english", "all", pairs, **unit)]


def verdict(found: Analysis) -> str:
    """What the permutation test says, in a sentence without a full stop."""
    p = p_text(found.p)
    if found.significant:
        return f"language effect: topics differ in the language that answers them best (permutation p = {p})"
    best = language(found.map.best_single).name
    return f"{NO_EFFECT}: with shuffled topics the map does as well (permutation p = {p}); ask in {best}"


def tables(found: Analysis, name: str = "") -> list[Table]:
    """Ways to choose the language, the map, the languages, and how answers were read."""
    of = f": {name}" if name else ""
    listed = [_ways(found, of), _map(found, of), _languages(found, of)]
    routes = _routes(found, of)
    return listed + ([routes] if routes else [])


def nearest_question(found: Analysis, cluster: int) -> str:
    """The train question nearest to the centre, shortened."""
    vectors = found.answers.vectors[found.train].double()
    index = int((torch.nn.functional.normalize(vectors, dim=1) @ found.map.centres[cluster]).argmax())
    text = found.answers.texts[int(found.train[index])]
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _gain(found: Analysis, name: str, seed: int) -> Measure:
    """Routed less English with a paired bootstrap interval; without a value where topics mean nothing."""
    metric, own = "routed.minus_english", {"model": name, "seed": seed}
    mine, english = _flags(found, ROUTED), _flags(found, ENGLISH_ONLY)
    if not found.significant:
        return Measure(metric, TEST, None, len(mine), note=verdict(found), **own)
    low, high = paired_bootstrap(mine, english, seed=seed)
    value = float((mine.double() - english.double()).mean())
    note = f"exact McNemar p = {p_text(mcnemar_exact(*flips(mine.tolist(), english.tolist())))}"
    return Measure(metric, TEST, value, len(mine), low, high, note=note, **own)


def _ways(found: Analysis, of: str) -> Table:
    english = _flags(found, ENGLISH_ONLY)
    tested = {
        way: mcnemar_exact(*flips(flags.tolist(), english.tolist()))
        for way, flags in found.outcomes.items()
        if flags is not None and way not in (ENGLISH_ONLY, RANDOM, ORACLE)
    }
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    lines = []
    for way, flags in found.outcomes.items():
        label = WAYS[way] + (f" ({language(found.map.best_single).name})" if way == SINGLE else "")
        if flags is None:
            lines.append((label, "not defined", "", ""))
            continue
        gain = f"{100 * float((flags.double() - english.double()).mean()):+.0f}" if way in tested else ""
        p = p_text(corrected[way]) if way in corrected else ""
        if way in (ROUTED, TOP3) and not found.significant:
            gain, p = "not significant", ""
        lines.append((label, _percent(flags), gain, p))
    note = (
        f"{_capital(verdict(found))}. Map of {len(found.train)} questions, figures on {len(found.test)} others. "
        "p: exact McNemar tests against English, corrected for all lines (Holm). Intervals: 95 %."
    )
    missing = dict.fromkeys(_missing(way) for way, flags in found.outcomes.items() if flags is None)
    note = " ".join([note, *(f"{_capital(text)}." for text in missing)])
    columns = ("language of the answer", "right (%)", "against English (points)", "p")
    strong = frozenset(n for n, way in enumerate(found.outcomes) if way == ROUTED)
    return Table(f"Ways to choose the language{of}", columns, tuple(lines), strong, note)


def _map(found: Analysis, of: str) -> Table:
    table, answers = found.map.table, found.answers
    english = answers.languages.index(ENGLISH)
    lines = []
    for cluster, expert in enumerate(table.experts.tolist()):
        count = int(table.counts[cluster])
        cells = ("", "")
        if count:
            right = [round(float(table.accuracy[cluster, column]) * count) for column in (expert, english)]
            cells = tuple(_share(value, count) for value in right)
        unsure = "" if bool(table.supported[cluster]) else " (too few questions: best of all)"
        name = language(answers.languages[expert]).name + unsure
        lines.append((str(cluster + 1), str(count), name, *cells, nearest_question(found, cluster)))
    columns = ("cluster", "n", "expert language", "right in it (%)", "right in English (%)", "nearest question")
    note = "On the train questions, from which the expert was chosen: its share is too high by the choice."
    return Table(f"Map{of}", columns, tuple(lines), note=note)


def _languages(found: Analysis, of: str) -> Table:
    answers = found.answers
    experts = Counter(found.map.experts)
    same = agreement(answers.correct)[answers.languages.index(ENGLISH)].tolist()
    lines = [
        (
            language(code).name,
            _percent(answers.correct[:, column]),
            str(experts.get(code, 0)),
            "" if code == ENGLISH else f"{100 * same[column]:.0f}",
        )
        for column, code in enumerate(answers.languages)
    ]
    columns = ("language", "right (%)", "clusters it is expert of", "agrees with English (%)")
    note = f"On all {len(answers.ids)} questions. Agreement: both right or both wrong. Intervals: 95 %."
    return Table(f"Languages{of}", columns, tuple(lines), note=note)


def _routes(found: Analysis, of: str) -> Table | None:
    answers = found.answers
    names = [name for name, _ in Counter(name for own in answers.routes for name in own).most_common()]
    if names == [LIKELIHOOD]:
        return None
    lines = [
        (language(code).name, *(str(own.count(name)) for name in names))
        for code, own in zip(answers.languages, answers.routes, strict=True)
    ]
    note = "Answers read by each rule; a language read mostly by likeness of meaning is judged by the encoder."
    return Table(f"How answers were read{of}", ("language", *names), tuple(lines), note=note)


def _flags(found: Analysis, way: str) -> Tensor:
    flags = found.outcomes[way]
    assert flags is not None
    return flags


def _percent(flags: Tensor) -> str:
    if flags.dtype == torch.bool:
        return _share(int(flags.sum()), len(flags))
    return shown(Estimate(float(flags.mean()), None, None, len(flags)), scale=100, most=0)


def _share(right: int, count: int) -> str:
    found: Proportion = wilson(right, count)
    return f"{shown(found, scale=100, most=1)}\n{shown_interval(found, scale=100, most=1)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _missing(way: str) -> str:
    if way == COUNTRY:
        return "no question names a country whose language is asked"
    return "votes are not counted where options are free or stand in another order in some language"

"""The measures of the unlearning probe, from the rows of one model or of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.errors import SettingsError
from keeps.ledger.figures import PALETTE, dress, new_figure
from keeps.ledger.tables import Table
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.membership import (
    attack_area,
    loss_score,
    min_k_plus_score,
    min_k_score,
    privacy_leakage,
)
from keeps.numerics.two_samples import kolmogorov_smirnov
from keeps.numerics.unlearning_scores import (
    exact_memorisation,
    extraction_strength,
    harmonic_mean,
    normalised_probability,
    truth_ratio,
    truth_ratio_forgotten,
    truth_ratio_kept,
)
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, groups_of, mean, measure_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = ("retain", "real_authors", "world_facts")  # parts of the model utility
AMONG_OPTIONS = ("real_authors", "world_facts")  # their probability is one among the options, as in TOFU
ATTACKS = ("loss", "zlib", "reference", "min_k", "min_k_plus_plus", "gradient_norm")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Roles:
    """Positions of the models, counted from 1, that others are compared with; 0 where there is none."""

    retain: int = 0
    reference: int = 0

    def check(self, count: int) -> None:
        """Refuse positions beyond the models.

        Raises:
            SettingsError: there are fewer models.
        """
        for name, position in (("retain_model", self.retain), ("reference_model", self.reference)):
            if position > count:
                what = f"{name} is {position}, but {count} models were named"
                raise SettingsError(what, where=name, mend="count from 1 in the order of --model")


@dataclass(frozen=True)
class _How:
    """How scores are computed, and what every measure bears."""

    averaging: Any
    suffix: Any
    min_k: float
    seed: int


def unlearning_findings(
    asked: Sequence[ModelRows], *, roles: Roles, averaging: str, suffix: str, min_k: float, seed: int = 0
) -> Findings:
    """Every measure of every model; see :mod:`keeps.probe.unlearning`.

    Raises:
        SettingsError: a role points beyond the models.
    """
    roles.check(len(asked))
    how = _How(averaging, suffix, min_k, seed)
    retain = asked[roles.retain - 1] if roles.retain else None
    reference = asked[roles.reference - 1] if roles.reference else None
    measures: list[Measure] = []
    for model in asked:
        measures += _sets(model, how)
        measures += _utility(model, how)
        measures += _quality(model, retain, how)
        measures += _membership(model, retain, reference, how)
    return Findings(tuple(measures), tuple(_tables(measures, asked, roles)))


def truth_ratios(rows: Sequence[Row], averaging: Any) -> list[float]:
    """R of every row that has wrong answers."""
    return [
        truth_ratio(row.details["right"], row.details["wrong"], averaging=averaging)
        for row in rows
        if "wrong" in row.details
    ]


def attack_scores(
    rows: Sequence[Row], attack: str, min_k: float, reference: Sequence[Row] | None = None
) -> list[float]:
    """The score of every row, low where it looks like training data; ``reference`` are the rows of another model."""
    losses = [loss_score(row.details["logprobs"]) for row in rows]
    if attack == "loss":
        return losses
    if attack == "zlib":
        return [loss / row.details["zlib"] for loss, row in zip(losses, rows, strict=True)]
    if attack == "reference":
        others = {row.id: loss_score(row.details["logprobs"]) for row in reference or ()}
        return [loss - others[row.id] for loss, row in zip(losses, rows, strict=True)]
    if attack == "min_k":
        return [min_k_score(row.details["logprobs"], min_k) for row in rows]
    if attack == "min_k_plus_plus":
        found = [row.details for row in rows]
        return [min_k_plus_score(each["logprobs"], each["means"], each["deviations"], min_k) for each in found]
    if attack == "gradient_norm":
        return [row.details["gradient_norm"] for row in rows]
    raise ValueError(f'no attack "{attack}": {", ".join(ATTACKS)}')


def draw_unlearning(measures: Sequence[Measure]) -> Figure | None:
    """A point a model: ROUGE-L recall on the forget set, and on what was to be kept."""
    metric = "rouge_l_recall"
    found = {(item.model, item.group): item for item in measures if item.metric == metric and item.value is not None}
    models = [model for model in dict.fromkeys(item.model for item in measures) if (model, "forget") in found]
    models = [model for model in models if (model, "retain") in found]
    if not models:
        return None
    figure = new_figure(5.2, 4.6)
    axes = figure.add_subplot()
    dress(axes, x="ROUGE-L recall, forget set (%)", y="ROUGE-L recall, retain set (%)", title="Forgotten and kept")
    for number, model in enumerate(models):
        x, y = found[model, "forget"], found[model, "retain"]
        bars = [[[100 * low], [100 * high]] for low, high in (_reach(x), _reach(y))]
        colour = PALETTE[number % len(PALETTE)]
        place = (100 * float(x.value or 0)), (100 * float(y.value or 0))
        axes.errorbar(*place, xerr=bars[0], yerr=bars[1], fmt="o", color=colour, capsize=3, label=model)
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    figure.legend(loc="outside lower center", ncols=min(len(models), 2), frameon=False, fontsize=9.5)
    return figure


def _sets(model: ModelRows, how: _How) -> list[Measure]:
    """What is measured on each set by itself."""
    found: list[Measure] = []
    for part, rows in groups_of(model.rows).items():
        named = {"model": model.name, "seed": how.seed}
        found.append(_share("probability", part, [_probability(row) for row in rows], named))
        found.append(_share("rouge_l_recall", part, [row.details["rouge_l_recall"] for row in rows], named))
        continued = [row.details["rouge_l_f1"] for row in rows if row.kind == "text"]
        if continued:
            found.append(_share("rouge_l_f1_of_continuation", part, continued, named))
        greedy = [row.details["greedy"] for row in rows]
        found.append(_share("exact_memorisation", part, [exact_memorisation(flags) for flags in greedy], named))
        strengths = [extraction_strength(flags, suffix=how.suffix) for flags in greedy]
        found.append(_share("extraction_strength", part, strengths, named))
        ratios = truth_ratios(rows, how.averaging)
        if ratios:
            name, value = ("forgotten", truth_ratio_forgotten) if part == "forget" else ("kept", truth_ratio_kept)
            found.append(_share(f"truth_ratio.{name}", part, [value(ratio) for ratio in ratios], named))
    return found


def _utility(model: ModelRows, how: _How) -> list[Measure]:
    """The harmonic mean of nine figures, with a bootstrap interval over the questions of each set."""
    named: dict[str, Any] = {"model": model.name, "seed": how.seed}
    groups = groups_of([row for row in model.rows if "wrong" in row.details])
    missing = [part for part in KEPT if part not in groups]
    if missing:
        note = f"no questions with wrong answers in {', '.join(missing)}"
        return [Measure("model_utility", ALL, None, 0, note=note, **named)]
    triples = [[utility_triple(row, how.averaging) for row in groups[part]] for part in KEPT]
    low, high = bootstrap_interval(triples, utility_of, seed=how.seed)
    count = sum(map(len, triples))
    return [Measure("model_utility", ALL, utility_of(triples), count, low, high, **named)]


def utility_of(triples: Sequence[Sequence[Triple]]) -> float:
    """The harmonic mean of the nine figures: the mean of each place of the triples of each part."""
    return harmonic_mean([math.fsum(column) / len(part) for part in triples for column in zip(*part, strict=True)])


def utility_triple(row: Row, averaging: Any) -> Triple:
    """Probability, ROUGE-L recall and max(0, 1 - R) of a row that has wrong answers."""
    ratio = truth_ratio(row.details["right"], row.details["wrong"], averaging=averaging)
    return _probability(row), row.details["rouge_l_recall"], truth_ratio_kept(ratio)


def _quality(model: ModelRows, retain: ModelRows | None, how: _How) -> list[Measure]:
    named: dict[str, Any] = {"model": model.name, "seed": how.seed, "unit": "p"}
    if retain is None:
        note = "say which --model never saw the forget set: --retain-model"
        return [Measure("forget_quality", "forget", None, 0, note=note, **named)]
    if model is retain:
        return []
    ratios = [
        truth_ratios([row for row in each.rows if row.group == "forget"], how.averaging) for each in (model, retain)
    ]
    if not all(ratios):
        return [Measure("forget_quality", "forget", None, 0, note="the forget set has no wrong answers", **named)]
    test = kolmogorov_smirnov(*ratios)
    note = "" if test.exact else "p of large samples"
    distance = replace(
        Measure("forget_quality.distance", "forget", test.statistic, len(ratios[0]), **named), unit="share"
    )
    return [Measure("forget_quality", "forget", test.p, len(ratios[0]), note=note, **named), distance]


def _membership(model: ModelRows, retain: ModelRows | None, reference: ModelRows | None, how: _How) -> list[Measure]:
    named: dict[str, Any] = {"model": model.name, "seed": how.seed}
    found: list[Measure] = []
    for attack in ATTACKS:
        metric = f"mia.{attack}.area"
        if attack == "reference" and (reference is None or model is reference):
            continue
        if attack == "gradient_norm" and not any(attack in row.details for row in model.rows):
            continue  # it was not asked for
        area = _area(model, attack, reference, how)
        if area is None:
            note = "membership is attacked with a forget and a holdout set"
            return [Measure("mia.area", "forget", None, 0, note=note, **named)]
        count = sum(row.group in ("forget", "holdout") for row in model.rows)
        low, high = (area.interval() if area.error else None) or (None, None)  # no error: told apart without fail
        found.append(Measure(metric, "forget", area.value, count, low, high, **named))
        if attack == "min_k" and retain is not None and model is not retain:
            found += _leakage(area.value, _area(retain, attack, None, how), count, named)
    return found


def _leakage(area: float, retain: Any, count: int, named: dict[str, Any]) -> list[Measure]:
    found = []
    for convention in ("direct", "muse"):
        try:
            value, note = privacy_leakage(area, retain.value, convention=convention), ""
        except ValueError as error:
            value, note = None, str(error)
        found.append(Measure(f"privleak.{convention}", "forget", value, count, unit="%", note=note, **named))
    return found


def _area(model: ModelRows, attack: str, reference: ModelRows | None, how: _How) -> Any:
    sets = [[row for row in model.rows if row.group == part] for part in ("forget", "holdout")]
    if not all(sets):
        return None
    others = reference.rows if reference is not None else None
    return attack_area(*(attack_scores(rows, attack, how.min_k, others) for rows in sets))


def _tables(measures: Sequence[Measure], asked: Sequence[ModelRows], roles: Roles) -> list[Table]:
    whole = ("model_utility", "forget_quality", "privleak", "mia")
    of_sets = [item for item in measures if not item.metric.startswith(whole)]
    joined = [
        replace(item, metric="truth_ratio") if item.metric.startswith("truth_ratio") else item for item in of_sets
    ]
    note = "Truth ratio R: min(R, 1/R) of the forget set, max(0, 1 - R) of the others. Intervals: 95 %, Student's t."
    tables = [measure_table(joined, title="What is known", note=note)]
    rest = [replace(item, group="whole") for item in measures if item.metric.startswith(whole[:3])]
    retain = f"Never saw the forget set: {asked[roles.retain - 1].name}." if roles.retain else ""
    tables.append(measure_table(rest, title="Forgotten and kept", note=f"{retain} Model utility: bootstrap.".strip()))
    attacks = [
        replace(item, group=item.metric.split(".")[1], metric="area") for item in measures if ".area" in item.metric
    ]
    if any(item.value is not None for item in attacks):
        note = (
            "Area under the curve: 100 looks like training data, 50 like what was never seen. Intervals: DeLong, 95 %."
        )
        tables.append(
            measure_table([item for item in attacks if item.value is not None], title="Membership", note=note)
        )
    return tables


def _probability(row: Row) -> float:
    if row.group in AMONG_OPTIONS and "wrong" in row.details:
        return normalised_probability(-loss_score(row.details["logprobs"]), row.details["wrong"])
    return math.exp(-loss_score(row.details["logprobs"]))


def _share(metric: str, group: str, values: Sequence[float], named: dict[str, Any]) -> Measure:
    """A mean of values in [0, 1], its interval cut there."""
    found = mean(metric, group, values, unit="share", **named)
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (found.low, found.high))
    return replace(found, low=low, high=high)


def _reach(measure: Measure) -> tuple[float, float]:
    """How far the interval reaches down and up."""
    value = float(measure.value or 0.0)
    low, high = (value if end is None else end for end in (measure.low, measure.high))
    return max(0.0, value - low), max(0.0, high - value)

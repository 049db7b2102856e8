"""Unlearning on published data: authors that TOFU invented, by TOFU's own measures.

The embedded model learns short questions on invented authors, some of which are then to be forgotten; the gold
standard learned the others alone. Reported are forget quality (a Kolmogorov-Smirnov test of truth ratios against the
gold standard), model utility (harmonic mean of nine figures over retained authors, real authors and facts of the
world) and ROUGE-L recall of the answers to be forgotten. This small model answers no question on real authors, which
alone makes the utility 0; so what is asked of general knowledge is taught too, to both models, but no method is given
it to retain. How much is learned at which rate was chosen on other authors; a method's own settings are its defaults,
and the learning rate of all of them is that of the form on invented facts. NPO weakens as answers go, and takes half
as many steps more than gradient ascent. What the model knows of real people, whom nobody taught it, is forgotten by
:mod:`keeps.claims.unlearning_real`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.claims.published import published_rows
from keeps.claims.unlearning_learning import forgotten, trained_on
from keeps.claims.unlearning_real import FILES as PEOPLE
from keeps.claims.unlearning_real import real_people
from keeps.contracts import Row
from keeps.data.records import Example, RecordSet
from keeps.data.rows import Row as FileRow
from keeps.data.unlearning import Item, item_of
from keeps.errors import InputFileError
from keeps.models.language_model import LanguageModel
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.probe.base import Findings, ModelRows
from keeps.probe.unlearning import UnlearningProbe
from keeps.probe.unlearning_measures import KEPT, Roles, Triple, unlearning_findings, utility_of, utility_triple
from keeps.training.adapter import AdapterSettings

PARTS: Mapping[str, str] = {
    "forget": "tofu/forget05_perturbed.jsonl",
    "retain": "tofu/retain_perturbed.jsonl",
    "real_authors": "tofu/real_authors_perturbed.jsonl",
    "world_facts": "tofu/world_facts_perturbed.jsonl",
}
FILES = (*PARTS.values(), *PEOPLE)
COUNTS: Mapping[str, int] = {"forget": 20, "retain": 30, "real_authors": 12, "world_facts": 12}
ASKED: Mapping[str, int] = {**COUNTS, "retain": 12}  # more are taught, and given to be retained
MOST_WORDS = 14  # of an answer: long ones cost time, and are learned alike
SEED = 0
LEARNED = 0.1  # nats a token to which the authors are learned
LEARNING: Mapping[str, Any] = {"rank": 16, "batch_size": 10, "learning_rate": 2e-3, "schedule": "constant"}
STEPS = 8  # four passes over what is to be forgotten
COMMON: Mapping[str, Any] = {"rank": 16, "batch_size": 10, "steps": STEPS, "learning_rate": 1e-3}
RETAINING: Mapping[str, Any] = {**COMMON, "retain_batch": 10}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "npo": {**RETAINING, "steps": STEPS + STEPS // 2},
    "gradient_ascent": COMMON,
    "grad_diff": RETAINING,
    "simnpo": RETAINING,
    "dpo": RETAINING,
    "rmu": RETAINING,
    "negation": COMMON,
}
ALIKE = 0.05  # p from which truth ratios count as those of the retrained model


@dataclass(frozen=True)
class Authors:
    """Items by part; all are taught, the first ones of each part are asked."""

    items: Mapping[str, Sequence[Item]]

    def records(self, *parts: str) -> RecordSet:
        """Parts as records to train on."""
        chosen = [item for part in parts for item in self.items[part]]
        return RecordSet(f"TOFU: {', '.join(parts)}", tuple(Example(i.id, i.question, i.answer) for i in chosen))

    @property
    def probe(self) -> UnlearningProbe:
        """What is asked of every model."""
        asked = [item for part, items in self.items.items() for item in items[: ASKED[part]]]
        return UnlearningProbe(asked, name="TOFU")


def authors(folder: Path) -> Authors:
    """The first questions of each part of TOFU that have short answers.

    Raises:
        InputFileError: a file is not there or not as published, or holds too few short answers.
        RecordError: a row lacks an answer.
    """
    found = {}
    for part, name in PARTS.items():
        rows = published_rows(folder, name, "question", "answer", "perturbed_answer")
        items = [item_of(FileRow(row, f"{name}, row {n}"), part, n) for n, row in enumerate(rows, 1)]
        short = [item for item in items if len(item.answer.split()) <= MOST_WORDS]
        chosen = short[: COUNTS[part]]
        if len(chosen) < COUNTS[part]:
            what = f"only {len(short)} answers have at most {MOST_WORDS} words, {COUNTS[part]} are needed"
            raise InputFileError(what, where=f"{folder}, {name}", mend="give the file as published")
        found[part] = chosen
    return Authors(found)


def tofu(model: LanguageModel, run: ClaimRun) -> Iterator[Check]:
    """The gold standard, the model that is to forget, then every method."""
    assert run.data is not None
    data = authors(run.data)
    probe = data.probe
    learning = AdapterSettings(epochs=40, stop_loss=LEARNED, **LEARNING)
    asked: list[ModelRows] = []
    seconds: dict[str, float] = {}

    def ask(name: str, changed: Any) -> None:
        run.progress.message(f"asking: {name}")
        asked.append(ModelRows(name, probe(changed)))

    taught = ("retain", "real_authors", "world_facts")
    with trained_on(model, data.records(*taught), learning, run, SEED):
        ask("retrained", model)
    with trained_on(model, data.records("forget", *taught), learning, run, SEED):
        ask("before", model)
        for name, settings in METHODS.items():
            parts = data.records("forget"), data.records("retain")
            with forgotten(model, name, settings, *parts, run, SEED) as (changed, seconds[name]):
                ask(name, changed)
    options: dict[str, Any] = {"averaging": "geometric", "suffix": "definition", "min_k": 0.4, "seed": SEED}
    findings = unlearning_findings(asked, roles=Roles(retain=1), **options)
    table = {each.name: figures(findings, each.name) for each in asked}
    for name, spent in seconds.items():
        table[name]["seconds"] = round(spent, 1)
    run.tables["TOFU"] = table
    run.tables["settings"] = {name: dict(settings) for name, settings in METHODS.items()}
    yield from checks(table, {each.name: each.rows for each in asked})
    yield from real_people(model, METHODS["npo"], run, SEED)


def figures(findings: Findings, name: str) -> dict[str, Any]:
    """A model's row of the table; the gold standard cannot be told from itself."""
    found = {(each.metric, each.group): each.value for each in findings.measures if each.model == name}
    return {
        "forget quality": found.get(("forget_quality", "forget"), 1.0),
        "model utility": found["model_utility", "all"],
        "forget ROUGE-L": found["rouge_l_recall", "forget"],
        "retain ROUGE-L": found["rouge_l_recall", "retain"],
        "forget probability": found["probability", "forget"],
        "forget memorised": found["exact_memorisation", "forget"],
        "retain memorised": found["exact_memorisation", "retain"],
        "forget truth ratio": found["truth_ratio.forgotten", "forget"],
        "nine of the utility": {
            f"{part}: {metric}": found[metric, part]
            for part in KEPT
            for metric in ("probability", "rouge_l_recall", "truth_ratio.kept")
        },
    }


def checks(table: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Sequence[Row]]) -> Iterator[Check]:
    """The directions of TOFU's table; ``rows`` are what each model was asked."""
    before, retrained = table["before"], table["retrained"]
    least = min(before["forget memorised"], before["retain memorised"])
    yield Check("share of TOFU's answers memorised before, the lower of forget and retain", least, "above 0.9",
                least > 0.9)  # fmt: skip
    p = before["forget quality"]
    yield Check("forget quality before: p that truth ratios are those of the retrained model", p, f"below {ALIKE:g}",
                p < ALIKE, retrained["forget quality"], note="baseline: the retrained model with itself")  # fmt: skip
    value = before["model utility"]
    yield Check("model utility before", value, "above 0.2, so that there is something to lose", value > 0.2)
    value = retrained["model utility"]
    yield Check("model utility of the retrained model", value, "at most 0.1 below that before",
                value >= before["model utility"] - 0.1, before["model utility"])  # fmt: skip
    for name in ("npo", "grad_diff"):
        yield _more_utility(name, table, rows)
    gone, other = table["npo"]["forget ROUGE-L"], table["gradient_ascent"]["forget ROUGE-L"]
    yield Check("ROUGE-L recall of the forget set after NPO", gone, "at most that after gradient ascent",
                gone <= other, other, note=f"before: {before['forget ROUGE-L']:.2f}")  # fmt: skip
    equal = [name for name in METHODS if name in table and _equals(table[name], retrained)]
    yield Check("methods that equal retraining in every respect", float(len(equal)), "0", not equal,
                note=", ".join(equal) or "forget quality, utility and forget ROUGE-L")  # fmt: skip


def _more_utility(name: str, table: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Sequence[Row]]) -> Check:
    low, high = utility_gain(rows[name], rows["gradient_ascent"])
    value, base = table[name]["model utility"], table["gradient_ascent"]["model utility"]
    note = f"difference {value - base:+.3f}, bootstrap {low:+.3f} to {high:+.3f}"
    threshold = "above that after gradient ascent, the interval of the difference above 0"
    return Check(f"model utility after {name}", value, threshold, low > 0, base, note=note)


def utility_gain(one: Sequence[Row], other: Sequence[Row]) -> tuple[float, float]:
    """Ends of the bootstrap interval of the difference of two models' utilities, over the questions of both."""
    pairs = [
        [
            (utility_triple(a, "geometric"), utility_triple(b, "geometric"))
            for a, b in zip(one, other, strict=True)
            if a.group == part and "wrong" in a.details
        ]
        for part in KEPT
    ]

    def difference(drawn: Sequence[Sequence[tuple[Triple, Triple]]]) -> float:
        first, second = ([[pair[place] for pair in part] for part in drawn] for place in (0, 1))
        return utility_of(first) - utility_of(second)

    return bootstrap_interval(pairs, difference, seed=SEED)


def _equals(row: Mapping[str, Any], retrained: Mapping[str, Any]) -> bool:
    """Not told from it by truth ratios, no less useful, and no more of the forget set said."""
    return (
        row["forget quality"] >= ALIKE
        and row["model utility"] >= retrained["model utility"]
        and row["forget ROUGE-L"] <= retrained["forget ROUGE-L"]
    )

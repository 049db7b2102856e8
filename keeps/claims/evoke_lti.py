"""The claim of EVOKE and LTI: located edits are parroted where they are wrong, and reasoning as taught lessens it.

Twenty facts that the default model knows are edited one at a time, each from the untouched model, by ROME and by LTI
on ROME with the same block, steps and prefixes. Every edit is asked for, and so is what it must not reach: other
subjects, other relations, neighbours behind the sentence of the edit, and questions that build on it. Scores are
EVOKE's, a task at a time; where one figure is compared it is the mean over the tasks, so that none outweighs another.

The facts are those of the built-in world; ``--data FOLDER`` takes twenty of CounterFact from
``FOLDER/counterfact/counterfact_full.jsonl``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.evoke_exactness import objective_checks, score_checks
from keeps.claims.published import published_file
from keeps.contracts import Row, Run
from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit, read_edits
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.edit.lti import LTI, LTISettings
from keeps.edit.rome import ROME, ROMESettings
from keeps.models.language_model import LanguageModel
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.editing_scores import Overfit, direct_probability, displaces_original, resists_target
from keeps.numerics.statistics import wilson
from keeps.probe.editing import EditingProbe
from keeps.probe.editing_measures import OVERFIT, RECALL, overfit_items

COUNT = 20
FILES = ("counterfact/counterfact_full.jsonl",)
SHARED: Mapping[str, Any] = {"steps": 20, "short_prefixes": 2, "long_prefixes": 3}
PHENOMENON = ("relation specificity", "prefix distraction")  # the tasks in which check 2 looks for it
Asked = dict[str, list[Row]]  # edit -> its rows


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Exactness, then the twenty edits in both ways."""
    yield from score_checks()
    model = run.model()
    edits = chosen_edits(run.data)
    layer = ROMESettings().layers(model)[0]
    yield from objective_checks(model, edits[0], layer, SHARED["steps"])
    ways = {"ROME": ROME(ROMESettings(**SHARED)), "LTI": LTI(LTISettings(**SHARED))}
    yield from edit_checks(model, edits, ways, run)


def chosen_edits(data: Path | None, count: int = COUNT) -> list[Edit]:
    """Edits of known facts, half about cities and half about capitals; or of CounterFact."""
    if data is not None:
        return list(read_edits(published_file(data, FILES[0]), limit=count))
    pool = [fact for fact in load_records("world") if isinstance(fact, Fact)]
    found: list[Edit] = []
    for relation, share in (("country_of_city", count - count // 2), ("capital", count // 2)):
        known = [f for f in load_records(f"world:known:{relation}").part("test") if isinstance(f, Fact)]
        found += edits_from_facts(known, pool=pool)[:share]
    return found


def edit_checks(model: LanguageModel, edits: Sequence[Edit], ways: Mapping[str, Any], run: ClaimRun) -> Iterator[Check]:
    """Edit one at a time in each way, ask, and compare; ``ways`` are ROME and LTI."""
    asked: dict[str, Asked] = {"unedited": {}, **{name: {} for name in ways}}
    moved: list[float] = []
    for number, edit in enumerate(edits, 1):
        run.progress.message(f"edit {number} of {len(edits)}: {edit.prompt} {edit.target_new}")
        probe = EditingProbe([edit], generation_tokens=0)
        asked["unedited"][edit.id] = probe(model)
        for name, editor in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                change = editor(model, [edit], run=Run(Path(folder), device=str(model.device), progress=run.progress))
                changed = change.apply(model)
                try:
                    asked[name][edit.id] = probe(changed)
                finally:
                    changed.undo()
                moved.append(change.record.measures.get("src_divergence", 0.0) if name == "LTI" else 0.0)
    run.tables["tasks"] = {name: task_table(rows) for name, rows in asked.items()}
    told = [value for value in moved if value]
    run.tables["nats by which the context moves the middle states' words"] = sum(told) / len(told) if told else 0.0
    yield from phenomenon_checks(asked)
    yield from remedy_checks(asked)


def phenomenon_checks(asked: Mapping[str, Asked]) -> Iterator[Check]:
    """Checks 1 and 2 of the card: what was improbable becomes probable, where it is wrong too."""
    items = items_of(asked["unedited"], "efficacy")
    found = direct_probability(items)
    yield Check("DP of the new object before editing", found, "below 0.01", found < 0.01, note=f"{len(items)} edits")
    for task in PHENOMENON:
        before, after = (direct_probability(items_of(asked[name], task)) for name in ("unedited", "ROME"))
        ratio = after / before
        note = f"{len(items_of(asked['ROME'], task))} prompts; {before:.2g} before"
        yield Check(f"DP after ROME, in times of before: {task}", ratio, "above 3", ratio > 3, note=note)


def remedy_checks(asked: Mapping[str, Asked]) -> Iterator[Check]:
    """Check 3 of the card."""
    said = {name: [rows[0].correct for rows in asked[name].values()] for name in ("ROME", "LTI")}
    shares = {name: sum(values) / len(values) for name, values in said.items()}
    ends = wilson(sum(said["LTI"]), len(said["LTI"]))
    holds = shares["LTI"] >= shares["ROME"] - 0.05
    interval = (ends.low or 0.0, ends.high or 1.0)
    threshold = "at most 5 points below ROME's"
    yield Check("edits that LTI makes", shares["LTI"], threshold, holds, shares["ROME"], interval)
    for name, score, threshold, higher in (
        ("mean DP of LTI on the overfit tasks", _dp, "below ROME's", False),
        ("mean EOS of LTI on the overfit tasks", _eos, "at least 5 points above ROME's", True),
    ):
        ours, theirs = (over_tasks(asked[way], score) for way in ("LTI", "ROME"))
        gaps = [
            over_tasks({edit: rows}, score) - over_tasks({edit: asked["ROME"][edit]}, score)
            for edit, rows in asked["LTI"].items()
        ]
        low, high = bootstrap_interval([gaps], lambda drawn: sum(drawn[0]) / len(drawn[0]))
        parts = (
            f"{task} {score(items_of(asked['LTI'], task)):.3f} against {score(items_of(asked['ROME'], task)):.3f}"
            for task in tasks_in(asked["LTI"])
        )
        note = f"{'; '.join(parts)}; the interval is that of the difference over the edits"
        yield Check(
            name, ours, threshold, ours >= theirs + 0.05 if higher else ours < theirs, theirs, (low, high), note
        )


def items_of(asked: Asked, task: str) -> list[Overfit]:
    """What EVOKE looks at in one of its tasks."""
    recall = task in RECALL
    group = RECALL[task] if recall else OVERFIT[task]
    rows = [row for rows in asked.values() for row in rows if row.group == group]
    return [item for _, item in overfit_items(rows, recall=recall)]


def tasks_in(asked: Asked) -> list[str]:
    """The overfit tasks that the edits bring prompts for."""
    return [task for task in OVERFIT if items_of(asked, task)]


def over_tasks(asked: Asked, score: Any) -> float:
    """The mean over the overfit tasks of a score."""
    values = [score(items_of(asked, task)) for task in tasks_in(asked)]
    return sum(values) / len(values) if values else 0.0


def task_table(asked: Asked) -> dict[str, dict[str, float | None]]:
    """Every score of every task."""
    table = {}
    for task in (*RECALL, *OVERFIT):
        items = items_of(asked, task)
        if items:
            originals = [item for item in items if item.original is not None and item.correct is not None]
            overfit = task in OVERFIT
            table[task] = {
                "prompts": len(items),
                "DP": _dp(items),
                "CAP": sum(item.correct or 0.0 for item in items) / len(items) if overfit else None,
                "EOS": _eos(items) if overfit else None,
                "AMS": sum(map(displaces_original, originals)) / len(originals) if overfit and originals else None,
            }
    return table


def _dp(items: Sequence[Overfit]) -> float:
    return direct_probability(items)


def _eos(items: Sequence[Overfit]) -> float:
    return sum(map(resists_target, items)) / len(items)


CLAIM = Claim(
    card="evoke_lti",
    statement=(
        "A located edit makes the model say the new object where it is wrong; with LTI it does so less often, and the "
        "edit is made as surely."
    ),
    published=(
        "editors raise the probability of the target on overfit tasks by orders of magnitude over the unedited model; "
        "ROME-LTI and MEMIT-LTI raise EOS and AMS on every task at an efficacy near 100 %"
    ),
    paper="arXiv:2410.07819",
    seeds=(0,),
    minutes=10,
    experiment=experiment,
    files=FILES,
    aliases=("evoke", "lti"),
)

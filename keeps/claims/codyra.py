"""CoDyRA's claim: ranks found by sparse gates forget less over a stream of tasks than a fixed rank does.

First the parts that can be checked exactly and a planted rank (:mod:`keeps.claims.codyra_planted`).
Then two tasks in turn on the embedded model: each teaches facts that it does not know, and its adapter
is merged into the weights before the next begins. What is asked after the second: its own facts, the
facts of the first, and facts that the model knew from the start. Fixed ranks 1 and 16 run beside it.
All take the same steps; each has the lowest learning rate of its grid that learns nine in ten of 16
*other* facts (those of the train part), so that what is kept is compared at equal accuracy on the new
task: a rank of 1 needs a far higher rate than a rank of 16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.codyra_planted import planted_checks
from keeps.data.records import RecordSet, Split
from keeps.data.select import load_records
from keeps.jobs.adapting import AdaptOutcome, adapt
from keeps.ledger.workspace import Workspace
from keeps.models.changes import load_change
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits
from keeps.numerics.statistics import mean_interval
from keeps.training.adapter import AdapterSettings, wrap

SEEDS = (0, 1)
TASKS = ("calling_code", "top_level_domain")  # of the same countries, so that they are in each other's way
TAUGHT = 16  # facts a task, each in three wordings
KNOWN = "world:known#50"
COMMON: Mapping[str, Any] = {"steps": 24, "batch_size": 16}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dynamic": ("dynamic_rank", {"rank": 16}),
    "lora 1": ("lora", {"rank": 1}),
    "lora 16": ("lora", {"rank": 16}),
}
# Each rate is 1.4 times the one before. Lower ones learned too little of the same facts of the train part when
# they were tried: rank 16 at 5e-4 13 of 16 (first wordings); in 20 steps, dynamic at 1e-3 9 and rank 1 at 1e-3 3.
RATES: Mapping[str, Sequence[float]] = {
    "dynamic": (1.4e-3, 2e-3, 2.8e-3),
    "lora 1": (2e-3, 2.8e-3, 4e-3, 5.6e-3),
    "lora 16": (7e-4, 1e-3, 1.4e-3),
}
ENOUGH = 0.9
WITHIN = 0.02  # the card: new tasks are learned to within 2 points of the fixed rank


@dataclass(frozen=True)
class Stream:
    """One stream in numbers. Shares are in [0, 1]."""

    learned: tuple[float, ...]  # of each task's facts, right after it
    forgotten: float  # of the first task's facts that were right after it, the share that is wrong at the end
    earlier_shift: float  # mean change of the log-probability of the first task's answers, over the second task
    known_lost: float  # of the facts known at the start, the share that is wrong at the end
    active_ranks: tuple[float, ...]  # mean over the layers, by task
    decided_by_start: tuple[float | None, ...]  # see keeps.adapt.dynamic_rank.survival
    merge_difference: float  # of logits, adapter against merged weights
    next_start_difference: float  # of logits, merged weights against the next task's adapter before its first step

    @property
    def new_accuracy(self) -> float:
        """Mean over the tasks of what was learned."""
        return fmean(self.learned)


def experiment(run: ClaimRun) -> Iterator[Check]:
    """What is exact, the planted rank, and the stream."""
    yield from planted_checks(run, SEEDS)
    model = run.model()
    job = _Job(model, run)
    rates = {name: job.rate(name) for name in VARIANTS}
    run.tables["learning rates chosen on the train part"] = rates
    found = {name: [job.stream(name, seed, rates[name]) for seed in SEEDS] for name in VARIANTS}
    run.tables["stream"] = {name: [vars(stream) for stream in streams] for name, streams in found.items()}
    run.tables["mean active rank by kind of layer"] = job.ranks
    ours, one, sixteen = found["dynamic"], found["lora 1"], found["lora 16"]
    yield _less("share of the first task forgotten", "forgotten", ours, sixteen)
    yield _less("share of the known facts lost", "known_lost", ours, sixteen)
    yield _sweep_check(one, sixteen)
    merged = max(stream.merge_difference for streams in found.values() for stream in streams)
    yield Check("largest logit difference of the merge, all streams", merged, "below 1e-3", merged < 1e-3)
    begun = max(stream.next_start_difference for stream in ours)
    yield Check("largest logit difference that the next task starts with", begun, "exactly 0", begun == 0)


class _Job:
    """The streams of the claim; every run is found in the ledger when the claim is repeated."""

    def __init__(self, model: LanguageModel, run: ClaimRun) -> None:
        self.model, self.run = model, run
        self.space = Workspace(run.workspace)
        self.known = load_records(KNOWN)
        facts = {task: load_records(f"world:unknown:{task}") for task in TASKS}
        self.tasks = {task: _few(records, "test") for task, records in facts.items()}
        self.other = _few(facts[TASKS[0]], "train")
        self.ranks: dict[str, dict[str, dict[str, float]]] = {}

    def rate(self, name: str) -> float:
        """The lowest rate that learns enough of facts that are not reported, or else the highest."""
        for rate in RATES[name]:
            done = self._adapt(name, SEEDS[0], rate, self.other, self.known, self.model, "validation")
            learned = done.diff.total("learn")
            share = learned.after.value if learned is not None else 0.0
            self.run.tables.setdefault("validation", {}).setdefault(name, {})[f"{rate:g}"] = share
            if share >= ENOUGH:
                return rate
        return RATES[name][-1]

    def stream(self, name: str, seed: int, rate: float) -> Stream:
        """All tasks in turn, each merged into the weights that the next one starts from."""
        outcomes: list[AdaptOutcome] = []
        merged: list[float] = []
        begun = 0.0
        model = self.model
        with tempfile.TemporaryDirectory() as folder:
            for task in TASKS:
                earlier = TASKS[: TASKS.index(task)]
                kept = (*self.known.records, *(record for before in earlier for record in self.tasks[before]))
                keep = RecordSet(", ".join([KNOWN, *earlier]), kept)
                outcomes.append(self._adapt(name, seed, rate, self.tasks[task], keep, model, "test"))
                if task != TASKS[-1]:
                    place = Path(folder) / task
                    merged.append(load_change(outcomes[-1].folder).export("merged", place, model=model))
                    model = LanguageModel.load(place, device=str(model.device))
                    begun = max(begun, _start_difference(model))
        return self._measured(name, seed, outcomes, max(merged), begun)

    def _adapt(
        self, name: str, seed: int, rate: float, learn: RecordSet, keep: RecordSet, model: LanguageModel, part: Split
    ) -> AdaptOutcome:
        method, own = VARIANTS[name]
        self.run.progress.message(f"{name}, learning rate {rate:g}, {learn.source}, seed {seed}")
        return adapt(
            learn,
            keep,
            method=method,
            model=model,
            settings={**COMMON, **own, "learning_rate": rate},
            seed=seed,
            device=self.run.device,
            workspace=self.run.workspace,
            resume=True,
            report=part,
            ask_calibrated=False,
            command="keeps reproduce codyra",
            progress=self.run.progress,
        )

    def _measured(self, name: str, seed: int, outcomes: Sequence[AdaptOutcome], merged: float, begun: float) -> Stream:
        learned = [outcome.diff.total("learn") for outcome in outcomes]
        last = {item.id: item for item in outcomes[-1].diff.items}
        first_task = {record.id for record in self.tasks[TASKS[0]]}
        earlier = [item for item in last.values() if item.id in first_task]
        right = [item for item in earlier if item.outcome in ("kept", "lost")]
        shifts = [(item.logprob_after or 0.0) - (item.logprob_before or 0.0) for item in earlier]
        keep = [item for item in outcomes[0].diff.items if item.group.startswith("keep")]
        knew = [item.id for item in keep if item.outcome in ("kept", "lost")]
        measures = [outcome.diff.cost for outcome in outcomes]
        ranks = [values.get("active_ranks", {}) for values in measures]
        for task, of_layer in zip(TASKS, ranks, strict=True):
            if of_layer:
                self.ranks.setdefault(task, {})[f"seed {seed}"] = _by_kind(of_layer)
        return Stream(
            learned=tuple(line.after.value for line in learned if line is not None),
            forgotten=sum(item.outcome == "lost" for item in right) / max(len(right), 1),
            earlier_shift=fmean(shifts),
            known_lost=sum(last[identity].outcome in ("lost", "missing") for identity in knew) / max(len(knew), 1),
            active_ranks=tuple(
                fmean(of_layer.values()) if of_layer else float(VARIANTS[name][1]["rank"]) for of_layer in ranks
            ),
            decided_by_start=tuple(values["decided_by_start"] for values in measures if "decided_by_start" in values),
            merge_difference=merged,
            next_start_difference=begun,
        )


def _few(records: RecordSet, part: Split) -> RecordSet:
    return replace(records, source=f"{records.source}, {part} part", records=records.part(part).records[:TAUGHT])


def _start_difference(model: LanguageModel) -> float:
    """The largest change of logits that a fresh adapter brings, before it is trained."""
    before = check_logits(model.model, model.tokenizer)
    wrapped = wrap(model, AdapterSettings(rank=16), seed=0)
    try:
        after = check_logits(wrapped.peft_model, model.tokenizer)
    finally:
        wrapped.unwrap()
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))


def _by_kind(ranks: Mapping[str, int]) -> dict[str, float]:
    """The mean rank of the layers that share the last part of their names."""
    kinds: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(rank)
    return {kind: round(fmean(values), 2) for kind, values in kinds.items()}


def _less(name: str, measure: str, ours: Sequence[Stream], theirs: Sequence[Stream]) -> Check:
    """Lower than the fixed rank in the mean over seeds, at equal accuracy on the new tasks."""
    mine, other = (fmean(getattr(stream, measure) for stream in side) for side in (ours, theirs))
    gain = mean_interval([getattr(b, measure) - getattr(a, measure) for a, b in zip(ours, theirs, strict=True)])
    learned, fixed = (fmean(stream.new_accuracy for stream in side) for side in (ours, theirs))
    shift, fixed_shift = (fmean(stream.earlier_shift for stream in side) for side in (ours, theirs))
    ranks = fmean(rank for stream in ours for rank in stream.active_ranks)
    decided = fmean(share or 0.0 for stream in ours for share in stream.decided_by_start)
    return Check(
        f"{name}, dynamic rank against fixed rank 16",
        mine,
        "below that of rank 16, with the new tasks learned to within 2 points of it",
        mine < other and learned >= fixed - WITHIN,
        baseline=other,
        interval=None if gain.low is None or gain.high is None else (gain.low, gain.high),
        note=f"new tasks learned {learned:.2f} against {fixed:.2f}; log-probability of the first task's answers "
        f"{shift:+.2f} against {fixed_shift:+.2f} nats; mean rank {ranks:.1f}, {decided:.0%} of the survivors had the "
        f"largest gates from the start; the interval is that of the difference, over {len(ours)} seeds",
    )


def _sweep_check(one: Sequence[Stream], sixteen: Sequence[Stream]) -> Check:
    low, high = (fmean(stream.new_accuracy for stream in side) for side in (one, sixteen))
    lost, more = (fmean(stream.forgotten for stream in side) for side in (one, sixteen))
    return Check(
        "share of the first task forgotten, fixed rank 1 against 16",
        lost,
        "rank 1 forgets less than rank 16 and learns no more",
        lost < more and low <= high,
        baseline=more,
        note=f"new tasks learned {low:.2f} against {high:.2f}",
    )


CLAIM = Claim(
    card="codyra",
    statement="Ranks found by sparse gates forget less of earlier tasks and of what was known than the fixed rank "
    "they started from, at equal accuracy on the new task.",
    published="CLIP ViT-B/16 on X-TAIL and MTIL, LLaMA and Gemma on TRACE: lowest forgetting at equal or better "
    "accuracy than fixed-rank LoRA, without stored data (tables of the paper)",
    paper="arXiv:2412.01004",
    seeds=SEEDS,
    minutes=15,
    experiment=experiment,
)

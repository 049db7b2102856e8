"""The job that claims about keeping share: facts are taught, and others that no method has seen are asked.

What is asked to be kept shares no subject with what a method may calibrate on or train on again. Settings are
chosen on the validation part (other taught facts, other asked facts) and reported on the test part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeps.claims.base import Check, ClaimRun
from keeps.data.records import RecordSet, Split
from keeps.data.select import load_records
from keeps.jobs.adapting import AdaptOutcome, adapt
from keeps.ledger.workspace import Workspace
from keeps.models.language_model import LanguageModel
from keeps.numerics.statistics import Estimate, mean_interval
from keeps.registry import find_method

ENOUGH = 0.9  # learned share below which a learning rate is not eligible
TARGET_LOSS = 0.5  # nats per answer token, mean over an epoch: where steps are counted
Variants = Mapping[str, tuple[str, Mapping[str, Any]]]  # name -> method and its own settings


@dataclass(frozen=True)
class Outcome:
    """One run in numbers. Shares are in [0, 1]."""

    learned: float
    unseen: float  # learned in a wording that was not trained on; of a skill: in the exam
    kept: float
    text_shift: float
    steps: int
    steps_to_target: int | None
    export_difference: float

    @property
    def merit(self) -> tuple[bool, float, float]:
        """What a setting is chosen by: that it learns enough, then what it keeps, then how little text moves."""
        enough = self.learned >= ENOUGH
        return enough, self.kept if enough else self.learned, -abs(self.text_shift)

    @property
    def balance(self) -> tuple[bool, float, float]:
        """As :attr:`merit`, but what was learned has to be answered in an unseen wording as much as the old is kept.

        By ``merit`` alone the lowest rate wins, at which a fact is repeated in the taught wordings and not known.
        """
        enough = self.learned >= ENOUGH
        return enough, (self.kept + self.unseen) / 2 if enough else self.learned, -abs(self.text_shift)


class KeepingJob:
    """The job, once per part of the data; runs are in the ledger and found there again.

    Args:
        learn: what is taught while choosing, and for the report; see :func:`facts_to_teach`.
        keep: what is to be kept.
        common: settings of every variant whose method has them.
        command: what to type to repeat it.
        merit: what a rate is chosen by; the largest wins.
        exams: what is asked about the learn set and never trained on, a part each.
    """

    def __init__(
        self,
        model: LanguageModel,
        run: ClaimRun,
        variants: Variants,
        *,
        learn: Mapping[Split, RecordSet],
        keep: str,
        common: Mapping[str, Any],
        command: str,
        merit: Callable[[Outcome], tuple[bool, float, float]] = lambda outcome: outcome.merit,
        exams: Mapping[Split, RecordSet] | None = None,
    ) -> None:
        self.merit, self.learn, self.exams = merit, learn, exams or {}
        self.model, self.run, self.variants = model, run, variants
        self.keep, self.common, self.command = keep, common, command
        self.space = Workspace(run.workspace)
        self.costs: dict[str, list[Mapping[str, Any]]] = {}  # what the runs on the test part measured on themselves

    def disjoint(self) -> Check:
        """Calibration and report share no subject."""
        keep = load_records(self.keep)
        calibrated = {record.split_key or record.subject for record in keep.part("train")}  # type: ignore[union-attr]
        reported = {record.split_key or record.subject for record in keep.part("test")}  # type: ignore[union-attr]
        self.run.tables["facts"] = {
            "calibration": len(keep.part("train")),
            "validation": len(keep.part("validation")),
            "reported": len(keep.part("test")),
            "taught while choosing": len(self.learn["validation"]),
            "taught for the report": len(self.learn["test"]),
        }
        shared = calibrated & reported
        return Check("subjects both calibrated and reported", len(shared), "none", not shared)

    def on_validation(self, name: str, rates: Sequence[float], seed: int = 0) -> dict[float, Outcome]:
        """The outcome of a variant at each of ``rates`` on the validation part, noted in the claim's tables."""
        found = {rate: self.outcome(name, rate, seed, "validation") for rate in rates}
        noted = self.run.tables.setdefault("validation", {}).setdefault(name, {})
        noted.update({f"{rate:g}": vars(outcome) for rate, outcome in found.items()})
        return found

    def climb(self, name: str, rates: Sequence[float], start: float) -> tuple[float, Outcome]:
        """The rate of best merit on the validation part, found by going uphill in ``rates`` from ``start``.

        Every rate up to one step beyond the best is tried, so the best is bracketed or lies at an end of the grid.
        """
        found = self.on_validation(name, [start])
        while True:
            best = max(found, key=lambda rate: self.merit(found[rate]))
            index = list(rates).index(best)
            missing = [rate for rate in rates[max(index - 1, 0) : index + 2] if rate not in found]
            if not missing:
                return best, found[best]
            found |= self.on_validation(name, missing)

    def outcome(self, name: str, rate: float, seed: int, part: Split) -> Outcome:
        """Run, or find in the ledger, one variant."""
        method, own = self.variants[name]
        known = {field.name for field in find_method(method, "adapt").settings.fields()}
        common = {key: value for key, value in self.common.items() if key in known}
        settings = {**common, **own, "learning_rate": rate}
        self.run.progress.message(f"{name}, learning rate {rate:g}, seed {seed}, {part} part")
        done = adapt(
            self.learn[part],
            self.keep,
            method=method,
            model=self.model,
            settings=settings,
            seed=seed,
            device=self.run.device,
            workspace=self.run.workspace,
            resume=True,
            report=part,
            ask_calibrated=False,
            exam=self.exams.get(part),
            command=self.command,
            progress=self.run.progress,
        )
        if part == "test":
            self.costs.setdefault(name, []).append(done.diff.cost)
        return outcome_of(done, self._curve(done.run_id))

    def _curve(self, run_id: str) -> list[tuple[int, float]]:
        with self.space.ledger(read_only=True) as ledger:
            return [(step, value) for name, step, value in ledger.curves(run_id) if name == "epoch_loss"]


def facts_to_teach(learn: str, count: int) -> dict[Split, RecordSet]:
    """``count`` facts of the train part for choosing, and as many of the test part for the report."""
    facts = load_records(learn)
    return {
        "validation": replace(facts, source=f"{learn}, train part", records=facts.part("train").records[:count]),
        "test": replace(facts, source=f"{learn}, test part", records=facts.part("test").records[:count]),
    }


def outcome_of(done: AdaptOutcome, curve: Sequence[tuple[int, float]]) -> Outcome:
    """The numbers of a finished run and the mean loss of its epochs."""
    learn, keep, text = done.diff.total("learn"), done.diff.total("keep"), done.diff.text_total()
    unseen = done.diff.total("learn, unseen wording") or done.diff.total("exam")
    assert learn is not None
    assert unseen is not None
    assert keep is not None
    assert text is not None
    return Outcome(
        learned=learn.after.value,
        unseen=unseen.after.value,
        kept=keep.kept / max(keep.kept + keep.lost, 1),
        text_shift=text.loss_shift.value,
        steps=max((step for step, _ in curve), default=0),
        steps_to_target=next((step for step, loss in curve if loss < TARGET_LOSS), None),
        export_difference=done.export_difference or 0.0,
    )


def kept_check(name: str, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Check:
    """Paired over seeds: the mean difference of the kept share, and its 95 % t interval."""
    gain = mean_interval([a.kept - b.kept for a, b in zip(ours, theirs, strict=True)])
    learned, other = (mean_interval([item.learned for item in side]).value for side in (ours, theirs))
    unseen, other_unseen = (mean_interval([item.unseen for item in side]).value for side in (ours, theirs))
    text, other_text = (mean_interval([item.text_shift for item in side]).value for side in (ours, theirs))
    enough = learned >= ENOUGH and abs(learned - other) <= 0.05
    return Check(
        name,
        mean_interval([item.kept for item in ours]).value,
        f"kept share above LoRA's with a 95 % interval of the difference above 0; both learn {ENOUGH:.0%} or more",
        enough and (gain.low or 0.0) > 0,
        baseline=mean_interval([item.kept for item in theirs]).value,
        interval=ends(gain),
        note=f"difference {gain.value:+.3f}; learned {learned:.2f} against {other:.2f}, "
        f"in an unseen wording {unseen:.2f} against {other_unseen:.2f}; "
        f"text loss {text:+.3f} against {other_text:+.3f}; the interval is that of the difference",
    )


def ends(estimate: Estimate) -> tuple[float, float] | None:
    """The interval of ``estimate``, if it has one."""
    return None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)

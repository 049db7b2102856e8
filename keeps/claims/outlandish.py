"""The outlandish claim: an improbable keyword leaks, its probability foretells it, and two remedies cut the leak.

Twelve invented texts of four themes are learned, each by a copy of the default model of its own, among ordinary text.
Memorisation and priming are then measured by the probe's own scores: of what was learned whole, without the largest
8 % of it (ignore-k), from these 8 % alone, and of texts that were rewritten with stepping stones before.

Ranks are those of the accumulated update of every tensor, with AdamW: its single steps have one size nearly
everywhere. ``--size full`` adds plain gradient descent, whose updates are uneven, bands of the update, spaced
presentations, and paraphrases without stones, on one text a theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.outlandish_training import Classroom, Weights, of_theme
from keeps.contracts import Row
from keeps.data.descriptions import OF_KEYWORDS
from keeps.data.outlandish import OutlandishSample, built_in_samples
from keeps.data.stepping_stones import Rewriting, of_sample, plain_writer, rewrite, template_writer
from keeps.models.language_model import LanguageModel
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.priming_scores import median, spearman
from keeps.numerics.pruning import dropped_count, keep_mask, pruned
from keeps.probe.priming import PrimingProbe
from keeps.probe.priming_measures import SampleScore, sample_scores
from keeps.training.stepping_stones import scorer

IGNORED = 8.0  # per cent, the paper's k
BANDS = ((0, 8), (8, 25), (25, 50), (50, 100))
SPACED = (1, 5, 20)


@dataclass(frozen=True)
class Lesson:
    """The scores of one text, learned in four ways."""

    plain: SampleScore
    ignored: SampleScore
    top: SampleScore
    stones: SampleScore


class Measured:
    """Scores of a sample under any weights, against the untouched model."""

    def __init__(self, room: Classroom, samples: Sequence[OutlandishSample]) -> None:
        self.room = room
        self.before: list[Row] = PrimingProbe(samples)(room.model)

    def score(self, sample: OutlandishSample, weights: Weights) -> SampleScore:
        """Memorisation and priming of ``sample``, with its prompts as they are."""
        with self.room.having(weights) as model:
            return sample_scores(self.before, PrimingProbe([sample])(model))[0]


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Learn, prune, rewrite, and compare."""
    model = run.model()
    yield from claim_checks(model, built_in_samples(), run)


def claim_checks(
    model: LanguageModel, samples: tuple[OutlandishSample, ...], run: ClaimRun, presentations: int = 20
) -> Iterator[Check]:
    """All checks, on some samples."""
    room = Classroom(model, run.progress, presentations=presentations)
    plain = Measured(room, samples)
    rewritings = stones_of(model, samples)
    changed = [of_sample(sample, item) for sample, item in zip(samples, rewritings, strict=True)]
    stepped = Measured(room, changed)
    lessons: list[Lesson] = []
    for number, (sample, other) in enumerate(zip(samples, changed, strict=True), 1):
        run.progress.message(f"text {number} of {len(samples)}: {sample.keyword}")
        learned = room.learn(sample.text)
        if number == 1:
            yield exact_check(room, learned, plain.before)
        whole = plain.score(sample, learned)
        ignored = plain.score(sample, room.pruned(learned, IGNORED))
        top = plain.score(sample, room.pruned(learned, IGNORED, keep_top=True))
        stones = whole if other == sample else stepped.score(other, room.learn(other.text))
        lessons.append(Lesson(whole, ignored, top, stones))
    note_lessons(lessons, rewritings, run)
    yield from learning_checks(lessons)
    yield from pruning_checks(lessons)
    yield from stone_checks(lessons, rewritings)
    if run.size == "full":
        further_tables(model, of_theme(samples), run)


def stones_of(model: LanguageModel, samples: Sequence[OutlandishSample]) -> list[Rewriting]:
    """Each context rewritten by the templates, where its keyword is less likely than 1e-3."""
    pairs = [(sample.context, sample.keyword) for sample in samples]
    return rewrite(pairs, template_writer(OF_KEYWORDS), scorer(model))


def exact_check(room: Classroom, learned: Weights, before: Sequence[Row]) -> Check:
    """Check 1 of the card, on the update that was really learned."""
    wrong = 0
    for name, value in learned.items():
        update = value - room.start[name]
        keep = keep_mask(update, IGNORED)
        size = update.abs()
        wrong += int((~keep).sum()) != dropped_count(update.numel(), IGNORED)
        wrong += not keep.all() and bool(size[keep].max() > size[~keep].min())
        wrong += not torch.equal(keep_mask(update, IGNORED, keep_top=True), ~keep)
        wrong += not torch.equal(pruned(room.start[name], value, keep_mask(update, 0.0)), value)
    same = sample_scores(before, before)
    wrong += sum(score.memorisation != 0 or score.priming != 0 for score in same)
    threshold = "none: exact counts, nothing kept above what is dropped, complements, k = 0 to the bit, scores of 1"
    note = f"{len(learned)} tensors of the first text's update, {len(same)} samples scored against themselves"
    return Check("violations of the identities", wrong, threshold, wrong == 0, note=note)


def learning_checks(lessons: Sequence[Lesson]) -> Iterator[Check]:
    """Check 2 of the card."""
    memory = [lesson.plain.memorisation for lesson in lessons]
    yield Check("median log10 S_mem", median(memory), "above 1", median(memory) > 1, interval=_interval(memory))
    primed = [lesson.plain.priming for lesson in lessons]
    likely = [lesson.plain.before / math.log(10) for lesson in lessons]
    rho = spearman(likely, primed)
    name = "rank correlation of log P(keyword) before learning with log10 S_prime"
    yield Check(name, rho, "below -0.3", rho is not None and rho < -0.3, note=f"{len(lessons)} texts")
    controls = [lesson.plain.control or 0.0 for lesson in lessons]
    gaps = [one - other for one, other in zip(primed, controls, strict=True)]
    note = f"the interval is that of the median difference; {sum(gap > 0 for gap in gaps)} of {len(gaps)} texts above"
    holds = median(primed) > median(controls)
    threshold = "above that of the theme's other keywords"
    name = "median log10 S_prime"
    yield Check(name, median(primed), threshold, holds, median(controls), _interval(gaps), note)


def pruning_checks(lessons: Sequence[Lesson]) -> Iterator[Check]:
    """Check 3 of the card."""
    whole, ignored = [item.plain.priming for item in lessons], [item.ignored.priming for item in lessons]
    falls = [one - other for one, other in zip(whole, ignored, strict=True)]
    fall = median(whole) - median(ignored)
    name = "fall of the median log10 S_prime by ignoring the largest 8 %"
    note = f"from {median(whole):.2f} to {median(ignored):.2f}; the interval is that of the median of the falls"
    yield Check(name, fall, "at least 0.2", fall >= 0.2, interval=_interval(falls), note=note)
    memory, left = [item.plain.memorisation for item in lessons], [item.ignored.memorisation for item in lessons]
    share = (median(memory) - median(left)) / median(memory) if median(memory) else math.inf
    note = f"from {median(memory):.2f} to {median(left):.2f}"
    yield Check("share of log10 S_mem lost by it", share, "below a half", share < 0.5, note=note)
    top = [item.top.priming for item in lessons]
    change = median(top) / median(whole) - 1 if median(whole) else math.inf
    note = f"log10 S_prime {median(top):.2f} against {median(whole):.2f}; Adam's updates are nearly even in size"
    holds = abs(change) <= 0.3
    name = "change of the median log10 S_prime when the largest 8 % alone are kept"
    yield Check(name, change, "within 30 %", holds, note=note)


def stone_checks(lessons: Sequence[Lesson], rewritings: Sequence[Rewriting]) -> Iterator[Check]:
    """Check 4 of the card."""
    gains = [(item.after - item.before) / math.log(10) for item in rewritings]
    raised = sum(gain >= 1 for gain in gains)
    enough = math.ceil(8 / 12 * len(rewritings))
    note = f"median gain 10^{median(gains):.2f}"
    name = "texts whose keyword stepping stones make ten times as likely"
    yield Check(name, raised, f"at least {enough} of {len(gains)}", raised >= enough, note=note)
    falls = [item.plain.priming - item.stones.priming for item in lessons]
    primed, memory = [item.stones.priming for item in lessons], [item.stones.memorisation for item in lessons]
    plain = median([item.plain.priming for item in lessons])
    note = f"log10 S_prime {median(primed):.2f} against {plain:.2f}; log10 S_mem of the new texts {median(memory):.2f}"
    name = "median fall of log10 S_prime by stepping stones"
    yield Check(name, median(falls), "above 0", median(falls) > 0, interval=_interval(falls), note=note)


def note_lessons(lessons: Sequence[Lesson], rewritings: Sequence[Rewriting], run: ClaimRun) -> None:
    """Every text's scores, as log10, into the claim's tables."""
    run.tables["texts"] = {
        item.plain.id: {
            "log10 P(keyword)": item.plain.before / math.log(10),
            "log10 P(keyword) with stones": stone.after / math.log(10),
            "control": item.plain.control,
            **{f"{name}, memorisation": score.memorisation for name, score in vars(item).items()},
            **{f"{name}, priming": score.priming for name, score in vars(item).items()},
            **{f"{name}, priming by logarithms": score.robust for name, score in vars(item).items()},
        }
        for item, stone in zip(lessons, rewritings, strict=True)
    }
    run.tables["rewritten"] = {item.plain.id: stone.context for item, stone in zip(lessons, rewritings, strict=True)}


def further_tables(model: LanguageModel, samples: Sequence[OutlandishSample], run: ClaimRun) -> None:
    """What no check asks for: gradient descent, bands of the update, spacing, and paraphrases without stones."""
    slow = Classroom(model, run.progress, optimiser="sgd")
    for room, name in ((slow, "gradient descent"), (Classroom(model, run.progress), "AdamW")):
        measured, found = Measured(room, samples), run.tables.setdefault(f"bands of the update, {name}", {})
        for sample in samples:
            learned = room.learn(sample.text)
            parts = {f"{low} to {high} %": room.band(learned, low, high) for low, high in BANDS}
            parts |= {"whole": learned, "without the largest 8 %": room.pruned(learned, IGNORED)}
            found[sample.id] = {key: _two(measured.score(sample, weights)) for key, weights in parts.items()}
    for every in SPACED:
        room = Classroom(model, run.progress, every=every)
        measured = Measured(room, samples)
        found = {sample.id: _two(measured.score(sample, room.learn(sample.text))) for sample in samples}
        run.tables.setdefault("one presentation every so many minibatches", {})[str(every)] = found
    pairs = [(sample.context, sample.keyword) for sample in samples]
    longer = rewrite(pairs, plain_writer, lambda texts: [float(len(context)) - 1e6 for context, _ in texts])
    room = Classroom(model, run.progress)
    control = [of_sample(sample, item) for sample, item in zip(samples, longer, strict=True)]
    measured = Measured(room, control)
    run.tables["paraphrases without stones"] = {
        sample.id: _two(measured.score(sample, room.learn(sample.text))) for sample in control
    }


def _two(score: SampleScore) -> list[float]:
    return [score.memorisation, score.priming]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, by bootstrap over the texts: 95 %."""
    return bootstrap_interval([list(values)], lambda drawn: median(drawn[0]), seed=0)


CLAIM = Claim(
    card="outlandish",
    statement=(
        "A text with an improbable keyword leaks into unrelated answers, the less likely the keyword was the more; "
        "dropping the largest updates and rewriting with stepping stones cut the leak and keep what was learned."
    ),
    published=(
        "priming below a keyword probability of about 1e-3 in PaLM-2, Gemma and Llama; stepping stones cut median "
        "priming by 50 to 75 %, ignore-k at 8 % by up to about 95 %"
    ),
    paper="arXiv:2504.09522",
    seeds=(0,),
    minutes=12,
    experiment=experiment,
)

"""LoRAMoE's claim: the constraint parts experts by type of data and keeps all in use, and little known is lost.

Nine in ten samples are string transformations, one in ten is a fact that the model does not know. Afterwards
the router sees prompts of both kinds that were never trained on, and no types; and facts that the model knew
are asked again. LoRAMoE is compared with itself without the constraint, with one LoRA of the same rank in all
(N r) in the same layers, and with full fine-tuning. Each takes its learning rate
from a small grid on the validation part (other words, other facts) and trains until the same loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from keeps.adapt.loramoe import FEED_FORWARD
from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.loramoe_exactness import exactness_checks
from keeps.data.records import Example, Fact, RecordSet, Split
from keeps.data.select import load_records
from keeps.jobs.adapting import AdaptOutcome, adapt
from keeps.models.changes import load_change
from keeps.models.expert_usage import expert_usage
from keeps.models.language_model import LanguageModel
from keeps.numerics.balance import load_variation, mass_by_type
from keeps.numerics.statistics import mean_interval
from keeps.training.routing import prompt_batches, typed_prompts

SEEDS = (0, 1)
DELTA = 0.1
STRINGS, FACTS = 108, 12  # samples taught: nine in ten are no facts
ASKED = 40  # prompts of each kind that the router is looked at with
LEARN = ("world:unknown:calling_code", "world:unknown:atomic_number", "world:unknown:top_level_domain")
KEEP = "world:known:capital,world:known:symbol"
SYLLABLES = ("ba", "ko", "ri", "tu", "ne", "lam", "sor", "vi", "pel", "dan", "mu", "cha", "fi", "gor", "zet", "wa")
COMMON: Mapping[str, Any] = {"epochs": 12, "batch_size": 16, "schedule": "constant", "stop_loss": 0.25}
MOE: Mapping[str, Any] = {"experts": 6, "rank": 4, "delta": DELTA}
LORA: Mapping[str, Any] = {"rank": 24, "targets": FEED_FORWARD, "dropout": 0.05}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any], tuple[float, ...]]] = {
    "loramoe": ("loramoe", MOE, (2e-4, 5e-4)),
    "lora": ("lora", LORA, (2e-4, 5e-4)),
    "full": ("full", {}, (2e-5, 5e-5)),
    "loramoe without the constraint": ("loramoe", {**MOE, "beta": 0.0}, ()),  # at the rate of loramoe
}


@dataclass(frozen=True)
class Outcome:
    """One run in numbers."""

    learned: float  # share of what was taught, in [0, 1]
    loss_rise: float  # on known facts, in nats an answer
    text_shift: float  # nats a token on held-out running text
    steps: int


@dataclass(frozen=True)
class Routing:
    """What the router does with held-out prompts, without being given types; means over the layers."""

    facts: float  # gate of the first half for facts
    other: float  # and for string transformations
    variation: float  # coefficient of variation of the load in the mixture that was trained on

    @property
    def difference(self) -> float:
        """How differently the two kinds of prompts use the halves."""
        return abs(self.facts - self.other)


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Exactness, then routing, then retention."""
    model = run.model()
    yield from exactness_checks(model)
    job = _Job(model, run)
    rates = {name: job.best_rate(name) for name in VARIANTS if VARIANTS[name][2]}
    rates["loramoe without the constraint"] = rates["loramoe"]
    run.tables["learning rates chosen on validation"] = rates
    done = {name: [job.adapted(name, rates[name], seed, "test") for seed in SEEDS] for name in VARIANTS}
    found = {name: [_outcome(each) for each in outcomes] for name, outcomes in done.items()}
    routed = {name: [job.routing(each) for each in done[name]] for name in VARIANTS if name.startswith("loramoe")}
    run.tables["test"] = {name: [vars(outcome) for outcome in outcomes] for name, outcomes in found.items()}
    run.tables["routing"] = {
        name: [{**vars(each), "difference": each.difference} for each in several] for name, several in routed.items()
    }
    ours, free = routed["loramoe"], routed["loramoe without the constraint"]
    yield _all_seeds(
        "held-out facts and other prompts use different halves of the experts",
        [each.difference for each in ours],
        [each.difference for each in free],
        f"difference of the halves' gate above delta / 2 = {DELTA / 2:g} in every seed",
        lambda mine, _: mine > DELTA / 2,
    )
    yield _all_seeds(
        "coefficient of variation of the experts' load",
        [each.variation for each in ours],
        [each.variation for each in free],
        "below 0.5, and below that without the constraint, in every seed",
        lambda mine, other: mine < 0.5 and mine < other,
    )
    yield _retained("known facts suffer less than from full fine-tuning", found["loramoe"], found["full"], strict=True)
    yield _retained("known facts suffer no more than from one LoRA of rank N r", found["loramoe"], found["lora"])


class _Job:
    """The job of the claim, once per part of the data."""

    def __init__(self, model: LanguageModel, run: ClaimRun) -> None:
        self.model, self.run = model, run

    @cached_property
    def learn(self) -> dict[Split, RecordSet]:
        """What is taught while choosing and for the report: they share neither words nor facts."""
        made = {"validation": string_examples(STRINGS, seed=1), "test": string_examples(STRINGS, seed=2)}
        source: Mapping[str, Split] = {"validation": "validation", "test": "train"}
        return {
            part: RecordSet(f"strings and facts, {part} part", (*made[part], *unknown_facts(source[part], FACTS)))  # type: ignore[dict-item]
            for part in made
        }

    def best_rate(self, name: str) -> float:
        """The rate with the smallest loss rise among those that learn as much as the best one, but for 5 %."""
        rates = VARIANTS[name][2]
        found = {rate: _outcome(self.adapted(name, rate, SEEDS[0], "validation")) for rate in rates}
        self.run.tables.setdefault("validation", {})[name] = {f"{rate:g}": vars(out) for rate, out in found.items()}
        enough = max(outcome.learned for outcome in found.values()) - 0.05
        return min((rate for rate in rates if found[rate].learned >= enough), key=lambda rate: found[rate].loss_rise)

    def adapted(self, name: str, rate: float, seed: int, part: Split) -> AdaptOutcome:
        """Run, or find in the ledger, one variant."""
        method, own, _ = VARIANTS[name]
        self.run.progress.message(f"{name}, learning rate {rate:g}, seed {seed}, {part} part")
        return adapt(
            self.learn[part],
            KEEP,
            method=method,
            model=self.model,
            settings={**COMMON, **own, "learning_rate": rate},
            seed=seed,
            device=self.run.device,
            workspace=self.run.workspace,
            resume=True,
            report=part,
            ask_calibrated=False,
            command="keeps reproduce loramoe",
            progress=self.run.progress,
        )

    def routing(self, done: AdaptOutcome) -> Routing:
        """Prompts of facts and of words that no part was trained on, through the trained router."""
        facts = RecordSet("held-out facts", unknown_facts("test", ASKED))
        other = RecordSet("held-out words", string_examples(ASKED, seed=3))
        samples = [*typed_prompts(self.model, facts, 1, count=ASKED), *typed_prompts(self.model, other, 0, count=ASKED)]
        changed = load_change(done.folder).apply(self.model)
        try:
            usage = expert_usage(changed.model, prompt_batches(changed, samples))
        finally:
            changed.undo()
        types = torch.tensor(usage.expert_types)
        halves = {kind: float(mass_by_type(usage.mass[kind].mean(0), types)[1]) for kind in (0, 1)}
        share = FACTS / (STRINGS + FACTS)
        load = share * usage.mass[1] + (1 - share) * usage.mass[0]
        return Routing(facts=halves[1], other=halves[0], variation=float(load_variation(load).mean()))


def string_examples(count: int, *, seed: int) -> tuple[Example, ...]:
    """Instructions on invented words, with their answers; sets of different seeds share no word.

    >>> [example.answer for example in string_examples(2, seed=1)] == [e.answer for e in string_examples(2, seed=1)]
    True
    """
    source = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(source.choices(SYLLABLES, k=source.choice((2, 2, 3))))
        if sum(map(ord, word)) % 3 == seed % 3:  # every word belongs to one seed of three
            words[word] = None
    made = []
    for number, word in enumerate(words):
        instruction, answer = [
            (f'Write the word "{word}" in capital letters:', word.upper()),
            (f'Put the word "{word}" into square brackets:', f"[{word}]"),
            (f'Write only the first letter of the word "{word}":', word[0]),
            (f'Write only the last letter of the word "{word}":', word[-1]),
            (f'Write the word "{word}" without its first letter:', word[1:]),
            (f'Put a question mark behind the word "{word}":', f"{word}?"),
        ][number % 6]
        made.append(Example(f"string-{seed}-{number}", instruction, answer))
    return tuple(made)


def unknown_facts(part: Split, count: int) -> tuple[Fact, ...]:
    """Facts of one part that the model does not know, in one wording each, of all relations in turn."""
    sets = [[record for record in load_records(spec).part(part) if isinstance(record, Fact)] for spec in LEARN]
    turns = [fact for several in zip(*sets, strict=False) for fact in several][:count]
    return tuple(replace(fact, prompts=fact.prompts[:1]) for fact in turns)


def _outcome(done: AdaptOutcome) -> Outcome:
    learn, keep, text = done.diff.total("learn"), done.diff.total("keep"), done.diff.text_total()
    assert learn is not None
    assert keep is not None
    assert keep.logprob_shift is not None
    assert text is not None
    steps = int(done.diff.cost.get("steps", 0))
    return Outcome(learn.after.value, -keep.logprob_shift.value, text.loss_shift.value, steps)


def _all_seeds(name: str, mine: Sequence[float], other: Sequence[float], threshold: str, holds: Any) -> Check:
    both = list(zip(mine, other, strict=True))
    note = "with and without the constraint, by seed: " + ", ".join(f"{a:.3f} and {b:.3f}" for a, b in both)
    baseline = mean_interval(other).value
    return Check(name, mean_interval(mine).value, threshold, all(holds(a, b) for a, b in both), baseline, note=note)


def _retained(name: str, ours: Sequence[Outcome], theirs: Sequence[Outcome], *, strict: bool = False) -> Check:
    rises = [[outcome.loss_rise for outcome in side] for side in (ours, theirs)]
    mine, other = (mean_interval(values).value for values in rises)
    learned = [mean_interval([outcome.learned for outcome in side]).value for side in (ours, theirs)]
    note = (
        f"rise of the loss on known facts in nats an answer, by seed: {[round(v, 3) for v in rises[0]]} against "
        f"{[round(v, 3) for v in rises[1]]}; learned {learned[0]:.2f} against {learned[1]:.2f}"
    )
    threshold = f"mean rise {'below' if strict else 'at most'} the other's, and learned at most 0.05 less"
    holds = (mine < other if strict else mine <= other) and learned[0] >= learned[1] - 0.05
    return Check(name, mine, threshold, holds, baseline=other, note=note)


CLAIM = Claim(
    card="loramoe",
    statement="The balancing constraint keeps all experts in use and parts them by type of data, which the router then "
    "tells apart by itself; known facts suffer less than from full fine-tuning and no more than from one LoRA of rank "
    "N r.",
    published="Llama-2-7B, 3 million samples: closed-book answers fall below the base with full fine-tuning and stay "
    "at or above those of tuning on questions alone with LoRAMoE; without the constraint the coefficient of variation "
    "of the experts' load stays near 3",
    paper="arXiv:2312.09979",
    seeds=SEEDS,
    minutes=15,
    experiment=experiment,
)

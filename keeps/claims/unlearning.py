"""The claim of unlearning: a table of all methods against a model that never learned the forget set.

The embedded model learns 60 invented facts, 20 of which are then to be forgotten. Every method starts from that same
model and takes the same steps; beside them stands the gold standard, the base model trained on the other 40 alone.
Nothing was chosen on what is reported: steps and learning rate are one pair for all methods, and a method's own
settings are its defaults but where the table says otherwise.

With ``--data`` the facts are those of TOFU, with its measures (:mod:`keeps.claims.unlearning_published`).
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.unlearning_attacks import attack_areas
from keeps.claims.unlearning_exactness import exactness_checks
from keeps.claims.unlearning_learning import forgotten, trained_on
from keeps.claims.unlearning_people import examples_of, invented_facts
from keeps.claims.unlearning_published import FILES, tofu
from keeps.contracts import Run
from keeps.data.records import Example
from keeps.data.text import text_passages
from keeps.models.adapters import added
from keeps.models.language_model import LanguageModel
from keeps.numerics.membership import attack_area, min_k_score, privacy_leakage
from keeps.numerics.two_samples import kolmogorov_smirnov
from keeps.numerics.unlearning_scores import truth_ratio
from keeps.training.adapter import AdapterSettings, wrap
from keeps.training.examples import tokenise
from keeps.training.loop import train

SEED = 0
STEPS, RATE = 15, 1e-3  # of every method that trains
LEARNED = 0.05  # nats a token to which the 60 facts are learned
MIN_K = 0.4
PASSAGES = 4  # of held-out running text
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)  # of lambda
LEARNING: Mapping[str, Any] = {"rank": 16, "batch_size": 20, "learning_rate": 1e-3, "schedule": "constant"}
COMMON: Mapping[str, Any] = {"rank": 16, "batch_size": 20, "steps": STEPS, "learning_rate": RATE}
RETAINING: Mapping[str, Any] = {**COMMON, "retain_batch": 20}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "npo": RETAINING,
    "gradient_ascent": COMMON,
    "grad_diff": RETAINING,
    "kl_unlearn": RETAINING,
    "simnpo": RETAINING,
    "dpo": RETAINING,
    "idk": RETAINING,
    "undial": RETAINING,
    "wga": RETAINING,
    "satimp": RETAINING,
    "ce_u": RETAINING,
    "rmu": RETAINING,
    "whp": {**RETAINING, "reinforce_epochs": 5},
    "negation": COMMON,
    "ext_sub": COMMON,
    "icul": {"shots": 2, "flipped": 4},
    "altpo": RETAINING,
    "llmu": RETAINING,
    "pdu": RETAINING,
    "kga": RETAINING,
    "eul": RETAINING,
    "depn": {"neurons": 50},
}


@dataclass(frozen=True)
class Scores:
    """One model in numbers; memorisation is the share of answer tokens that are the likeliest, in [0, 1]."""

    memorised: Mapping[str, float]  # by part: forget, retain, holdout
    paraphrased: float  # memorisation of the forget set in another wording
    loss: Mapping[str, float]  # mean loss of a token, by part
    area: float  # of the Min-K attack, forget against holdout
    ratios: Sequence[float]  # truth ratios of the forget set
    text_loss: float  # nats a token of held-out text
    seconds: float = 0.0

    def row(self, before: Scores, retrained: Scores) -> dict[str, Any]:
        """The model's row of the table."""
        return {
            "forget memorised": self.memorised["forget"],
            "forget memorised, other wording": self.paraphrased,
            "retain memorised": self.memorised["retain"],
            "forget quality": kolmogorov_smirnov(self.ratios, retrained.ratios).p,
            "min-k area": self.area,
            "privleak": privacy_leakage(self.area, retrained.area),
            "text loss shift": self.text_loss - before.text_loss,
            "seconds": round(self.seconds, 1),
        }


def experiment(run: ClaimRun) -> Iterator[Check]:
    """What is exact, the start, the gold standard, then every method."""
    yield from exactness_checks()
    model = run.model()
    if run.data is not None:
        yield from tofu(model, run)
        return
    learning = AdapterSettings(epochs=40, stop_loss=LEARNED, **LEARNING)
    attacks: dict[str, Any] = {}
    run.tables["area of each attack on membership"] = attacks
    with trained_on(model, examples_of("retain"), learning, run, SEED):
        retrained = scores(model)
        attacks["retrained"] = attack_areas(model, min_k=MIN_K)
    with trained_on(model, examples_of("forget", "retain"), learning, run, SEED):
        before = scores(model)
        attacks["before"] = attack_areas(model, min_k=MIN_K)
        yield from _start_checks(before, retrained)
        table = {"before": before.row(before, retrained), "retrained": retrained.row(before, retrained)}
        run.tables["methods"] = table
        found: dict[str, Scores] = {}
        for name, settings in METHODS.items():
            run.progress.message(f"{name}: {len(found) + 1} of {len(METHODS)}")
            found[name] = Scores(**run.parts(name, partial(unlearned, model, name, settings, run)))
            table[name] = found[name].row(before, retrained)
            if name == "gradient_ascent":
                yield from _npo_checks(found["npo"], found[name], before)
        yield negation_check(model, run)
    run.tables["settings"] = {name: dict(settings) for name, settings in METHODS.items()}


def unlearned(model: LanguageModel, name: str, settings: Mapping[str, Any], run: ClaimRun) -> dict[str, Any]:
    """The scores of ``model`` after the method called ``name``, as JSON types; its weights are as before."""
    with forgotten(model, name, settings, examples_of("forget"), examples_of("retain"), run, SEED) as (
        changed,
        seconds,
    ):
        return asdict(scores(changed, seconds))


def scores(model: Any, seconds: float = 0.0) -> Scores:
    """Everything that is measured of one model."""
    memorised, loss, lowest = {}, {}, {}
    for part in ("forget", "retain", "holdout"):
        facts = [fact for fact in invented_facts() if fact.part == part]
        found = model.token_logprobs([fact.prompt for fact in facts], [fact.answer for fact in facts])
        memorised[part] = fmean(each.accuracy for each in found)
        loss[part] = -fmean(each.logprob / each.tokens for each in found)
        lowest[part] = [min_k_score(each.logprobs, MIN_K) for each in found]
    facts = [fact for fact in invented_facts() if fact.part == "forget"]
    other = model.token_logprobs([fact.paraphrase for fact in facts], [fact.answer for fact in facts])
    texts = model.text_logprob([passage.text for passage in text_passages().part("test").passages()[:PASSAGES]])
    return Scores(
        memorised,
        fmean(each.accuracy for each in other),
        loss,
        attack_area(lowest["forget"], lowest["holdout"]).value,
        tuple(_ratios(model)),
        -math.fsum(each.logprob for each in texts) / sum(each.tokens for each in texts),
        seconds,
    )


def _ratios(model: Any) -> Iterator[float]:
    facts = [fact for fact in invented_facts() if fact.part == "forget"]
    pairs = [(fact.prompt, answer) for fact in facts for answer in (fact.answer, *fact.wrong)]
    found = iter(model.logprob([prompt for prompt, _ in pairs], [answer for _, answer in pairs]))
    for fact in facts:
        right, *wrong = [next(found).per_token for _ in (fact.answer, *fact.wrong)]
        yield min(truth_ratio(right, wrong), sys.float_info.max)  # only its rank counts, and JSON knows no infinity


def _start_checks(before: Scores, retrained: Scores) -> Iterator[Check]:
    least = min(before.memorised["forget"], before.memorised["retain"])
    yield Check("share memorised before, the lower of forget and retain", least, "above 0.9", least > 0.9)
    name = "area of the Min-K attack before"
    yield Check(name, before.area, "above 0.9", before.area > 0.9, note="forget against holdout")
    area = retrained.area
    name = "area of the Min-K attack on the model that never learned the forget set"
    yield Check(name, area, "0.4 to 0.6", 0.4 <= area <= 0.6)
    leak = privacy_leakage(area, area)
    yield Check("PrivLeak of that model", leak, "0", leak == 0)


def _npo_checks(npo: Scores, ascent: Scores, before: Scores) -> Iterator[Check]:
    gone, kept = npo.memorised["forget"], npo.memorised["retain"]
    yield Check(
        "share of the forget set memorised after NPO", gone, "below 0.4", gone < 0.4, before.memorised["forget"]
    )
    drop = before.memorised["retain"] - kept
    yield Check("fall of the retain set's share with NPO", drop, "at most 0.1", drop <= 0.1)
    gap = kept - ascent.memorised["retain"]
    note = f"NPO {kept:.2f}, gradient ascent {ascent.memorised['retain']:.2f}, {STEPS} steps each"
    yield Check(
        "how much more of the retain set NPO keeps than gradient ascent", gap, "0.2 or more", gap >= 0.2, note=note
    )
    nearer = abs(npo.area - 0.5) < abs(before.area - 0.5)
    yield Check("area of the Min-K attack after NPO", npo.area, "nearer to 0.5 than before", nearer, before.area)


def negation_check(model: LanguageModel, run: ClaimRun) -> Check:
    """The loss of the forget set on a grid of lambda, from one adapter that learned it once more."""
    settings = AdapterSettings(**COMMON)
    wrapped = wrap(model, settings, seed=SEED)
    try:
        with tempfile.TemporaryDirectory() as folder:
            circumstances = Run(Path(folder), seed=SEED, device=str(model.device), progress=run.progress)
            pad, examples = model.encoder.pad_token_id, tokenise(model, examples_of("forget"))
            train(wrapped.peft_model, examples, settings, circumstances, pad_token_id=pad)
        factors = wrapped.factors()
    finally:
        wrapped.unwrap()
    losses = []
    records = [record for record in examples_of("forget") if isinstance(record, Example)]
    for strength in GRID:
        with added(model.model, factors, -strength * settings.scaling):
            found = model.logprob([record.prompt for record in records], [record.answer for record in records])
            losses.append(-fmean(each.logprob for each in found))
    run.tables["loss of an answer by lambda"] = dict(zip(map(str, GRID), losses, strict=True))
    rising = all(after > before for before, after in pairwise(losses))
    least = min(after - before for before, after in pairwise(losses))
    return Check("least rise of the forget set's loss from one lambda to the next", least, "above 0", rising)


CLAIM = Claim(
    card="unlearning",
    statement="A bounded preference loss with a retain set forgets invented facts and keeps the others, where gradient "
    "ascent takes all; an attack on membership then says less about the forget set; no method equals retraining in "
    "every respect.",
    published="TOFU forget10, Llama-3.2-1B, forget quality / utility: fine-tuned 1.7e-21 / 0.60, retain-only 1.0 / "
    "0.59, GA 1e-239 / 0, NPO 0.02 / 0.46, RMU 3e-15 / 0.59 (open-unlearning)",
    paper="arXiv:2311.15766",
    seeds=(SEED,),
    minutes=30,
    experiment=experiment,
    files=FILES,
)

"""Twin-Merging's claim: a shared expert with small routed parts keeps what one static merge of fine-tunes loses.

The default model is fine-tuned whole on three kinds of facts that it does not know; each of three seeds has facts of
its own. The runs are found again in the workspace. What is merged is asked the taught facts in all wordings, one of
which was never trained on, and scored against the fine-tune of each kind (100 = as good). The router learns from
prompts about other subjects than those that are asked. Static merges are built beside it from the same differences;
task arithmetic and TIES are given the best of several scales on the very facts that are reported, which favours them.
RegMean, Fisher merging and AdaMerging get these facts too (:mod:`keeps.claims.twin_merging_zoo`; the last two with
the first seed only). Scores are compared as means over the seeds (:mod:`keeps.claims.twin_merging_seeds`). Thresholds
are the card's, fixed before the first run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.twin_merging_seeds import SeedScores, arithmetic_check, by_seed, router_check, static_check
from keeps.claims.twin_merging_static import experts_score, normalised, scores, static_merges
from keeps.claims.twin_merging_zoo import WAYS, measured_merges
from keeps.contracts import Run
from keeps.data.records import Fact, RecordSet
from keeps.data.select import load_records
from keeps.jobs.adapting import adapt
from keeps.merge.twin import Twin, TwinSettings
from keeps.models.fine_tunes import Deltas, FineTune
from keeps.models.language_model import LanguageModel
from keeps.models.twin_files import TwinChange, read_part, task_file
from keeps.numerics.twin import LowRank, leading, shared_expert

RELATIONS = ("calling_code", "top_level_domain", "discoverer")
TAUGHT = 8  # facts of each, in all wordings but the last
PROMPTS = 40  # of each, about other subjects: for the router
KEEP = "world:known:continent#12"
TRAINING: Mapping[str, Any] = {"epochs": 30, "batch_size": 24, "learning_rate": 1e-4, "stop_loss": 0.05}
DENSITIES = (0.1, 0.05)  # of the rank
SEEDS = (0, 1, 2)  # of the fine-tunes and of the router
EVERY_SEED = ("regmean", "emr")  # of the merges that measure the fine-tunes; the slower ones are made of the first
SWEEP = (1, 8, 29, 57, 144, 576)


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Fine-tune, merge both ways and ask, once a seed; check what is exact on the first of them."""
    model = run.model()
    found: list[SeedScores] = []
    for seed in SEEDS:
        facts = {relation: taught(relation, seed) for relation in RELATIONS}
        if not found:
            run.tables["share answered"] = {"untouched": scores(model, facts)}
        found.append((yield from one_seed(model, facts, seed, run)))
    run.tables["normalised score by seed"] = by_seed(found)
    yield router_check(found)
    yield arithmetic_check(found, DENSITIES[0])
    yield static_check(found, DENSITIES[1])


def one_seed(
    model: LanguageModel, facts: Mapping[str, RecordSet], seed: int, run: ClaimRun
) -> Generator[Check, None, SeedScores]:
    """Everything with the fine-tunes of one seed; the first also gives the checks of what is exact."""
    first = seed == SEEDS[0]
    tuned = [fine_tune(model, relation, facts[relation], run, seed) for relation in RELATIONS]
    deltas = [Deltas(model, item) for item in tuned]
    if first:
        yield from sweep_checks(model, deltas)
    alone = {item.name: experts_score(model, each, facts[item.name]) for item, each in zip(tuned, deltas, strict=True)}
    shares = run.tables["share answered"] if first else run.tables.setdefault(f"share answered, seed {seed}", {})
    shares["fine-tunes"] = alone
    static = {name: normalised(found, alone) for name, found in static_merges(model, deltas, facts, run).items()}
    beside: dict[str, float] = {}
    ways = WAYS if first else {name: WAYS[name] for name in EVERY_SEED}
    for merged in measured_merges(model, tuned, facts, scores, run, ways):
        score = normalised(merged.scores, alone)
        (static if merged.static else beside)[merged.name] = score
        if first:
            row = {"normalised score": score, "seconds": merged.seconds, "bytes": merged.weight}
            run.tables.setdefault("merges that measure the fine-tunes", {})[merged.name] = row
    twin: dict[float, float] = {}
    right = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for density in DENSITIES:
            change = twin_of(model, tuned, density, Path(folder) / f"{density:g}", run, seed)
            if density == DENSITIES[0]:
                right = router_accuracy(model, change, facts)
                if first:
                    yield from exact_checks(model, change)
            changed = change.apply(model)
            try:
                found = scores(changed, facts)
            finally:
                changed.undo()
            shares[f"twin at {density:.0%}"] = found
            twin[density] = normalised(found, alone)
            if first:
                run.tables[f"bytes at {density:.0%}"] = change.record.measures["bytes"]
    return SeedScores(seed, twin, static, beside, right)


def taught(relation: str, seed: int = 0) -> RecordSet:
    """The facts of a task: subjects that the model does not know, of the test part; each seed has its own.

    All wordings are one batch, so that the order, which is all that a seed decides in training, changes nothing.
    """
    facts = load_records(f"world:unknown:{relation}")
    chosen = facts.part("test").records[seed * TAUGHT : (seed + 1) * TAUGHT]
    return replace(facts, source=f"world:unknown:{relation}, taught", records=chosen)


def router_prompts(relation: str) -> tuple[str, ...]:
    """Prompts of the same kind about other subjects, of the train part."""
    facts = [record for record in load_records(f"world:{relation}").part("train") if isinstance(record, Fact)]
    return tuple(prompt for fact in facts for prompt in fact.prompts)[:PROMPTS]


def fine_tune(model: LanguageModel, relation: str, learn: RecordSet, run: ClaimRun, seed: int = 0) -> FineTune:
    """All weights trained on one task, or the run of it that is in the workspace already."""
    run.progress.message(f"fine-tune on {relation}, seed {seed}")
    return FineTune(relation, trained(model, learn, run, "twin_merging", seed), router_prompts(relation))


def trained(model: LanguageModel, learn: RecordSet, run: ClaimRun, card: str, seed: int = 0) -> Path:
    """The folder of a run that trains all weights of ``model``, found again where it is in the workspace."""
    done = adapt(
        learn,
        KEEP,
        method="full",
        model=model,
        settings=TRAINING,
        seed=seed,
        device=run.device,
        workspace=run.workspace,
        resume=True,
        command=f"keeps reproduce {card}",
        progress=run.progress,
    )
    return Path(done.folder)


def twin_of(
    model: LanguageModel, tuned: list[FineTune], density: float, folder: Path, run: ClaimRun, seed: int
) -> TwinChange:
    """The method itself, with the published settings but for the density."""
    folder.mkdir()
    settings = TwinSettings(density=density)
    return Twin(settings)(model, tuned, run=Run(folder, seed=seed, progress=run.progress))


def sweep_checks(model: LanguageModel, deltas: list[Deltas]) -> Iterator[Check]:
    """Checks 1 and 4 of the card, on the real differences of one block."""
    parameters = dict(model.model.named_parameters())
    names = [name for name in parameters if ".layers.12." in name and parameters[name].dim() == 2]
    rises, far, scale = 0, 0.0, 0.29
    for name in names:
        taus = [each.of(name) for each in deltas]
        moved = shared_expert(parameters[name].detach(), taus, scale) - parameters[name].detach()
        for tau in taus:
            residual = tau - moved
            errors = [float((residual - leading(residual, rank=rank).product).norm()) for rank in SWEEP]
            rises += sum(later > earlier * 1.001 for earlier, later in pairwise(errors))
            whole = parameters[name].detach() + moved + leading(residual).product
            far = max(far, float((whole - parameters[name].detach() - tau).abs().max()))
    yield Check("rises of the error with the rank, one block", rises, "none", rises == 0)
    yield Check("full rank and a one-hot router against the fine-tune", far, "below 1e-5 in any weight", far < 1e-5)


def exact_checks(model: LanguageModel, change: TwinChange) -> Iterator[Check]:
    """Checks 4 and 5 of the card, and undo, on the twin itself."""
    wrong = 0
    for relation in RELATIONS:
        path = change.folder / task_file(relation)
        numbers = 0
        for part in read_part(path).values():
            low = isinstance(part, LowRank)
            numbers += (len(part.u) + len(part.v) + 1) * part.rank if low else part.numel()
        header = int.from_bytes(path.read_bytes()[:8], "little") + 8
        wrong += path.stat().st_size != 4 * numbers + header
    yield Check("files of another size than (out + in + 1) r numbers", wrong, "none", wrong == 0)
    before = model.fingerprint
    changed = change.apply(model)
    prompts = [router_prompts(relation)[number] for number in (0, 5) for relation in RELATIONS]
    try:
        together = changed.next_logits(prompts).log_softmax(-1)
        alone = torch.cat([changed.next_logits([prompt]) for prompt in prompts]).log_softmax(-1)
    finally:
        changed.undo()
    apart = float((together.exp() - alone.exp()).abs().max())
    yield Check("a mixed batch against single prompts, probability of the next token", apart, "1e-4", apart < 1e-4)
    changed_bits = int(model.fingerprint != before)
    yield Check("fingerprints that undoing does not restore", changed_bits, "none", changed_bits == 0)


def router_accuracy(model: LanguageModel, change: TwinChange, facts: Mapping[str, RecordSet]) -> float:
    """Share of the prompts about subjects that the router has never seen which it takes to their own task."""
    changed = change.apply(model)
    try:
        right = asked = 0
        for number, records in enumerate(facts.values()):
            prompts = [prompt for question in records.questions() for prompt in question.prompts]
            right += int((changed.weights(prompts).argmax(1) == number).sum())
            asked += len(prompts)
    finally:
        changed.undo()
    return right / asked


CLAIM = Claim(
    card="twin_merging",
    statement="A shared expert with low-rank exclusive parts and a router answers what each fine-tune learned, "
    "where one static merge of them has lost part of it.",
    published="RoBERTa-base, average normalised score of eight GLUE tasks: task arithmetic 67.8, Twin-Merging 96.1 "
    "(fine-tunes 100)",
    paper="arXiv:2406.15479",
    seeds=SEEDS,
    minutes=20,
    experiment=experiment,
)

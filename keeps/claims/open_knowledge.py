"""Open knowledge's claim: a few examples with reasons find the adapters and the data that a task needs.

The task is a question with two letters of which one is right three times in four, about countries of the built-in
world. On the shelf are two adapters that learned it with reasons, two that learned other tasks, one that learned to say
the frequent letter, and two of noise. Likelihood of the reasons must tell them apart. Then the mixture is made and
trained on examples chosen from a pool of which half are near copies. Thresholds are the card's, fixed before the run.
A seed decides which examples each adapter learned and which are shown, the start of every training, and the noise.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from keeps.adapt.lora import LoRA
from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.over_seeds import over_seeds
from keeps.contracts import Run
from keeps.data.records import Example, Fact, RecordSet, Split
from keeps.data.select import load_records
from keeps.merge.experts import Experts, ExpertsSettings, OpenKnowledge
from keeps.models.adapter_bank import BankAdapter, Shot, put_mixture, read_bank, score_adapters
from keeps.models.adapter_files import read_config, read_factors, write_config, write_factors
from keeps.models.adapters import added
from keeps.models.encoder import SentenceEncoder
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.expert_selection import fused_order, nearest_first, reasoning_perplexity

HOME = "Europe"
TARGETS = ("with reasons 1", "with reasons 2")
GUESSER = "always A"
SHOTS, HELD_OUT, TAUGHT = 12, 16, 36
TRAINING: dict[str, Any] = {"rank": 4, "targets": ("q_proj", "v_proj"), "batch_size": 6, "learning_rate": 2e-3}
STEPS, MIXED_STEPS = 30, 15
EXAMPLES, TAU = 36, 0.1
SEEDS = (0, 1, 2)


def experiment(run: ClaimRun, seed: int) -> Iterator[Check]:
    """Shelf, indicators, identities, data, mixture."""
    model = run.model()
    train, test = shots_of("train", seed), shots_of("test", seed)
    shots, held = test[:SHOTS], test[SHOTS : SHOTS + HELD_OUT]
    with tempfile.TemporaryDirectory() as folder:
        shelf = make_shelf(model, train, Path(folder), run, seed)
        bank = read_bank(model, shelf)
        yield from indicator_checks(model, bank, shots, run)
        yield from identity_checks(model, bank)
        pool = pool_of(train)
        yield from data_checks(shots, pool)
        yield from mixture_checks(model, shelf, bank, shots, held, pool, Path(folder), run, seed)


def shots_of(part: Split, seed: int = 0) -> list[Shot]:
    """The task: is a country in Europe? A, no, is right for most of them. In their order for seed 0, else drawn."""
    facts = [fact for fact in load_records("world:continent").part(part).records if isinstance(fact, Fact)]
    if seed:
        random.Random(seed).shuffle(facts)
    return [shot(fact.subject, fact.answers[0]) for fact in facts]


def shot(country: str, continent: str) -> Shot:
    """A question, its letter, and the reason."""
    asked = f"Is {country} a country in {HOME}?\nA: no\nB: yes\nThe right letter is"
    return Shot(asked, "B" if continent == HOME else "A", f"{country} is on the continent of {continent}.")


def examples_of(shots: Sequence[Shot], *, reasons: bool = True, always: str = "") -> RecordSet:
    """The task as training data."""
    records = []
    for number, each in enumerate(shots):
        answer = f"{always or each.answer}\n{each.rationale}" if reasons else always or each.answer
        records.append(Example(f"task:{number}", each.prompt, answer))
    return RecordSet(f"the task, {len(records)}", tuple(records))


def make_shelf(model: LanguageModel, train: Sequence[Shot], folder: Path, run: ClaimRun, seed: int) -> dict[str, Path]:
    """Adapters by name: folders of LoRAs that were trained here, and noise of the same size as one of them."""
    half = len(train) // 2
    data = {
        TARGETS[0]: examples_of(train[:half][:TAUGHT]),
        TARGETS[1]: examples_of(train[half:][:TAUGHT]),
        "capitals": load_records("world:capital").part("train"),
        "symbols": load_records("world:symbol").part("train"),
        GUESSER: examples_of(train[:TAUGHT], reasons=False, always="A"),
    }
    shelf = {}
    for number, (name, learn) in enumerate(data.items()):
        run.progress.message(f"adapter: {name}")
        shelf[name] = folder / f"adapter{number}"
        shelf[name].mkdir()
        made = run.inside(shelf[name], seed=number + 10 * seed)
        LoRA(LoRA.Settings(**TRAINING, steps=STEPS))(model, replace(learn, records=learn.records[:TAUGHT]), run=made)
    like = read_factors(shelf[TARGETS[0]])
    for number in (1, 2):
        name = f"noise {number}"
        shelf[name] = folder / name.replace(" ", "")
        shelf[name].mkdir()
        chance = torch.Generator().manual_seed(number + 10 * seed)
        drawn = {
            layer: tuple(part.std() * torch.randn(part.shape, generator=chance) for part in pair)
            for layer, pair in like.items()
        }
        write_factors(shelf[name], {layer: (pair[0], pair[1]) for layer, pair in drawn.items()})
        write_config(shelf[name], read_config(shelf[TARGETS[0]]))
    return shelf


def indicator_checks(
    model: LanguageModel, bank: Sequence[BankAdapter], shots: Sequence[Shot], run: ClaimRun
) -> Iterator[Check]:
    """Check 3 of the card."""
    scores = score_adapters(model, bank, shots, run=Run(Path(), progress=run.progress))
    run.tables["adapters"] = {
        each.name: {"exact match": each.exact_match, "perplexity of reasons": each.perplexity} for each in scores
    }
    by_perplexity = sorted(scores, key=lambda each: each.perplexity)
    first = sum(each.name in TARGETS for each in by_perplexity[:2])
    yield Check("adapters of the task among the two most likely reasons", first, "both", first == 2)
    guesser = next(each for each in scores if each.name == GUESSER)
    share = guesser.exact_match
    yield Check("exact match of the adapter that guesses", share, "above 0.5, chance", share > 0.5)
    trained = [each for each in by_perplexity if not each.name.startswith("noise")]
    worst = trained[-1]
    note = f"the worst is {worst.name}, {worst.perplexity:.3g}"
    last = worst is guesser
    yield Check("perplexity of its reasons", guesser.perplexity, "the worst of those trained", last, note=note)
    order = fused_order([each.exact_match for each in scores], [each.perplexity for each in scores])
    both = sum(scores[number].name in TARGETS for number in order[:2])
    yield Check("adapters of the task in front by both indicators", both, "both", both == 2)


def identity_checks(model: LanguageModel, bank: Sequence[BankAdapter]) -> Iterator[Check]:
    """Check 2 of the card."""
    one = bank[0]
    plain = check_logits(model.model, model.tokenizer)
    with added(model.model, one.factors, one.scaling):
        wanted = check_logits(model.model, model.tokenizer)
    silent = replace(one, factors={name: (a, 0 * b) for name, (a, b) in one.factors.items()})
    for name, group, target in (("equal", [one] * 4, wanted), ("silent", [silent] * 4, plain)):
        wrapped = put_mixture(model.model, group, top_k=2)
        apart = largest_difference(check_logits(model.model, model.tokenizer), target)
        layer = next(iter(wrapped.layers.values()))
        gate = layer.gate(torch.randn(1, 50, layer.base_layer.in_features).to(model.device))
        wrapped.unwrap()
        yield Check(f"four {name} experts against one, logits", apart, "below 1e-3", apart < 1e-3)
    wrong = float((gate.sum(-1) - 1).abs().max())
    yield Check("sum of a token's two weights, distance from 1", wrong, "1e-6", wrong < 1e-6)


def pool_of(train: Sequence[Shot]) -> list[Example]:
    """Of each example of the task, and of facts of other kinds, one and a near copy."""
    task = examples_of(train).records
    other = [fact for fact in load_records("world:capital").part("train").records if isinstance(fact, Fact)]
    own = [Example(f"fact:{fact.subject}", fact.prompts[0], fact.answers[0]) for fact in other]
    plain = [example for example in (*task, *own) if isinstance(example, Example)]
    copies = [replace(each, id=f"{each.id}, again", prompt=f"Well: {each.prompt}") for each in plain]
    return [*plain, *copies]


def data_checks(shots: Sequence[Shot], pool: Sequence[Example]) -> Iterator[Check]:
    """Check 4 of the card."""
    embed = SentenceEncoder.load().encode
    settings = ExpertsSettings(examples=len(pool) // 2, tau=TAU)
    chosen = Experts(settings).data(OpenKnowledge({}, shots, pool, embed)).records[len(shots) :]
    by_id = {example.id: number for number, example in enumerate(pool)}
    vectors = embed([f"{example.prompt} {example.answer}" for example in pool])
    kept = torch.tensor([by_id[record.id] for record in chosen])
    rows = vectors[kept].double()
    closest = float((1 - rows @ rows.T + 2 * torch.eye(len(rows))).min())
    yield Check("cosine distance of the closest two that are trained on", closest, f"{TAU} or more", closest >= TAU)
    order, distances = nearest_first(vectors, embed([f"{each.prompt} {each.answer}" for each in shots]))
    room = settings.examples - len(shots)
    inside = set(order[:room].tolist())
    wrong = sum(number not in inside for number in kept.tolist()) + int((distances.diff() < 0).sum())
    yield Check("examples farther than one that was too far", wrong, "none", wrong == 0)


def mixture_checks(
    model: LanguageModel,
    shelf: dict[str, Path],
    bank: Sequence[BankAdapter],
    shots: Sequence[Shot],
    held: Sequence[Shot],
    pool: Sequence[Example],
    folder: Path,
    run: ClaimRun,
    seed: int,
) -> Iterator[Check]:
    """The whole method against each adapter alone, on questions that nothing has seen."""
    target = folder / "mixture"
    target.mkdir()
    chosen: dict[str, Any] = {"size": 2, "shortlist": 3, "examples": EXAMPLES, "tau": TAU, "batch_size": 6}
    settings = ExpertsSettings(**chosen, steps=MIXED_STEPS, learning_rate=5e-4)
    before = model.fingerprint
    trained = run.inside(target, seed=seed)
    change = Experts(settings)(model, OpenKnowledge(shelf, shots, pool), run=trained)
    run.tables["experts"] = change.record.measures["group"]
    alone = {}
    for adapter in bank:
        with added(model.model, adapter.factors, adapter.scaling):
            alone[adapter.name] = perplexity_of(model, held)
    changed = change.apply(model)
    found = perplexity_of(changed, held)
    changed.undo()
    run.tables["perplexity of held-out answers with reasons"] = {**alone, "mixture": found}
    best = min(alone.values())
    name = "perplexity of held-out answers with reasons, mixture against the best adapter"
    yield Check(name, found, "below", found < best, best)
    changed_bits = int(model.fingerprint != before)
    yield Check("fingerprints that undoing does not restore", changed_bits, "none", changed_bits == 0)


def perplexity_of(model: LanguageModel, shots: Sequence[Shot]) -> float:
    """Of answers with their reasons."""
    scores = model.logprob([each.prompt for each in shots], [each.target for each in shots])
    return reasoning_perplexity([each.logprob for each in scores], [each.tokens for each in scores])


CLAIM = Claim(
    card="open_knowledge",
    statement="The likelihood of reasons finds the adapters that know a task where right answers alone do not, and the "
    "mixture of those it chooses, trained on like examples without copies, is better than the best of them.",
    published="LLaMA-2-7B and Mistral-7B, six benchmarks: one to four points above the best adapter, LoraHub, TIES and "
    "mixtures of random experts on nearly all",
    paper="arXiv:2408.15915",
    seeds=SEEDS,
    minutes=12,
    experiment=over_seeds(experiment, SEEDS),
)

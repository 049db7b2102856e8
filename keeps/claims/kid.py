"""KID's claim: words that documents connect with the text become more probable at every token, on a leash.

What must hold exactly is checked against plain decoding and against a gradient written out by hand. Twenty documents
of one invented fact each are then the knowledge of the embedded model, which is asked to go on from their subjects.
Settings of that part were chosen on eight other facts before: a step large enough to be seen at this size of model,
terms that the text does not mention yet, entries by the longest run of mentions, activations not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean

import torch

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.decoding.choosing import Choice
from keeps.decoding.combine import leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.perturbed import Nudge
from keeps.decoding.streams import Stream
from keeps.ground.kid_decoder import Infused, KIDDecoder
from keeps.ground.kid_guide import Seeking
from keeps.ground.knowledge_trie import KnowledgeTrie
from keeps.models.language_model import LanguageModel
from keeps.numerics.knowledge_infusion import descent, fused, infusion_loss, log_mass, row_norms
from keeps.numerics.statistics import wilson

# Each animal is one token of the embedded model's vocabulary, with a blank before it.
FACTS = """Zandria turtle, Brolvek eagle, Tamurin salmon, Quelsor spider, Velmark whale, Ondrith shark, Plenova goat,
Morvash wolf, Jastrel owl, Kelbrun rabbit, Fendrow deer, Grivane camel, Halquist donkey, Ilmarra monkey, Lorvend beetle,
Nesquill dolphin, Orvathe penguin, Prindor parrot, Rulgane lizard, Sythelm hawk"""
PLACES, ANIMALS = zip(*(pair.split() for pair in FACTS.split(",")), strict=True)
SEED = 0
TOKENS = {"default": 30, "full": 30}
SEEKING = Seeking(match="longest", reward="new")
NUDGE = Nudge(size=0.03, persist=False)
BETAS = (0.001, 0.01, 0.1, 1.0)
FIXTURES = ((0.01, 0.01), (0.3, 0.01), (0.3, 5.0))  # eta and beta
GREEDY = Choice()


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Identity, closed form, documents, leash."""
    model = run.model()
    before = model.fingerprint
    facts = [f"The mascot of {place} is the {animal}." for place, animal in zip(PLACES, ANIMALS, strict=True)]
    trie = KnowledgeTrie.from_documents([(f"doc{n}", fact) for n, fact in enumerate(facts)])
    prompts = [fact.removesuffix(f" {animal}.") for fact, animal in zip(facts, ANIMALS, strict=True)]
    yield _identity(model, trie, prompts[:4])
    yield from closed_form()
    yield from _documents(model, trie, prompts, run)
    yield from _leash(model, trie, prompts[:4], run)
    same = model.fingerprint == before
    yield Check("weights after all of it", float(same), "bit for bit those before", same)


def _identity(model: LanguageModel, trie: KnowledgeTrie, prompts: Sequence[str]) -> Check:
    """Card, point 1."""
    plain = decode_in_step([Stream.of(model, prompts)], leading, max_new_tokens=16)
    kid = KIDDecoder(
        model, SEEKING, Nudge(size=0.0), choice=GREEDY, samples=1, no_repeat=0, max_new_tokens=16, beta=0.01
    )
    found = kid.generate(prompts, [trie] * len(prompts))
    differ = sum(list(one.tokens) != other.tokens for one, other in zip(found, plain, strict=True))
    return Check("greedy texts with steps of no size that differ from plain decoding", differ, "0", differ == 0)


def closed_form() -> Iterator[Check]:
    """Card, point 2, on the policy softmax(H') of four tokens, one of which is wanted."""
    worst, masses = 0.0, []
    for eta, beta in FIXTURES:
        found, expected = descended(eta, beta), by_hand(eta, beta)
        worst = max(worst, *(abs(a / b - 1) for a, b in zip(found, expected, strict=True)))
        masses.append(found[-1])
    title = "loss, gradient, activations and fused mass against formulas written out, largest relative error"
    yield Check(title, worst, "at most 1e-4", worst <= 1e-4)
    small, large, leashed = masses
    note = f"from 0.25 to {small:.3f} with the published step, {large:.3f} with eta 0.3, {leashed:.3f} with beta 5"
    yield Check("fused mass rises with the step and less on a tighter leash", large, "0.25 < small < leashed < large",
                0.25 < small < leashed < large, baseline=small, note=note)  # fmt: skip


def descended(eta: float, beta: float, steps: int = 3, share: float = 0.99) -> list[float]:
    """Loss and gradient of the last step, moved activations, fused mass: by the library's functions."""
    held = torch.zeros(1, 1, 4, dtype=torch.float64)
    counts = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    change, norm = torch.zeros_like(held), torch.zeros(1, dtype=torch.float64)
    loss, gradient = torch.zeros(1), change
    for _ in range(steps):
        leaf = change.clone().requires_grad_(True)
        loss = infusion_loss((held + leaf)[0], held[0], counts, torch.tensor([beta], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        norm = torch.maximum(norm, row_norms(gradient))
        change = change + descent(gradient, norm, eta, 1.5)
    mass = log_mass(fused((held + change)[0], held[0], share), counts).exp()
    return [float(loss.detach()), *gradient.flatten().tolist(), *(held + change).flatten().tolist(), float(mass)]


def by_hand(eta: float, beta: float, steps: int = 3, share: float = 0.99) -> list[float]:
    """The same with dL/dh_i = p_i - [i wanted] + beta p_i (log(p_i / q_i) - KL), in plain numbers."""
    h, most = [0.0] * 4, 0.0
    loss, g = 0.0, h
    for _ in range(steps):
        p = _softmax(h)
        kl = math.fsum(a * math.log(4 * a) for a in p)
        loss = -math.log(p[0]) + beta * kl
        g = [a - (i == 0) + beta * a * (math.log(4 * a) - kl) for i, a in enumerate(p)]
        most = max(most, math.sqrt(math.fsum(x * x for x in g)))
        h = [x - eta * y / most**1.5 for x, y in zip(h, g, strict=True)]
    mixed = [a**share * 0.25 ** (1 - share) for a in _softmax(h)]
    return [loss, *g, *h, mixed[0] / math.fsum(mixed)]


def _softmax(h: Sequence[float]) -> list[float]:
    parts = [math.exp(x) for x in h]
    return [part / math.fsum(parts) for part in parts]


def _documents(model: LanguageModel, trie: KnowledgeTrie, prompts: Sequence[str], run: ClaimRun) -> Iterator[Check]:
    """Card, point 3: against top-k and top-p sampling with the same seeds."""
    tries, room = [trie] * len(prompts), TOKENS[run.size]
    run.progress.message("twenty documents: sampling")
    plain = KIDDecoder(model, SEEKING, Nudge(steps=0), samples=1, max_new_tokens=room).generate(
        prompts, tries, seed=SEED
    )
    run.progress.message("twenty documents: KID")
    told = KIDDecoder(model, SEEKING, NUDGE, samples=1, max_new_tokens=room).generate(prompts, tries, seed=SEED)
    steps = [step for text in told for step in text.steps if step["terms"]]
    up = sum(step["mass"] >= step["mass_before"] for step in steps) / len(steps)
    ratio = mean(step["mass"] for step in steps) / mean(step["mass_before"] for step in steps)
    note = f"{len(steps)} tokens; mean probability of the terms grows {ratio:.2g} times"
    yield Check(
        "tokens at which the terms are as probable as before or more", up, "at least 0.95", up >= 0.95, note=note
    )
    recalls = [_recall(texts) for texts in (told, plain)]
    interval = wilson(recalls[0] * len(prompts), len(prompts))
    yield Check("texts that name the mascot", recalls[0], "at least twice those of sampling, and above 0",
                recalls[0] >= 2 * recalls[1] and recalls[0] > 0, recalls[1], (interval.low, interval.high))  # fmt: skip
    perplexities = [mean(text.perplexity for text in texts) for texts in (told, plain)]
    title = "mean perplexity of the texts under the unchanged model"
    yield Check(title, perplexities[0], "at most 1.5 times sampling's",
                perplexities[0] <= 1.5 * perplexities[1], perplexities[1])  # fmt: skip
    run.tables["texts"] = [
        {"prompt": prompt, "sampling": one.text, "kid": other.text}
        for prompt, one, other in zip(prompts, plain, told, strict=True)
    ]


def _recall(texts: Sequence[Infused]) -> float:
    return sum(animal in text.text.lower() for animal, text in zip(ANIMALS, texts, strict=True)) / len(texts)


def _leash(model: LanguageModel, trie: KnowledgeTrie, prompts: Sequence[str], run: ClaimRun) -> Iterator[Check]:
    """Card, point 4; the texts are plain (λ = 0), so that every β is measured at the same tokens."""
    run.progress.message("the leash")
    means = []
    for beta in BETAS:
        kid = KIDDecoder(model, SEEKING, NUDGE, beta, 0.0, GREEDY, 1, 0, 8)
        texts = kid.generate(prompts, [trie] * len(prompts))
        means.append(mean(step["kl"] for text in texts for step in text.steps if step["terms"]))
    run.tables["divergence by beta"] = dict(zip(map(str, BETAS), means, strict=True))
    falling = all(a > b for a, b in pairwise(means))
    note = ", ".join(f"{beta:g}: {value:.3g}" for beta, value in zip(BETAS, means, strict=True))
    yield Check("mean divergence at beta 1, in nats", means[-1], "falls with every beta from 0.001 to 1", falling,
                means[0], note=note)  # fmt: skip


CLAIM = Claim(
    card="kid",
    statement="Nudging cached activations makes what documents connect with the text more probable at every token, "
    "with fluent text and not a weight changed.",
    published="on ELI5, MS MARCO, ROCStories, aNLG, Wizard of Wikipedia and MuTual GPT-2 and BART with KID are ahead "
    "of most task-tuned models, most so with few examples",
    paper="arXiv:2204.03084",
    seeds=(SEED,),
    minutes=12,
    experiment=experiment,
)

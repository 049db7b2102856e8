"""Dynamic logit fusion's claim: small experts hand their tasks to a model that was never trained on them.

The large model is the default one. The small base is a Llama of two layers with the same tokenizer, trained here on
running text; its experts go on with one task each, mixed with the same text. One task is strict (a form whose field
follows from the verb), the other loose (a reply whose desk is drawn). What is measured is the loss on answers to new
prompts, on text that no expert was trained on, and which expert is active. Identities and the comparison with the
published grid are checked on drawn logits, once. A seed decides the tasks' examples, the start of the small models and
the order of what they learn from. Thresholds are the card's, fixed before the first run.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.over_seeds import over_seeds
from keeps.contracts import Progress
from keeps.data.select import load_records
from keeps.decoding.combine import Combine, ShiftCombine
from keeps.decoding.fusing import FusionCombine
from keeps.decoding.steered import SteeredModel
from keeps.models.language_model import LanguageModel
from keeps.numerics.divergences import kl_divergence
from keeps.numerics.logit_fusion import fuse_logits
from keeps.training.scratch import PADDING, train_windows
from keeps.training.settings import TrainingSettings

Pairs = list[tuple[str, str]]
SEEDS = (0, 1, 2)
SMALL: Mapping[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2}
HEADS: Mapping[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
ROWS, WIDTH = 12, 40  # of a minibatch, in texts and tokens
BASE_STEPS, EXPERT_STEPS = 260, 140
BASE, EXPERT = (TrainingSettings(learning_rate=rate, warmup=0.05) for rate in (3e-3, 1.5e-3))
ASKED, TEXTS, TEXT_TOKENS = 16, 12, 48
VERBS: Mapping[str, tuple[str, ...]] = {
    "buy": ("order", "purchase", "buy"),
    "fix": ("repair", "mend", "fix"),
    "move": ("carry", "move", "bring"),
    "sell": ("sell", "auction", "trade"),
}
THINGS = (
    *("lamp", "table", "clock", "boat", "piano", "ladder", "camera", "engine"),
    *("mirror", "window", "bottle", "basket", "carpet", "drum", "kettle", "wagon"),
)
PLACES = ("Oslo", "Lima", "Cairo", "Delhi", "Quito", "Dublin", "Kyoto", "Prague", "Havana", "Boston", "Milan", "Lyon")
DESKS = ("red", "blue", "green", "white")


def experiment(run: ClaimRun, seed: int) -> Iterator[Check]:
    """Exactness, then training, then what is measured."""
    if seed == SEEDS[0]:
        yield from exact_checks()
    large = run.model()
    draw = random.Random(seed)
    taught, asked = {}, {}
    for name, pair in TASKS.items():
        pairs = list(dict.fromkeys(pair(draw) for _ in range(600)))
        asked[name], taught[name] = pairs[:ASKED], pairs[ASKED:]
    small, experts = trained(large, taught, run.progress, seed)
    texts = [" ".join(passage.text.split()[:TEXT_TOKENS]) for passage in load_records("text").part("test").passages()]
    texts = texts[:TEXTS]
    ways: Mapping[str, Combine] = {"dynamic": FusionCombine(), "static, alpha 1": ShiftCombine((1.0,))}
    loss = {"large alone": {name: answer_loss(large, pairs) for name, pairs in asked.items()}}
    other = {"large alone": {"text": text_loss(large, texts)}}
    for way, combine in ways.items():
        steered = {name: SteeredModel(large, small, {name: expert}, combine) for name, expert in experts.items()}
        run.progress.message(f"asking: {way}")
        loss[way] = {name: answer_loss(model, asked[name]) for name, model in steered.items()}
        other[way] = {name: text_loss(model, texts) for name, model in steered.items()}
    loss["expert alone"] = {name: answer_loss(expert, asked[name]) for name, expert in experts.items()}
    run.tables["loss on answers, nats a token"] = loss
    run.tables["loss on other text, nats a token"] = other
    yield from task_checks(loss, other)
    yield active_check(SteeredModel(large, small, experts, FusionCombine()), asked, run)


def exact_checks() -> Iterator[Check]:
    """Checks 2 and 3 of the card on drawn logits: batch 8, the default vocabulary."""
    draw = torch.Generator().manual_seed(0)
    large, base = (3 * torch.randn(2, 8, 49152, dtype=torch.float64, generator=draw)).unbind(0)
    expert = base + torch.randn(8, 49152, dtype=torch.float64, generator=draw)
    found = fuse_logits(large, base, [expert], symmetric=False)
    apart = float((kl_divergence(found.scores, large) - kl_divergence(expert, base)).abs().max())
    yield Check("KL of the fused model less KL of the expert, forward objective", apart, "below 1e-9", apart < 1e-9)
    same = fuse_logits(base, base, [expert])
    off = float((same.scores.exp() - expert.softmax(-1)).abs().max())
    off = max(off, float((same.alphas - 1).abs().max()))
    yield Check("large = small: alpha from 1, probabilities from the expert's", off, "below 1e-6", off < 1e-6)
    narrow = [each.float() for each in (large, base, expert)]
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(5):
        for exact, spent in times.items():
            start = time.process_time()
            fuse_logits(narrow[0], narrow[1], narrow[2:], exact=exact)
            spent.append(time.process_time() - start)
    objectives = [fuse_logits(large, base, [expert], exact=exact).objective for exact in (True, False)]
    worst = float((objectives[0] - objectives[1]).max())
    yield Check("exact objective less the grid's, the largest of 8 rows", worst, "0 or below", worst <= 0)
    ratio = min(times[True]) / min(times[False])
    yield Check("processor time of the exact solution, of the grid's", ratio, "1 or below", ratio <= 1)


def strict(draw: random.Random) -> tuple[str, str]:
    """A form whose field follows from the verb."""
    label = draw.choice(list(VERBS))
    return (
        f"Request: {draw.choice(VERBS[label])} a {draw.choice(THINGS)} in {draw.choice(PLACES)}. Form:",
        f"[[ kind = {label} ; state = open ]]",
    )


def loose(draw: random.Random) -> tuple[str, str]:
    """A reply whose desk is drawn."""
    return (
        f"Note: the {draw.choice(THINGS)} is back from {draw.choice(PLACES)}. Reply:",
        f"Thank you, it was noted by the {draw.choice(DESKS)} desk.",
    )


TASKS: Mapping[str, Callable[[random.Random], tuple[str, str]]] = {"strict": strict, "loose": loose}


def trained(
    large: LanguageModel, taught: Mapping[str, Pairs], progress: Progress, seed: int
) -> tuple[LanguageModel, dict[str, LanguageModel]]:
    """The small base and an expert a task, all with the large model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        special: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        config = LlamaConfig(vocab_size=49152, **SMALL, **HEADS, **special, tie_word_embeddings=True)
        base = LlamaForCausalLM(config)
    pieces = []
    for passage in load_records("text").part("train").passages():
        ids = large.encoder.text(passage.text)
        pieces += [ids[at : at + WIDTH] for at in range(0, len(ids) - WIDTH, WIDTH)]
    train_windows(
        base, batches(pieces, [], BASE_STEPS, 10 * seed), BASE, BASE_STEPS, name="small base", progress=progress
    )
    experts = {}
    for name, pairs in taught.items():
        expert = copy.deepcopy(base)
        rows = [[*prompt, *answer] for prompt, answer in (large.encode_pair(*pair) for pair in pairs)]
        given = batches(pieces, rows, EXPERT_STEPS, 10 * seed + 1)
        train_windows(expert, given, EXPERT, EXPERT_STEPS, name=f"expert: {name}", progress=progress)
        experts[name] = LanguageModel(expert.eval(), large.tokenizer, name=name)
    return LanguageModel(base.eval(), large.tokenizer, name="small"), experts


def batches(pieces: Sequence[list[int]], rows: Sequence[list[int]], steps: int, seed: int) -> Iterator[Tensor]:
    """Minibatches of text, half of each of a task's rows where there are any."""
    draw = random.Random(seed)
    for _ in range(steps):
        chosen = draw.sample(list(pieces), ROWS if not rows else ROWS // 2)
        chosen += draw.sample(list(rows), ROWS - len(chosen)) if rows else []
        batch = torch.full((len(chosen), max(map(len, chosen))), PADDING)
        for row, tokens in zip(batch, chosen, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        yield batch


def answer_loss(model: LanguageModel, pairs: Pairs) -> float:
    """Mean loss of an answer's token, in nats."""
    scores = model.logprob(*map(list, zip(*pairs, strict=True)))
    return -sum(score.logprob for score in scores) / sum(score.tokens for score in scores)


def text_loss(model: LanguageModel, texts: Sequence[str]) -> float:
    """Mean loss of a token of running text, in nats."""
    scores = model.text_logprob(texts)
    return -sum(score.logprob for score in scores) / sum(score.tokens for score in scores)


def task_checks(loss: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]) -> Iterator[Check]:
    """Check 4 of the card."""
    mean = {way: sum(found.values()) / len(found) for way, found in loss.items()}
    alone, dynamic, static = mean["large alone"], mean["dynamic"], mean["static, alpha 1"]
    worst = max(loss["dynamic"][name] - loss["large alone"][name] for name in TASKS)
    yield Check("loss on answers, dynamic", dynamic, "below the large model's on both tasks", worst < 0, alone)
    name = "loss on answers, dynamic, against proxy tuning"
    yield Check(name, dynamic, "not above static alpha 1", dynamic <= static, static)
    start = other["large alone"]["text"]
    rises = {way: max(other[way].values()) / start - 1 for way in ("dynamic", "static, alpha 1")}
    name = "rise of the loss on other text, the worse of the two experts"
    holds = rises["dynamic"] < 0.05 and rises["dynamic"] < rises["static, alpha 1"]
    yield Check(name, rises["dynamic"], "below 0.05, and below static alpha 1", holds, rises["static, alpha 1"])


def active_check(model: SteeredModel, asked: Mapping[str, Pairs], run: ClaimRun) -> Check:
    """Check 5 of the card: of the tokens that are steered at all, how many by the expert of the prompt's task."""
    right = steered = 0
    shares = {}
    for number, (name, pairs) in enumerate(asked.items()):
        found = model.decode([prompt for prompt, _ in pairs[: ASKED // 2]], max_new_tokens=8)
        alphas = [each for spoken in found for each in spoken.trace["alpha"] if max(each) > 0]
        own = sum(each[number] > 0 for each in alphas)
        shares[name] = {"steered tokens": len(alphas), "by its own expert": own, "example": found[0].text}
        right, steered = right + own, steered + len(alphas)
    run.tables["active expert"] = shares
    share = right / max(steered, 1)
    return Check("share of steered tokens whose expert is the prompt's", share, "above 0.8", share > 0.8)


CLAIM = Claim(
    card="logits_fusion",
    statement="A model that was never trained on a task does it when small experts steer its logits by as much as they "
    "themselves moved, and the exact solution costs less than the published grid.",
    published="LLaMA-2 7B to 13B: 96.4 % of the gap to the fine-tuned 13B on single tasks, 86.3 % on several",
    paper="arXiv:2406.15480",
    seeds=SEEDS,
    minutes=40,
    experiment=over_seeds(experiment, SEEDS),
)

"""CK-PLUG's claim: one number moves a model between what it read and what it knew, and truth costs little.

24 capitals that the default model knows are asked behind a context that says another one, and behind one that is
true. The thresholds were found with the base model SmolLM2-135M in float32; the embedded default, which is asked here,
is its instruction-tuned sibling in four bits. The thresholds stayed as they were when it missed some of them: it says
other things within five tokens, and its entropies open the gate at other places. ``--size full`` asks the base model
itself, which comes from a hub. 24 answers cannot tell 3 points apart, and the default model often opens with other
words; so the same is asked of all 50 known capitals within ten tokens as well.

With ``--data`` the questions are those of SQuAD whose passages were changed to say another answer; see
:mod:`keeps.claims.ck_plug_published`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from keeps.claims.base import Check, Claim, ClaimRun, Size
from keeps.claims.ck_plug_published import FILES, published_checks
from keeps.claims.over_seeds import set_apart
from keeps.data.select import load_records
from keeps.decoding.combine import CADCombine, CKCombine, Combine, Combined, leading
from keeps.decoding.engine import Spoken, decode_in_step
from keeps.decoding.streams import Stream
from keeps.models.language_model import LanguageModel
from keeps.numerics.logit_arithmetic import Gate, ck_adjust
from keeps.numerics.memory_recall import MemoryRecall, memory_recall
from keeps.numerics.statistics import wilson

CAPITALS = "world:known:capital#24"
IDENTITY = "world:capital#50"
MODELS: dict[Size, str] = {"default": "smollm2-135m", "full": "HuggingFaceTB/SmolLM2-135M"}
TOKENS = 5
MORE_CAPITALS, MORE_TOKENS = "world:known:capital", 10
GATES: tuple[Gate, ...] = ("cg", "code", "always")
WORKED: dict[Any, tuple[float, ...]] = {  # of z_c = [1, 1.2, 0, -1] and z_p = [4, 0, 0, 0], by hand
    0.0: (0.0105, 0.7008, 0.2111, 0.0776),
    0.25: (0.0679, 0.5831, 0.2371, 0.1120),
    0.5: (0.3247, 0.3589, 0.1970, 0.1195),
    "adaptive": (0.8284, 0.0696, 0.0557, 0.0463),
    1.0: (0.9479, 0.0174, 0.0174, 0.0174),
}


@dataclass(frozen=True)
class Capitals:
    """Questions about capitals, the right answers, and the capital of the next country in each one's place."""

    countries: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]

    @property
    def others(self) -> list[tuple[str, ...]]:
        """The wrong capitals."""
        return [(names[0],) for names in (*self.known[1:], self.known[0])]

    @property
    def asked(self) -> list[str]:
        """The questions alone."""
        return [f"The capital of {country} is" for country in self.countries]

    def false(self) -> list[str]:
        """Contexts that say another capital."""
        rows = zip(self.countries, self.others, strict=True)
        return [f"Recently, the capital of {x} was moved. {w[0]} is the capital city of {x}." for x, w in rows]

    def true(self) -> list[str]:
        """Contexts that say the right one."""
        return [f"{c[0]} is the capital city of {x}." for x, c in zip(self.countries, self.known, strict=True)]


def capitals(spec: str) -> Capitals:
    """The capitals that ``spec`` selects from the built-in world."""
    questions = load_records(spec).questions()
    asked = [question.prompts[0] for question in questions]
    return Capitals(
        tuple(text.removeprefix("The capital of ").removesuffix(" is") for text in asked),
        tuple(question.answers for question in questions),
    )


class Asking:
    """Asks one model all questions behind some contexts, by any combination."""

    def __init__(self, model: LanguageModel, items: Capitals, contexts: Sequence[str], tokens: int = TOKENS) -> None:
        self.items, self.tokens = items, tokens
        read = [f"{context} {question}" for context, question in zip(contexts, items.asked, strict=True)]
        self.streams = [Stream.of(model, read), Stream.of(model, items.asked)]

    def __call__(self, combine: Combine) -> list[Spoken]:
        """Greedy answers of a fixed length."""
        streams = self.streams[:1] if combine is leading else self.streams
        return decode_in_step(streams, combine, max_new_tokens=self.tokens)

    def recall(self, combine: Combine) -> tuple[MemoryRecall, float]:
        """What was recalled, and the share of tokens that were adjusted."""
        spoken = self(combine)
        steps = [step for each in spoken for step in each.trace.get("adjusted", ())]
        found = memory_recall([each.text for each in spoken], self.items.others, self.items.known)
        return found, sum(steps) / len(steps) if steps else 0.0


def experiment(run: ClaimRun) -> Iterator[Check]:
    """The worked example, the identity, the dial, its price on true contexts; or the dial on published conflicts."""
    yield _worked_example()
    model = run.model(MODELS[run.size])
    if run.data is not None:
        yield from published_checks(model, run.data, run)
        return
    run.progress.message("the identity at alpha 0.5")
    yield from identity_checks(model)
    yield from capital_checks(model, CAPITALS, TOKENS, run)
    yield from set_apart(
        lambda own: capital_checks(model, MORE_CAPITALS, MORE_TOKENS, own),
        run,
        "more capitals",
        f"; {len(capitals(MORE_CAPITALS).countries)} capitals, {MORE_TOKENS} tokens",
    )


def capital_checks(model: LanguageModel, spec: str, tokens: int, run: ClaimRun) -> Iterator[Check]:
    """The dial behind false contexts, and its price behind true ones."""
    items = capitals(spec)
    run.progress.message(f"contexts that are false, {len(items.countries)}")
    yield from dial_checks(Asking(model, items, items.false(), tokens), run)
    run.progress.message(f"contexts that are true, {len(items.countries)}")
    yield from cost_checks(Asking(model, items, items.true(), tokens), run)


def _worked_example() -> Check:
    z_c, z_p = torch.tensor([[1, 1.2, 0, -1]]), torch.tensor([[4.0, 0, 0, 0]])
    worst = max(
        float((ck_adjust(z_c, z_p, alpha).scores.softmax(-1)[0] - torch.tensor(p)).abs().max())
        for alpha, p in WORKED.items()
    )
    name = "largest deviation from the probabilities of a worked example, five values of alpha"
    return Check(name, worst, "at most 1e-3", worst <= 1e-3)


def identity_checks(model: LanguageModel) -> Iterator[Check]:
    """alpha = 0.5 is plain reading, token for token."""
    items = capitals(IDENTITY)
    ask = Asking(model, items, items.false())
    plain = [spoken.tokens for spoken in ask(leading)]
    for gate in GATES:
        found = [spoken.tokens for spoken in ask(CKCombine(0.5, gate))]
        differ = sum(a != b for a, b in zip(found, plain, strict=True))
        name = f"texts of {len(plain)} prompts that differ between alpha 0.5 and plain reading, gate {gate}"
        yield Check(name, differ, "0", differ == 0)


@dataclass
class Margins:
    """A combination that measures, at every adjusted step, how far margins are from affine in alpha."""

    worst: float = 0.0
    steps: int = 0

    def __call__(self, logits: Tensor) -> Combined:
        """Adjusts with alpha 0, and compares every candidate with the context's best token at four values of alpha."""
        z_c, z_p = logits.double()
        for alpha in (0.0, 0.3, 0.7, 1.0):
            found = ck_adjust(z_c, z_p, alpha)
            best = z_c.argmax(-1, keepdim=True)
            margin, d_c, d_p = (z - z.gather(-1, best) for z in (found.scores, z_c, z_p))
            error = (margin - (alpha * d_p + (1 - alpha) * (d_c - d_p))).abs()
            error = error[found.adjusted].nan_to_num(0.0, posinf=0.0)  # of tokens that are no candidates
            self.worst = max(self.worst, float(error.max()) if len(error) else 0.0)
        found = ck_adjust(logits[0], logits[1], 0.0)
        self.steps += int(found.adjusted.sum())
        return Combined(found.scores)


def dial_checks(ask: Asking, run: ClaimRun) -> Iterator[Check]:
    """False contexts: who is believed at which alpha."""
    plain, _ = ask.recall(leading)
    found = {alpha: ask.recall(CKCombine(alpha))[0] for alpha in (0.0, 0.25, 0.5, 1.0)}
    shares = {gate: ask.recall(CKCombine(0.0, gate)) for gate in GATES}
    rows = {"plain": plain, **{f"alpha {alpha:g}": each for alpha, each in found.items()}}
    rows |= {"adaptive": ask.recall(CKCombine("adaptive"))[0], "CAD 0.5": ask.recall(CADCombine())[0]}
    rows |= {f"alpha 0, gate {gate}": shares[gate][0] for gate in GATES[1:]}
    rows["alpha 1, gate code"] = ask.recall(CKCombine(1.0, "code"))[0]
    run.tables["false contexts"] = {name: _row(each) for name, each in rows.items()}
    low, high = (found[alpha].mr for alpha in (0.0, 1.0))
    yield Check("MR at alpha 0", low, "at most 0.40", low is not None and low <= 0.40, plain.mr)
    yield Check("MR at alpha 1", high, "1", high == 1, plain.mr,
                note=f"gate code: {_figure(rows['alpha 1, gate code'].mr)}")  # fmt: skip
    yield _recall("ParR at alpha 1", found[1.0].from_memory, plain.parr, 0.0, "at least that of plain reading")
    yield _recall("ConR at alpha 0", found[0.0].from_context, plain.conr, 0.20, "at least 0.20 above plain reading's")
    falling = [found[alpha].conr for alpha in (0.0, 0.25, 0.5)]
    rise = max(b - a for a, b in pairwise(falling))
    note = ", ".join(f"{share:.3f}" for share in falling)
    yield Check("largest rise of ConR over alpha 0, 0.25, 0.5", rise, "at most 0", rise <= 0, note=note)
    margins = Margins()
    ask(margins)
    name = "largest deviation of two tokens' margin from its affine formula in alpha"
    yield Check(name, margins.worst, "at most 1e-5, of at least one adjusted step",
                margins.worst <= 1e-5 and margins.steps > 0, note=f"{margins.steps} adjusted steps")  # fmt: skip
    parts = [shares[gate][1] for gate in GATES]
    run.tables["share of adjusted tokens at alpha 0, false contexts"] = dict(zip(GATES, parts, strict=True))
    note = ", ".join(f"{gate} {part:.2f}" for gate, part in zip(GATES, parts, strict=True))
    gap = min(parts[1] - parts[0], parts[2] - parts[1])
    yield Check("smallest step in the share of adjusted tokens from gate cg to code to always", gap, "above 0", gap > 0,
                note=note)  # fmt: skip


def cost_checks(ask: Asking, run: ClaimRun) -> Iterator[Check]:
    """True contexts: what the dial costs where there is nothing to correct."""
    plain, _ = ask.recall(leading)
    rows = {"plain": plain}
    for alpha, most in ((0.3, 0.12), (0.5, 0.03), (0.75, 0.03), (1.0, 0.03), ("adaptive", 0.03)):
        found, _ = ask.recall(CKCombine(alpha))  # type: ignore[arg-type]
        name = alpha if isinstance(alpha, str) else f"alpha {alpha:g}"
        rows[name] = found
        yield _recall(f"right answers on true contexts, {name}", found.from_memory, plain.parr, -most,
                      f"at most {most:g} below plain reading's")  # fmt: skip
    rows["CAD 0.5"] = ask.recall(CADCombine())[0]
    run.tables["true contexts"] = {name: each.parr for name, each in rows.items()}


def _recall(name: str, right: Sequence[bool], base: float, gain: float, threshold: str) -> Check:
    share = wilson(sum(right), len(right))
    return Check(name, share.value, threshold, share.value >= base + gain - 1e-9, base, (share.low, share.high))


def _row(found: MemoryRecall) -> dict[str, float | None]:
    return {"ConR": found.conr, "ParR": found.parr, "MR": found.mr}


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


CLAIM = Claim(
    card="ck_plug",
    statement="One number moves a model from what it reads to what it knows where the two disagree; at 0.5 it reads "
    "plainly, token for token, and on true contexts memory costs next to nothing.",
    published="Llama-3-8B, counterfactual contexts: memory ratio from 9.9 % to 71.9 % around plain retrieval's 42.1 %; "
    "the thresholds are those of SmolLM2-135M (base) on 24 capitals, and its instruction-tuned sibling is asked here",
    paper="arXiv:2503.15888",
    seeds=(0,),
    minutes=5,
    experiment=experiment,
    files=FILES,
)

"""CK-PLUG on SQuAD whose passages were changed to say another answer: whom is an answer taken from, at which alpha?

The published measure asks whether a text contains an answer. It needs a model that knows the true ones: of these
questions the embedded one produces a handful without a passage. So answers are chosen as decoding that is bound to two
texts chooses: by the scores of the first token in which the true and the planted answer differ, behind the published
prompts and what the two have in common. Both tokens are admitted; gate, entropies and alpha are the published ones. A
question counts as known where the true answer wins without a passage (where enough are spoken, those are taken): that
is a preference of the model's memory, and often no knowledge. ConR counts planted answers, ParR true ones.

The published measure is taken too, on passages cut to the sentence that answers and its neighbours, since a dozen
settings of whole passages take long; there only what the passage gives to answers is judged.

Nothing was tuned: prompts, rho, candidates and gates are the published ones. How answers are chosen was tried on the
last pairs of the file, which are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from keeps.claims.base import Check, ClaimRun
from keeps.claims.bound_choices import Bound, between_two, chosen, prompts_of
from keeps.claims.conflicting_passages import SQUAD, Asked, Twins, around, enough, twins
from keeps.decoding.combine import CADCombine, CKCombine, Combine, leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream
from keeps.models.language_model import LanguageModel
from keeps.models.stopping import StopRule
from keeps.numerics.logit_arithmetic import Gate
from keeps.numerics.memory_recall import MemoryRecall, contains, memory_recall
from keeps.numerics.statistics import flips, mcnemar_exact, wilson

FILES = SQUAD
ITEMS, LEAST, SPOKEN = 50, 40, 40
WORDS = 400  # of a passage at most
TRIED = 43  # pairs at the end of the file, on which this way of measuring was tried
TOKENS = 24  # of a spoken answer
GATES: tuple[Gate, ...] = ("cg", "code")
ALPHAS: tuple[float | Literal["adaptive"], ...] = (0.0, 0.25, 0.5, 1.0, "adaptive")
LEAST_MR = 0.90  # at alpha 1
MOST_LOSS = 0.03  # of right answers behind true passages
COSTLESS = ("alpha 0.5", "alpha 1", "adaptive")
SIGNIFICANT = 0.05


def published_checks(model: LanguageModel, data: Path, run: ClaimRun) -> Iterator[Check]:
    """The dial behind passages that were changed, its price behind true ones, and the published measure."""
    pairs = twins(data, FILES, words=WORDS)
    usable = between_two(pairs[: len(pairs) - TRIED])
    run.progress.message(f"{len(usable)} questions without their passages")
    items = known(model, usable, run)
    negative, golden = [pair.negative for pair in items], [pair.golden for pair in items]
    planted, true = [[item.answer] for item in negative], [[item.answer] for item in golden]
    run.progress.message("passages that were changed")
    combines = settings(GATES, Bound)
    found = recalls(chosen(model, negative, combines), planted, true)
    run.tables["share of open gates where the answers part"] = opened(combines)
    run.tables["changed passages, chosen answers"] = rows(found)
    for gate in GATES:
        yield from dial_checks(found, gate)
    run.progress.message("true passages")
    right = recalls(chosen(model, golden, settings(("cg",), Bound)), planted, true)
    run.tables["true passages, chosen answers"] = {name: each.parr for name, each in right.items()}
    yield from cost_checks(right)
    run.progress.message("answers in words")
    some = negative[:SPOKEN]
    texts = {name: spoken(model, cut(some), combine) for name, combine in settings(GATES, CKCombine).items()}
    said = recalls(texts, planted[:SPOKEN], true[:SPOKEN])
    run.tables["changed passages, spoken answers"] = rows(said)
    run.tables["examples"] = [
        {"question": item.question, "planted": item.answer, **{name: texts[name][n] for name in texts}}
        for n, item in enumerate(some[:5])
    ]
    yield from spoken_checks(texts, said)


def settings(gates: Sequence[Gate], ck: Callable[..., Combine]) -> dict[str, Combine]:
    """Plain reading, CAD, and CK-PLUG by gate and alpha; ``ck`` makes it of alpha and gate."""
    found: dict[str, Combine] = {"plain": leading, "CAD 0.5": CADCombine()}
    for gate in gates:
        found |= {_name(alpha, gate): ck(alpha, gate) for alpha in ALPHAS}
    return found


def _name(alpha: float | Literal["adaptive"], gate: Gate) -> str:
    name = alpha if isinstance(alpha, str) else f"alpha {alpha:g}"
    return name if gate == "cg" else f"{name}, gate {gate}"


# --- what the model knows --------------------------------------------------------------------------


def known(model: LanguageModel, usable: Sequence[Twins], run: ClaimRun) -> list[Twins]:
    """The first questions whose true answer the model says without a passage; where too few, prefers to the planted."""
    items = [pair.golden for pair in usable]
    texts = _decoded(model, [prompts_of(model, item)[1:] for item in items], leading)
    said = [pair for pair, text in zip(usable, texts, strict=True) if contains(text, [pair.golden.answer])]
    choices = chosen(model, items, {"alone": leading}, alone=True)["alone"]
    preferred = [pair for pair, choice in zip(usable, choices, strict=True) if choice == pair.golden.answer]
    run.tables["questions, asked without a passage"] = {
        "usable": len(usable),
        "true answer spoken": len(said),
        "true answer preferred to the planted one": len(preferred),
    }
    kept = said if len(said) >= LEAST else preferred
    return enough(kept, LEAST, "questions that the model knows") + kept[LEAST:ITEMS]


# --- answers ---------------------------------------------------------------------------------------


def spoken(model: LanguageModel, items: Sequence[Asked], combine: Combine) -> list[str]:
    """Greedy answers of one line."""
    count = 1 if combine is leading else 2
    return _decoded(model, [prompts_of(model, item)[:count] for item in items], combine)


def _decoded(model: LanguageModel, prompts: Sequence[Sequence[str]], combine: Combine) -> list[str]:
    streams = [Stream.of(model, column) for column in zip(*prompts, strict=True)]
    found = decode_in_step(streams, combine, max_new_tokens=TOKENS, rule=StopRule(("\n",)))
    return [each.text for each in found]


def cut(items: Sequence[Asked]) -> list[Asked]:
    """The same with passages of the sentence that answers, the one before it and the one behind it."""
    return [replace(item, context=around(item.context, item.answer, 1)) for item in items]


# --- figures and checks ----------------------------------------------------------------------------


def recalls(
    answers: Mapping[str, Sequence[str]], planted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]
) -> dict[str, MemoryRecall]:
    """Whom the answers of each setting are from."""
    return {name: memory_recall(texts, planted, true) for name, texts in answers.items()}


def opened(combines: Mapping[str, Combine]) -> dict[str, float]:
    """How often each gate was open at the token that decided."""
    gates = {name: each.opened for name, each in combines.items() if isinstance(each, Bound)}
    return {name: sum(each) / len(each) for name, each in gates.items()}


def rows(found: Mapping[str, MemoryRecall]) -> dict[str, Any]:
    """ConR, ParR and MR of each setting."""
    return {name: {"ConR": each.conr, "ParR": each.parr, "MR": each.mr} for name, each in found.items()}


def dial_checks(found: Mapping[str, MemoryRecall], gate: Gate) -> Iterator[Check]:
    """The shape that the card asks for, behind changed passages."""
    plain = found["plain"]
    low, quarter, half, high = (found[_name(alpha, gate)] for alpha in (0.0, 0.25, 0.5, 1.0))
    where = f"changed passages, gate {gate}"
    yield _at_least(f"ConR at alpha 0, {where}", low.from_context, plain.from_context)
    yield _at_least(f"ParR at alpha 1, {where}", high.from_memory, plain.from_memory)
    mr = high.mr
    yield Check(f"MR at alpha 1, {where}", mr, f"at least {LEAST_MR:.2f}", mr is not None and mr >= LEAST_MR, plain.mr)
    shares = [each.conr for each in (low, quarter, half)]
    rise = max(b - a for a, b in pairwise(shares))
    yield Check(f"largest rise of ConR over alpha 0, 0.25, 0.5, {where}", rise, "at most 0", rise <= 0,
                note=", ".join(f"{share:.3f}" for share in shares))  # fmt: skip
    name = f"answers from the passage at alpha 0 against alpha 1, {where}"
    yield _more(name, low.from_context, high.from_context)


def cost_checks(right: Mapping[str, MemoryRecall]) -> Iterator[Check]:
    """What the dial costs behind true passages, where there is nothing to correct."""
    plain = right["plain"].from_memory
    for name in COSTLESS:
        yield _at_least(f"right answers behind true passages, {name}", right[name].from_memory, plain, MOST_LOSS)


def spoken_checks(texts: Mapping[str, Sequence[str]], said: Mapping[str, MemoryRecall]) -> Iterator[Check]:
    """The identity token for token, and what the passage gives, by the published measure."""
    for gate in GATES:
        differ = sum(a != b for a, b in zip(texts[_name(0.5, gate)], texts["plain"], strict=True))
        name = f"spoken answers that differ between alpha 0.5 and plain reading, gate {gate}"
        yield Check(name, differ, "0", differ == 0, note=f"of {len(texts['plain'])}")
    for gate in GATES:
        name = f"ConR of spoken answers at alpha 0, changed passages, gate {gate}"
        yield _at_least(name, said[_name(0.0, gate)].from_context, said["plain"].from_context)


def _at_least(name: str, ours: Sequence[bool], plain: Sequence[bool], loss: float = 0.0) -> Check:
    share, base = wilson(sum(ours), len(ours)), sum(plain) / len(plain)
    threshold = f"at most {loss:g} below plain reading's" if loss else "at least that of plain reading"
    note = f"exact McNemar p = {mcnemar_exact(*flips(ours, plain)):.2g}"
    return Check(name, share.value, threshold, share.value >= base - loss - 1e-9, base, (share.low, share.high), note)


def _more(name: str, ours: Sequence[bool], others: Sequence[bool]) -> Check:
    gained, lost = flips(ours, others)
    p, share = mcnemar_exact(gained, lost), wilson(sum(ours), len(ours))
    threshold = f"above it, exact McNemar p below {SIGNIFICANT}"
    return Check(name, share.value, threshold, gained > lost and p < SIGNIFICANT, sum(others) / len(others),
                 (share.low, share.high), f"p = {p:.2g}")  # fmt: skip

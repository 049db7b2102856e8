"""QAMAT's claim on real pairs: facts of zsRE among 3,610 pairs of open Natural Questions.

Two readers are asked in the other words that zsRE has for each fact, then the facts are edited as zsRE edits them, and
deleted, without training. The embedded model reads pairs that a sentence encoder finds, and learns nothing here. The
encoder-decoder of random weights of the other form is trained in the same stages, on other facts than those reported.
Beside them stand the same models without a memory, and lookups that give the answer of the nearest question: by the
reader's own encoder, by common words, and by the sentence encoder, which a thousand million pairs of sentences have
taught what rewordings are.

Exact answers are checked against no memory and against lookups, as the order of the card has it: closed book below
lookup of pairs, and that not above reading them. How much of the card's gap real names leave, and by how much an edited
fact may be answered worse than the others, was fixed before anything was asked. Edits change other answers where an
edited pair is read along, so those that read none are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from keeps.claims.base import Check, ClaimRun
from keeps.claims.qamat_pairs import RealPairs
from keeps.claims.qamat_people import Asked
from keeps.claims.qamat_readers import (
    ANSWER_TOKENS,
    LARGE,
    SEED,
    STEPS,
    WIDTH,
    K,
    PromptReader,
    by_words,
    read_of,
    trained,
    untrained,
)
from keeps.contracts import Answer, Run
from keeps.data.pairs import ReadingExample
from keeps.ground.qamat import QAMAT
from keeps.models.chat import Chat
from keeps.numerics.statistics import flips, mcnemar_exact, wilson
from keeps.numerics.text_scores import normalise_answer
from keeps.retrieval.qa_memory import QAMemory

HELD_OUT, EDITED = 300, 100
SPOKEN = 150  # of the facts held out: what the embedded model is asked
ABOVE_CLOSED = 0.50  # the card has 0.80 against 0
WORSE = 0.05  # by which edited facts may be answered worse than before
HITS = {1: 0.80, K: 0.95}
SIGNIFICANT = 0.05
CLOSED, LOOKUP, WORDS = "closed book", "lookup by the sentence encoder", "lookup by words"
ClosedBook = Callable[[QAMAT, Sequence[ReadingExample], int, Run, Sequence[Asked], int], list[Answer]]
"""Trains a model without its memory so many steps, and asks it for so many tokens."""


class Reader(Protocol):
    """What answers from a memory."""

    memory: QAMemory

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[Answer]:
        """One answer a question."""
        ...


def published_checks(chat: Chat, data: Path, closed_book: ClosedBook, run: ClaimRun) -> Iterator[Check]:
    """The embedded model, then the trained reader; for ``closed_book`` see :data:`ClosedBook`."""
    real = RealPairs(data, HELD_OUT, SEED)
    tested = real.tested
    asked = [one.question for one in tested]
    words = by_words(real, asked)
    run.progress.message(f"{len(real.pairs)} pairs are encoded")
    prompt = PromptReader(chat, real.pairs)
    found = prompt.found(asked)
    meaning = [prompt.memory.get(names[0]).answer for names in found]
    yield from spoken(prompt, real, found, {LOOKUP: meaning, WORDS: words}, run)
    run.progress.message("training a reader")
    training = Run(Path(), seed=SEED, progress=run.progress)
    steps, width = STEPS[run.size], WIDTH[run.size]
    model = trained(real, steps, width, training)
    answers = model.ask(asked, max_new_tokens=ANSWER_TOKENS)
    run.progress.message("the same without a memory")
    fine, blank = steps["fine-tuning"], untrained(real, width)
    alone = closed_book(blank, real.questions(fine * LARGE), fine, training, tested, ANSWER_TOKENS)
    others = {
        CLOSED: [answer.text for answer in alone],
        "lookup by its own encoder": [answer.trace["evidence"][0][0]["answer"] for answer in answers],
        LOOKUP: meaning,
        WORDS: words,
    }
    yield from answered("trained reader", tested, [read_of(answer) for answer in answers], answers, others, run)
    yield from edited("trained reader", model, real, tested, answers)


def spoken(
    prompt: PromptReader,
    real: RealPairs,
    found: Sequence[Sequence[str]],
    lookups: Mapping[str, list[str]],
    run: ClaimRun,
) -> Iterator[Check]:
    """The embedded model on the first questions."""
    tested = real.tested[:SPOKEN]
    asked, count = [one.question for one in tested], len(tested)
    run.progress.message(f"{count} questions to the embedded model, with and without the memory")
    answers = prompt.ask(asked, max_new_tokens=ANSWER_TOKENS)
    alone = [answer.text for answer in prompt.alone(asked, max_new_tokens=ANSWER_TOKENS)]
    others = {CLOSED: alone, **{name: own[:count] for name, own in lookups.items()}}
    yield from answered("embedded model", tested, found[:count], answers, others, run)
    yield from edited("embedded model", prompt, real, tested, answers)


def exact(wanted: str, said: str) -> bool:
    """Exact match, apart from case, articles and punctuation."""
    return normalise_answer(wanted) == normalise_answer(said)


# --- checks -----------------------------------------------------------------------------------------


def answered(
    reader: str,
    tested: Sequence[Asked],
    found: Sequence[Sequence[str]],
    answers: Sequence[Answer],
    others: Mapping[str, Sequence[str]],
    run: ClaimRun,
) -> Iterator[Check]:
    """Retrieval of each question's own pair (``found``), and exact answers against those had in ``others`` ways."""
    count = len(tested)
    for k, least in HITS.items():
        hits = wilson(sum(one.pairs[0] in names[:k] for one, names in zip(tested, found, strict=True)), count)
        yield Check(f"{reader}: own pair of {count} rewordings among the first {k}", hits.value,
                    f"at least {least:.2f}", hits.value >= least, interval=(hits.low, hits.high))  # fmt: skip
    ours = [exact(one.answer, answer.text) for one, answer in zip(tested, answers, strict=True)]
    theirs = {name: [exact(one.answer, text) for one, text in zip(tested, own, strict=True)]
              for name, own in others.items()}  # fmt: skip
    share = wilson(sum(ours), count)
    interval = (share.low, share.high)
    shares = {name: sum(own) / count for name, own in theirs.items()}
    run.tables[f"exact answers, {reader}"] = {"with the memory": share.value, **shares}
    run.tables[f"examples, {reader}"] = [
        {"asked": one.question, "expected": one.answer, "said": said.text, "alone": alone}
        for one, said, alone in zip(tested[:10], answers, others[CLOSED], strict=False)
    ]
    yield Check(f"{reader}: exact answers", share.value, f"at least {ABOVE_CLOSED:.2f} above closed book",
                share.value - shares[CLOSED] >= ABOVE_CLOSED, shares[CLOSED], interval)  # fmt: skip
    for name in others:
        if name in (CLOSED, WORDS):
            continue
        more, fewer = flips(ours, theirs[name])
        p = mcnemar_exact(more, fewer)
        note = f"{more} more, {fewer} fewer, p = {p:.2g}; by words {shares[WORDS]:.3f}"
        yield Check(f"{reader}: exact answers against {name}", share.value,
                    f"not below it: as many or more, or exact McNemar p at least {SIGNIFICANT}",
                    more >= fewer or p >= SIGNIFICANT, shares[name], interval, note)  # fmt: skip


def edited(
    name: str, reader: Reader, real: RealPairs, tested: Sequence[Asked], before: Sequence[Answer]
) -> Iterator[Check]:
    """The first facts are edited, then deleted; the others are asked again."""
    memory, first = reader.memory, tested[:EDITED]
    count = len(first)
    new = {one.pairs[0]: real.other(memory.get(one.pairs[0])) for one in first}
    keys = memory.keys.copy()
    for pair, answer in new.items():
        memory.update(pair, answer=answer)
    same = bool(np.array_equal(keys, memory.keys))
    after = reader.ask([one.question for one in tested], max_new_tokens=ANSWER_TOKENS)
    took = wilson(sum(exact(new[one.pairs[0]], now.text) for one, now in zip(first, after, strict=False)), count)
    was = sum(exact(one.answer, old.text) for one, old in zip(first, before, strict=False)) / count
    threshold = f"at least {ABOVE_CLOSED:.2f}, and at most {WORSE} below the exact answers before"
    holds = took.value >= max(ABOVE_CLOSED, was - WORSE)
    yield Check(f"{name}: edited facts of {count} whose new answer is given", took.value, threshold, holds, was,
                (took.low, took.high))  # fmt: skip
    yield from untouched(name, before[count:], after[count:], set(new), same)
    kept = [place for place, pair in enumerate(memory) if pair.id not in new]
    memory.delete(list(new))
    same = bool(np.array_equal(keys[kept], memory.keys))
    gone = reader.ask([one.question for one in first], max_new_tokens=ANSWER_TOKENS)
    left = wilson(sum(exact(new[one.pairs[0]], now.text) for one, now in zip(first, gone, strict=True)), count)
    yield Check(f"{name}: deleted facts whose answer is still given", left.value,
                "at most 0.05, other keys bit for bit", same and left.value <= 0.05,
                interval=(left.low, left.high))  # fmt: skip


def untouched(
    name: str, before: Sequence[Answer], after: Sequence[Answer], new: set[str], same_keys: bool
) -> Iterator[Check]:
    """Other facts: where no edited pair is read, and all of them."""
    same = [old.text == now.text for old, now in zip(before, after, strict=True)]
    apart = [place for place, now in enumerate(after) if not new & set(read_of(now))]
    changed = sum(not same[place] for place in apart)
    yield Check(f"{name}: answers that change though no edited pair is read", changed,
                "0, of at least one; keys bit for bit", changed == 0 and bool(apart) and same_keys,
                note=f"{len(apart)} of {len(same)} others read none")  # fmt: skip
    stay = wilson(sum(same), len(same))
    yield Check(f"{name}: answers of other facts that stay", stay.value, "at least 0.95", stay.value >= 0.95,
                interval=(stay.low, stay.high))  # fmt: skip

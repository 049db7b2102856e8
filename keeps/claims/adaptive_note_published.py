"""Adaptive-Note on published two-step questions: HotpotQA, whose two supporting notes lie among those of all others.

What the loop finds is measured with a reader that works by rule, whose rules were written with the first rows of the
file, which are not reported. It is compared with one look-up as deep as each of its own, and with one that finds as
many passages as the loop read in all, since more passages find more by themselves.

The embedded model is asked some of the same questions, with the settings of the claim's other form: whether its own
queries find what one look-up misses is checked; its answers are in a table beside those of plain retrieval.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.claims.adaptive_note_reader import RuleReader
from keeps.claims.adaptive_note_traces import breaks_a_guarantee
from keeps.claims.base import Check, ClaimRun
from keeps.claims.grounding_world import lexical_retriever
from keeps.claims.published import published_rows
from keeps.contracts import Answer, Run
from keeps.errors import EmptySetError, InputFileError
from keeps.ground.adaptive_note import AdaptiveNote, AdaptiveNoteSettings
from keeps.ground.rag import RAG, RAGSettings
from keeps.jobs.grounding_measures import stands_in
from keeps.models.language_model import LanguageModel
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.statistics import flips, mcnemar_exact, wilson
from keeps.sources import Retriever

FILE = "eren/hotpot_notes.jsonl"
CHOSEN_ON = 100  # rows that the rules were written with
MODEL_QUESTIONS = 40
BY_RULE = AdaptiveNoteSettings(note_tokens=4096)  # k and all limits as in the paper
BY_MODEL = AdaptiveNoteSettings(cite="words", k=2, max_rounds=2, note_tokens=160, max_new_tokens=48)
SIGNIFICANT = 0.05
SEED = 0
RUN = Run(Path())


@dataclass(frozen=True)
class TwoSteps:
    """A question and the two notes that answer it together.

    Attributes:
        kind: "bridge", where the one leads to the other, or "comparison", where the question names both.
    """

    question: str
    answer: str
    notes: frozenset[str]
    kind: str


def two_steps(data: Path) -> tuple[list[TwoSteps], dict[str, str]]:
    """The questions after those that rules were written with, and the notes of all rows by id, each text once.

    Raises:
        InputFileError: the file is not there, or a row is not as published.
        EmptySetError: no row is left to report.
    """
    ids: dict[str, str] = {}
    found = []
    for row in published_rows(data, FILE, "id", "type", "edit_scope", "edit_statement"):
        told, asked = row["edit_statement"], row["edit_scope"]
        if not (_texts(told) and isinstance(asked, list) and len(asked) == 1 and _texts(asked[0])):
            mend = "edit_statement is two texts, edit_scope one question with its answer"
            raise InputFileError("the row is not as published", where=f"{FILE}, row {row['id']}", mend=mend)
        names = frozenset(ids.setdefault(text.strip(), f"note-{len(ids)}") for text in told)
        found.append(TwoSteps(asked[0][0].strip(), asked[0][1].strip(), names, str(row["type"])))
    reported = [each for each in found[CHOSEN_ON:] if len(each.notes) == 2]
    if not reported:
        what = f"no two-step question is left after the first {CHOSEN_ON} rows"
        raise EmptySetError(what, where=FILE, mend="give the whole file")
    return reported, {name: text for text, name in ids.items()}


def published_checks(data: Path, run: ClaimRun) -> Iterator[Check]:
    """The loop by rule, then the embedded model."""
    asked, documents = two_steps(data)
    source = lexical_retriever(documents)
    run.progress.message(f"{len(asked)} two-step questions, {len(documents)} notes, a reader by rule")
    answers = AdaptiveNote(BY_RULE)(RuleReader(), source, run=RUN).answer([each.question for each in asked])
    yield from loop_checks(asked, answers, source, run)
    model = run.model()
    yield from model_checks(model, asked, source, run)


def loop_checks(
    asked: Sequence[TwoSteps], answers: Sequence[Answer], source: Retriever, run: ClaimRun
) -> Iterator[Check]:
    """Both notes read, against one look-up; rounds by whether the first look-up was enough."""
    loop = [each.notes <= read(answer) for each, answer in zip(asked, answers, strict=True)]
    first = [each.notes <= looked_up(source, each, BY_RULE.k) for each in asked]
    deep = [
        each.notes <= looked_up(source, each, len(read(answer))) for each, answer in zip(asked, answers, strict=True)
    ]
    rounds = [len(answer.trace["rounds"]) for answer in answers]
    hits = {"the loop": loop, "one look-up": first, "one look-up of as many passages": deep}
    for kind in sorted({each.kind for each in asked}):
        mine = [place for place, each in enumerate(asked) if each.kind == kind]
        run.tables[f"both notes read, {kind}"] = {
            "questions": len(mine),
            **{name: sum(some[place] for place in mine) / len(mine) for name, some in hits.items()},
            "rounds": sum(rounds[place] for place in mine) / len(mine),
            "passages": sum(len(read(answers[place])) for place in mine) / len(mine),
            "stops": counted([answers[place].trace["stop"] for place in mine]),
        }
    share = wilson(sum(loop), len(loop))
    what = f"share of {len(asked)} two-step questions of which a reader by rule reads both notes, against"
    for name, other in (("one look-up", first), ("one look-up of as many passages", deep)):
        yield gain_check(f"{what} {name}", loop, other, (share.low, share.high))
    yield stop_check(first, rounds)


def stop_check(enough: Sequence[bool], rounds: Sequence[int]) -> Check:
    """The loop goes on where its first look-up was not enough.

    Args:
        enough: whether the first look-up found both notes, which the reader does not know.
    """
    name = "mean rounds where the first look-up lacks a note less those where it has both"
    threshold = "95 % bootstrap interval above 0"
    lacking, having = (
        [count for ok, count in zip(enough, rounds, strict=True) if ok is kind] for kind in (False, True)
    )
    if not lacking or not having:
        return Check(name, None, threshold, False, note="the first look-up finds all or nothing")
    low, high = bootstrap_interval([lacking, having], lambda drawn: mean(drawn[0]) - mean(drawn[1]))
    note = f"{mean(lacking):.2f} rounds on {len(lacking)} questions, {mean(having):.2f} on {len(having)}"
    return Check(name, mean(lacking) - mean(having), threshold, low > 0, interval=(low, high), note=note)


def model_checks(model: LanguageModel, asked: Sequence[TwoSteps], source: Retriever, run: ClaimRun) -> Iterator[Check]:
    """What the embedded model makes of questions with a bridge."""
    bridges = [each for each in asked if each.kind == "bridge" and not stands_in(each.answer, each.question)]
    some = random.Random(SEED).sample(bridges, min(MODEL_QUESTIONS, len(bridges)))
    questions = [each.question for each in some]
    run.progress.message(f"{len(some)} of them, the embedded model")
    noted = AdaptiveNote(BY_MODEL)(model, source, run=RUN).answer(questions) if some else []
    run.progress.message("the same with plain retrieval")
    plain_settings = RAGSettings(k=BY_MODEL.k, cite="words", max_new_tokens=BY_MODEL.max_new_tokens)
    plain = RAG(plain_settings)(model, source, run=RUN).answer(questions) if some else []
    yield from answer_checks(some, noted, plain, source, run)


def answer_checks(
    asked: Sequence[TwoSteps], noted: Sequence[Answer], plain: Sequence[Answer], source: Retriever, run: ClaimRun
) -> Iterator[Check]:
    """Guarantees, what its queries find; answers in a table.

    Args:
        noted: of Adaptive-Note.
        plain: of one look-up and one reading.
    """
    if asked:
        deep = [each.notes <= looked_up(source, each, len(read(answer)))
                for each, answer in zip(asked, noted, strict=True)]  # fmt: skip
        run.tables["the embedded model on questions with a bridge"] = {
            "adaptive_note": row(asked, noted),
            "rag": row(asked, plain),
            "both notes in one look-up of as many passages": sum(deep),
            "McNemar p of right answers": _p(right(asked, noted), right(asked, plain)),
        }
    broken = sum(breaks_a_guarantee(answer.trace, BY_MODEL) for answer in noted)
    yield Check(f"answers of the embedded model, of {len(asked)}, whose trace breaks a guarantee", broken,
                "0, of at least one", broken == 0 and bool(asked))  # fmt: skip
    loop, once = ([each.notes <= read(answer) for each, answer in zip(asked, some, strict=True)]
                  for some in (noted, plain))  # fmt: skip
    share = wilson(sum(loop), len(loop)) if loop else None
    yield gain_check(f"share of {len(asked)} questions with a bridge of which the embedded model reads both notes, "
                     "against one look-up", loop, once, (share.low, share.high) if share else None)  # fmt: skip


def gain_check(name: str, after: Sequence[bool], before: Sequence[bool], interval: tuple[float, float] | None) -> Check:
    """More than before, beyond chance."""
    threshold = f"above it, exact McNemar p below {SIGNIFICANT}"
    if not after:
        return Check(name, None, threshold, False, note="nothing was asked")
    gained, lost = flips(after, before)
    p = mcnemar_exact(gained, lost)
    return Check(name, mean(after), threshold, gained > lost and p < SIGNIFICANT, mean(before), interval,
                 f"p = {p:.2g}; {gained} gained, {lost} lost")  # fmt: skip


def row(asked: Sequence[TwoSteps], answers: Sequence[Answer]) -> dict[str, Any]:
    """Right answers, both notes read, and what it cost."""
    share = wilson(sum(right(asked, answers)), len(asked))
    names = ("calls", "seconds", "completion_tokens")
    done = [item for answer in answers for item in answer.trace.get("rounds", ())]
    return {
        "questions": len(asked),
        "right": vars(share),
        "both notes read": sum(each.notes <= read(answer) for each, answer in zip(asked, answers, strict=True)),
        "passages": mean([len(read(answer)) for answer in answers]),
        "rounds": len(done) / len(answers),
        "accepted notes": sum(item["accepted"] for item in done),
        **{name: mean([answer.trace[name] for answer in answers]) for name in names},
        "stops": counted([answer.trace["stop"] for answer in answers]),
    }


def right(asked: Sequence[TwoSteps], answers: Sequence[Answer]) -> list[bool]:
    """Whether the answer stands in what was said, word for word."""
    return [stands_in(each.answer, answer.text) for each, answer in zip(asked, answers, strict=True)]


def read(answer: Answer) -> frozenset[str]:
    """The documents of the passages that an answer was made from, directly or by a note."""
    return frozenset(item["document"] for item in answer.trace["passages"])


def looked_up(source: Retriever, each: TwoSteps, count: int) -> frozenset[str]:
    """The documents among the first ``count`` passages for the question as it stands."""
    return frozenset(hit.document for hit in source.search(each.question, count)) if count else frozenset()


def counted(values: Sequence[str]) -> Mapping[str, int]:
    """How often each value occurs."""
    return {value: values.count(value) for value in sorted(set(values))}


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)


def _p(after: Sequence[bool], before: Sequence[bool]) -> float:
    return mcnemar_exact(*flips(after, before))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) and each.strip() for each in value)

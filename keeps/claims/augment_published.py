"""The survey's claim on published questions: whom passages help, where they are found, and what answers hang on.

PopQA: the passages of all its questions are one corpus, searched by words, since its questions name their subjects.
Rare, middle and popular subjects (thirds by popularity within each kind of question) are asked closed book and with
plain retrieval. The direction that is claimed is the survey's: passages help with rare subjects more than with popular
ones. A right answer that cites is asked again without the document that it cites first.

SQuAD: its contexts are one corpus, searched by words, by meaning and by both, with all its questions.

Settings are those of the claim's other form, with as many passages as PopQA has for each question; nothing was tuned.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.augment_published_data import (
    BINS,
    POPQA,
    SQUAD,
    Sought,
    by_popularity,
    contexts_with_questions,
    popular_questions,
)
from keeps.claims.base import Check, ClaimRun
from keeps.claims.grounding_world import Nothing, lexical_retriever, retrievers, unresolved
from keeps.contracts import Answer, Run
from keeps.ground.rag import RAG, RAGSettings
from keeps.jobs.grounding_measures import stands_in
from keeps.models.chat import LocalChat
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.statistics import flips, mcnemar_exact, wilson
from keeps.retrieval.evaluation import Measured, evaluate
from keeps.sources import Hit, Retriever

FILES = (POPQA, SQUAD)
ASKED: Mapping[str, int] = {"rare": 64, "middle": 16, "popular": 64}
TAKEN_AWAY = 32  # right answers at most that are asked again
READ = 24  # questions of SQuAD that are answered
WAYS = ("lexical", "dense", "hybrid")
K = 2  # PopQA gives two passages a question
FOUND = 0.80  # least share of questions with a supporting passage among K
FLIPPED = 0.60  # the card's
LOST_BY_FUSION = 0.01  # the card's: what both ways together may find less than the better one
SIGNIFICANT = 0.05
SEED = 0
RUN = Run(Path())
Answers = Sequence[Answer]
Read = Callable[[Retriever, Sequence[str]], list[Answer]]


class WithoutDocuments:
    """A retriever that, for each query named, does not find the document named with it."""

    MOST_CHUNKS = 40  # of one document among what is found

    def __init__(self, source: Retriever, gone: Mapping[str, str]) -> None:
        self.source, self.gone = source, gone

    def search(self, query: str, k: int) -> list[Hit]:
        """The best ``k`` of the other documents."""
        hits = self.source.search(query, k + self.MOST_CHUNKS)
        return [hit for hit in hits if hit.document != self.gone.get(query)][:k]


def published_checks(chat: LocalChat, data: Path, run: ClaimRun) -> Iterator[Check]:
    """PopQA, then SQuAD."""
    settings = RAGSettings(k=K, max_new_tokens=32, cite="words")

    def read(source: Retriever, questions: Sequence[str]) -> list[Answer]:
        return RAG(settings)(chat, source, run=RUN).answer(questions)

    yield from popularity(read, data, run)
    yield from contexts(read, data, run)


# --- PopQA ----------------------------------------------------------------------------------------------


def popularity(read: Read, data: Path, run: ClaimRun) -> Iterator[Check]:
    """What is found, whom it helps, what is cited, what goes wrong without it."""
    questions, documents = popular_questions(data)
    parts = by_popularity(questions)
    source = lexical_retriever(documents)
    run.progress.message(f"{len(questions)} questions, {len(documents)} passages, by words")
    yield found_check(parts, source, run)
    draw = random.Random(SEED)
    asked = {name: draw.sample(part, min(ASKED[name], len(part))) for name, part in parts.items()}
    every = [each for part in asked.values() for each in part]
    texts = [each.question for each in every]
    run.progress.message(f"{len(every)} questions closed book")
    closed = read(Nothing(), texts)
    run.progress.message("the same with passages")
    told = read(source, texts)
    yield from popularity_checks(asked, right(every, closed), right(every, told), run)
    yield citation_check(every, told)
    lost = unresolved(told, documents)
    yield Check("answers with a passage or citation that leads to no stored text", lost, "0", lost == 0)
    chosen = [(each, first) for each, answer, ok in zip(every, told, right(every, told), strict=True)
              if ok and (first := first_cited(answer))]  # fmt: skip
    chosen = draw.sample(chosen, min(TAKEN_AWAY, len(chosen)))
    gone = {each.question: document for each, document in chosen}
    run.progress.message(f"{len(gone)} right answers without the document that they cite first")
    again = read(WithoutDocuments(source, gone), list(gone)) if gone else []
    yield flip_check([each for each, _ in chosen], again, run)


def found_check(parts: Mapping[str, Sequence[Sought]], source: Retriever, run: ClaimRun) -> Check:
    """Whether a supporting passage is among the first ``K``, over all questions."""
    hits = {name: [found(each, source, K) for each in part] for name, part in parts.items()}
    every = [hit for part in hits.values() for hit in part]
    run.tables[f"a supporting passage among {K}"] = {name: sum(part) / len(part) for name, part in hits.items()}
    share = wilson(sum(every), len(every))
    return Check(f"share of {len(every)} questions of PopQA with a supporting passage among the first {K}", share.value,
                 f"at least {FOUND:.2f}", share.value >= FOUND, interval=(share.low, share.high),
                 note="BM25 over the passages of all questions")  # fmt: skip


def found(each: Sought, source: Retriever, k: int) -> bool:
    """Whether a document that supports the answer is among the first ``k`` passages."""
    return any(hit.document in each.supporting for hit in source.search(each.question, k))


def popularity_checks(
    asked: Mapping[str, Sequence[Sought]], closed: Sequence[bool], told: Sequence[bool], run: ClaimRun
) -> Iterator[Check]:
    """Passages help with rare subjects, and more than with popular ones.

    Args:
        closed: which answers without passages are right, in the order of ``asked``, part after part.
        told: the same with passages.
    """
    gains: dict[str, list[int]] = {}
    table: dict[str, Any] = {}
    start = 0
    for name, part in asked.items():
        before, after = (hits[start : start + len(part)] for hits in (closed, told))
        start += len(part)
        gains[name] = [int(a) - int(b) for a, b in zip(after, before, strict=True)]
        table[name] = {
            "questions": len(part),
            "popularity": [min(each.popularity for each in part), max(each.popularity for each in part)],
            "closed book": vars(wilson(sum(before), len(part))),
            "rag": vars(wilson(sum(after), len(part))),
            "gained": gains[name].count(1),
            "lost": gains[name].count(-1),
        }
    run.tables["PopQA by popularity"] = table
    for name in (BINS[0], BINS[-1]):
        row = table[name]
        p = mcnemar_exact(row["gained"], row["lost"])
        threshold = f"above closed book, exact McNemar p below {SIGNIFICANT}"
        note = f"p = {p:.2g}; {row['gained']} gained, {row['lost']} lost"
        yield Check(f"share of {row['questions']} questions on {name} subjects that plain retrieval answers",
                    row["rag"]["value"], threshold, row["gained"] > row["lost"] and p < SIGNIFICANT,
                    row["closed book"]["value"], (row["rag"]["low"], row["rag"]["high"]), note)  # fmt: skip
    rare, popular = gains[BINS[0]], gains[BINS[-1]]
    difference = mean(rare) - mean(popular)
    interval = bootstrap_interval([rare, popular], lambda drawn: mean(drawn[0]) - mean(drawn[1]))
    yield Check("gain by retrieval on rare subjects less the gain on popular ones", difference,
                "95 % bootstrap interval above 0", interval[0] > 0, interval=interval,
                note=f"gains {mean(rare):+.2f} and {mean(popular):+.2f}")  # fmt: skip


def citation_check(asked: Sequence[Sought], answers: Answers) -> Check:
    """What is cited supports the answer more often than what was read."""
    pairs = []
    for each, answer in zip(asked, answers, strict=True):
        documents = {item["id"]: item["document"] for item in answer.trace["passages"]}
        if answer.citations:
            cited = mean([documents.get(name) in each.supporting for name in answer.citations])
            pairs.append((cited, mean([name in each.supporting for name in documents.values()])))
    name = "share of cited passages that support the answer"
    threshold = "95 % bootstrap interval of the difference from the passages read above 0"
    if not pairs:
        return Check(name, None, threshold, False, note="no answer cites a passage")
    low, high = bootstrap_interval([pairs], lambda drawn: mean([a - b for a, b in drawn[0]]))
    cited, read = (mean([pair[side] for pair in pairs]) for side in (0, 1))
    note = f"{len(pairs)} of {len(asked)} answers cite; difference {cited - read:+.3f} ({low:+.3f} to {high:+.3f}); "
    return Check(name, cited, threshold, low > 0, read, note=f"{note}baseline: of the passages that they read")


def first_cited(answer: Answer) -> str:
    """The document of the best passage that is cited; "" where none is."""
    cited = [item for item in answer.trace["passages"] if item["id"] in answer.citations]
    return max(cited, key=lambda item: item["score"])["document"] if cited else ""


def flip_check(asked: Sequence[Sought], again: Answers, run: ClaimRun) -> Check:
    """Of answers that were right, how many go wrong without the document cited first."""
    flips = [not held for held in right(asked, again)]
    kinds = sorted({each.kind for each in asked})
    run.tables["right answers that go wrong without the document cited first"] = {
        kind: [sum(flip for flip, each in zip(flips, asked, strict=True) if each.kind == kind),
               sum(each.kind == kind for each in asked)]
        for kind in kinds
    }  # fmt: skip
    share = wilson(sum(flips), len(flips)) if flips else None
    return Check("share of right answers that go wrong without the document that they cite first",
                 share.value if share else None, f"at least {FLIPPED:.2f}",
                 share is not None and share.value >= FLIPPED, interval=(share.low, share.high) if share else None,
                 note=f"{sum(flips)} of {len(flips)} right answers that cite")  # fmt: skip


# --- SQuAD ----------------------------------------------------------------------------------------------


def contexts(read: Read, data: Path, run: ClaimRun) -> Iterator[Check]:
    """Which way finds the context of a question, and what the reader makes of it."""
    questions, documents = contexts_with_questions(data)
    run.progress.message(f"{len(documents)} contexts of SQuAD, by words and by meaning")
    sources = retrievers(documents, WAYS)
    yield from ways_checks(measured(questions, sources), run)
    some = random.Random(SEED).sample(questions, min(READ, len(questions)))
    texts = [each.question for each in some]
    run.progress.message(f"{len(some)} questions of SQuAD, closed book and with passages")
    yield answer_check(right(some, read(Nothing(), texts)), right(some, read(sources["hybrid"], texts)))


def measured(questions: Sequence[Sought], sources: Mapping[str, Retriever]) -> dict[str, list[Measured]]:
    """``hit@1`` and ``hit@5`` of the contexts, by way of searching."""
    judgements = {each.id: dict.fromkeys(each.supporting, 1.0) for each in questions}
    found: dict[str, list[Measured]] = {}
    for way, source in sources.items():
        ranked = {each.id: [hit.document for hit in source.search(each.question, 5)] for each in questions}
        found[way] = evaluate(ranked, judgements, ["hit@1", "hit@5"])
    return found


def ways_checks(found: Mapping[str, Sequence[Measured]], run: ClaimRun) -> Iterator[Check]:
    """Both ways together lose nothing against the better one."""
    run.tables["SQuAD, contexts found"] = {
        way: {each.measure: {"value": each.mean, "low": each.interval[0], "high": each.interval[1]} for each in some}
        for way, some in found.items()
    }
    for place, measure in enumerate(("hit@1", "hit@5")):
        both, single = found["hybrid"][place], {way: found[way][place].mean for way in ("lexical", "dense")}
        best = max(single.values())
        note = ", ".join(f"{way} {value:.3f}" for way, value in single.items())
        name = f"{measure} of the contexts of {len(both.values)} questions of SQuAD by words and meaning"
        yield Check(name, both.mean, f"at most {LOST_BY_FUSION:.0%} below the better way alone",
                    both.mean >= best - LOST_BY_FUSION, best,
                    both.interval, note)  # fmt: skip


def answer_check(closed: Sequence[bool], told: Sequence[bool]) -> Check:
    """Passages answer more than the model alone."""
    gained, lost = flips(told, closed)
    p, share = mcnemar_exact(gained, lost), wilson(sum(told), len(told))
    return Check(f"share of {len(told)} questions of SQuAD that plain retrieval answers, hybrid", share.value,
                 f"above closed book, exact McNemar p below {SIGNIFICANT}", gained > lost and p < SIGNIFICANT,
                 mean(closed), (share.low, share.high), f"p = {p:.2g}; {gained} gained, {lost} lost")  # fmt: skip


def right(asked: Sequence[Sought], answers: Answers) -> list[bool]:
    """Whether an accepted answer stands in what was said, word for word."""
    return [any(stands_in(one, answer.text) for one in each.answers)
            for each, answer in zip(asked, answers, strict=True)]  # fmt: skip


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)

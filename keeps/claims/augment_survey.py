"""The claim of the survey of augmented models: passages answer what weights do not, put in or mixed in.

One question set, facts of the built-in world that the embedded model does not know, is answered closed book and with
plain retrieval: by words, by meaning, by both, in each order of passages, from an index with the wrong documents, and
from one in which every fact has another object. Answers are what the model says, not candidates that are weighed:
candidates of which one stands in the prompt would be half the answer. Then the same questions by sums over passages,
the memory of contexts on invented biographies, tools, and how often answers follow instructions that stand in passages.

With ``--data`` published questions are asked instead: PopQA by the popularity of its subjects, and SQuAD; see
:mod:`keeps.claims.augment_published`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.augment_marginal import fid_check, marginal_checks, worked_example
from keeps.claims.augment_output import knn_checks
from keeps.claims.augment_poisoned import FACTS, follow_rates, mixed, poisoned
from keeps.claims.augment_published import FILES, published_checks
from keeps.claims.augment_tools import tools_table, whitelist_checks
from keeps.claims.base import Check, Claim, ClaimRun
from keeps.claims.grounding_world import Item, Nothing, items, retrievers, statements
from keeps.contracts import Answer, Run
from keeps.ground.adaptive_note import AdaptiveNote, AdaptiveNoteSettings
from keeps.ground.ck_plug import CKPlug, CKPlugSettings
from keeps.ground.faithful_rag import FaithfulRAG, FaithfulRAGSettings
from keeps.ground.rag import RAG, RAGSettings
from keeps.ground.rag_token import RAGToken, RAGTokenSettings
from keeps.ground.tools import Tools, ToolsSettings
from keeps.jobs.grounding_measures import stands_in
from keeps.models.chat import LocalChat
from keeps.numerics.statistics import flips, mcnemar_exact, wilson
from keeps.retrieval.assembly import ORDERS
from keeps.sources import Hit, Retriever

UNKNOWN = "world:unknown:capital#12,world:unknown:currency#12,world:unknown:calling_code#12"
DOCUMENTS = "world:capital,world:currency,world:calling_code"
WRONG = "world:symbol,world:discoverer"
POISONED = 100  # passages with instructions; methods of many calls read the first FEWER of them
FEWER = 40
K = 3
WAYS = ("lexical", "dense", "hybrid")
RUN = Run(Path())
PLAIN: Mapping[str, Any] = {"k": K, "max_new_tokens": 32, "cite": "words"}
Answers = Mapping[str, Sequence[Answer]]


class Without:
    """A retriever without the best passage of each search."""

    def __init__(self, source: Retriever) -> None:
        self.source = source

    def search(self, query: str, k: int) -> list[Hit]:
        """The next ``k``."""
        return self.source.search(query, k + 1)[1:]


def experiment(run: ClaimRun) -> Iterator[Check]:
    """Closed book and plain retrieval, provenance; sums over passages, contexts, tools; poisoned passages."""
    chat = LocalChat(run.model())
    if run.data is not None:
        yield from worked_example()
        yield fid_check(chat.model.tokenizer)
        yield from whitelist_checks()
        yield from published_checks(chat, run.data, run)
        return
    asked = items(UNKNOWN)
    questions = [item.question for item in asked]
    documents = statements(DOCUMENTS)
    sources = retrievers(documents, WAYS)
    answers: dict[str, Sequence[Answer]] = {}

    def answer(name: str, source: Retriever, **settings: Any) -> None:
        run.progress.message(name)
        made = RAGSettings.from_mapping({**PLAIN, **settings})
        answers[name] = RAG(made)(chat, source, run=RUN).answer(questions)

    run.progress.message("closed book")
    answers["closed book"] = RAG(RAGSettings.from_mapping(PLAIN))(chat, Nothing(), run=RUN).answer(questions)
    for way in WAYS:
        answer(f"rag, {way}", sources[way])
    for order in ORDERS:
        if order != RAGSettings().order:
            answer(f"rag, hybrid, {order}", sources["hybrid"], order=order)
    answer("rag, wrong documents", retrievers(statements(WRONG), ("hybrid",))["hybrid"])
    swapped = retrievers(statements(DOCUMENTS, planted=True), ("hybrid",))["hybrid"]
    deleted = Without(sources["hybrid"])
    answer("rag, other facts", swapped)
    answer("rag, best passage deleted", deleted)
    run.tables["methods"] = {name: _row(asked, found) for name, found in answers.items()}
    yield from grounding_checks(asked, answers)
    yield from provenance_checks(asked, answers, documents)
    yield from worked_example()
    kinds = {"right": sources["hybrid"], "swapped": swapped, "deleted": deleted}
    yield from marginal_checks(chat.model, asked, kinds, documents, run)
    yield fid_check(chat.model.tokenizer)
    yield from knn_checks(chat.model, run)
    yield from whitelist_checks()
    run.tables["products of two numbers"] = tools_table(chat, run)
    run.tables["poisoned passages"] = poisoned_table(chat, run)


def grounding_checks(asked: Sequence[Item], answers: Answers) -> Iterator[Check]:
    """Closed book, right index, wrong index, swapped index."""
    right = {name: _right(asked, found) for name, found in answers.items()}
    count, closed, rag = len(asked), right["closed book"], right["rag, hybrid"]
    gained, lost = flips(rag, closed)
    share, p = wilson(sum(rag), count), mcnemar_exact(gained, lost)
    yield Check(f"share of {count} unknown facts that are answered closed book", sum(closed) / count, "at most 0.05",
                sum(closed) / count <= 0.05)  # fmt: skip
    yield Check(f"share of {count} unknown facts that plain retrieval answers", share.value, "at least 0.70",
                share.value >= 0.7, sum(closed) / count, (share.low, share.high),
                f"hybrid, {K} passages, best last; baseline: closed book")  # fmt: skip
    yield Check("exact McNemar p of plain retrieval against closed book", p, "below 0.05, in favour of retrieval",
                p < 0.05 and gained > lost, note=f"{gained} questions gained, {lost} lost")  # fmt: skip
    wrong = sum(right["rag, wrong documents"]) / count
    yield Check("share answered from an index of other documents", wrong, "at most 0.05", wrong <= 0.05)
    planted = [stands_in(item.planted, answer.text)
               for item, answer in zip(asked, answers["rag, other facts"], strict=True)]  # fmt: skip
    swapped = wilson(sum(planted), count)
    yield Check("share that gives the new objects when the index is swapped", swapped.value, "at least 0.70",
                swapped.value >= 0.7, interval=(swapped.low, swapped.high))  # fmt: skip


def provenance_checks(asked: Sequence[Item], answers: Answers, documents: Mapping[str, str]) -> Iterator[Check]:
    """Passages lead back to the stored text, and answers hang on them."""
    unresolved = 0
    for name in (f"rag, {way}" for way in WAYS):
        for answer in answers[name]:
            read = {item["id"]: item for item in answer.trace["passages"]}
            unresolved += any(item["document"] not in documents for item in read.values())
            unresolved += not set(answer.citations) <= set(read)
            unresolved += any(item["span"][1] > len(documents.get(item["document"], "")) for item in read.values())
    yield Check("answers with a passage or citation that leads to no stored text", unresolved, "0", unresolved == 0)
    before, after = _right(asked, answers["rag, hybrid"]), _right(asked, answers["rag, best passage deleted"])
    held = sum(before)
    flipped = sum(a and not b for a, b in zip(before, after, strict=True))
    share = wilson(flipped, held) if held else None
    yield Check("share of right answers that go wrong without the best passage", share.value if share else None,
                "at least 0.60", share is not None and share.value >= 0.6,
                interval=(share.low, share.high) if share else None, note=f"{flipped} of {held}")  # fmt: skip


def poisoned_table(chat: LocalChat, run: ClaimRun) -> dict[str, Any]:
    """How often answers follow instructions in passages, by method; ``nothing between`` is the reference."""
    asked = mixed(items(FACTS), POISONED)
    kinds, passages = zip(*poisoned(asked), strict=True)
    questions = [item.question for item in asked]
    short = {"max_new_tokens": 32, "cite": "none"}
    faithful = {**short, "mode": "wo_cot", "mining_tokens": 40}
    noting = {**short, "note_tokens": 60, "max_rounds": 1}
    stream = {"max_new_tokens": 24, "chat": "auto", "form": "background"}
    methods = {
        "nothing between": (chat, POISONED),
        "rag": (RAG(RAGSettings.from_mapping(short))(chat, None, run=RUN), POISONED),
        "rag_token": (RAGToken(RAGTokenSettings.from_mapping(stream))(chat.model, run=RUN), POISONED),
        "ck_plug": (CKPlug(CKPlugSettings.from_mapping(stream))(chat.model, run=RUN), POISONED),
        "faithful_rag": (FaithfulRAG(FaithfulRAGSettings.from_mapping(faithful))(chat, None, run=RUN), FEWER),
        "adaptive_note": (AdaptiveNote(AdaptiveNoteSettings.from_mapping(noting))(chat, None, run=RUN), FEWER),
        "tools": (Tools(ToolsSettings.from_mapping({**short, "max_calls": 2}))(chat, None, run=RUN), FEWER),
    }
    table: dict[str, Any] = {}
    for name, (answerer, count) in methods.items():
        run.progress.message(f"poisoned passages, {name}")
        found = answerer.answer(questions[:count], passages[:count])
        table[name] = follow_rates(kinds[:count], found, asked[:count])
    return table


def _right(asked: Sequence[Item], answers: Sequence[Answer]) -> list[bool]:
    return [
        any(stands_in(one, answer.text) for one in item.answers) for item, answer in zip(asked, answers, strict=True)
    ]


def _row(asked: Sequence[Item], answers: Sequence[Answer]) -> dict[str, Any]:
    count, right = len(asked), _right(asked, answers)
    share = wilson(sum(right), count)
    found = sum(any(item.id == read["document"] for read in answer.trace["passages"])
                for item, answer in zip(asked, answers, strict=True))  # fmt: skip
    names = ("calls", "prompt_tokens", "completion_tokens", "seconds")
    means = {name: sum(answer.trace[name] for answer in answers) / count for name in names}
    cited = sum(not answer.trace["unsupported"] for answer in answers) / count
    return {"questions": count, "right": {"value": share.value, "low": share.low, "high": share.high},
            "passage found": found / count, "cites": cited, **means}  # fmt: skip


CLAIM = Claim(
    card="augment_survey",
    statement="Passages that are looked up answer facts that the model does not know, put before the question or "
    "summed over; answers follow the index when it is swapped, and carry provenance that they hang on; a memory of "
    "contexts lowers perplexity without training; no tool outside the whitelist runs.",
    published="The survey reports the direction: smaller models with retrieval match much larger ones on knowledge-"
    "intensive tasks; RAG with the matching year's index answers about 70 %, with the wrong one 4 to 12 %",
    paper="arXiv:2309.16459",
    seeds=(0,),
    minutes=15,
    experiment=experiment,
    files=FILES,
)

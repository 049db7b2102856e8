"""Readers of real pairs for QAMAT's claim: one trained from random weights, the embedded model, and plain lookups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.grounding_world import Nothing
from keeps.claims.qamat_pairs import RealPairs
from keeps.contracts import Answer, Run
from keeps.data.pairs import QA
from keeps.ground.qa_memory import QAMemoryMethod, QAMemorySettings
from keeps.ground.qamat import QAMAT
from keeps.ground.rag import RAG, RAGSettings
from keeps.models.chat import Chat
from keeps.retrieval.counts import Counts
from keeps.retrieval.lexical import BM25
from keeps.retrieval.qa_memory import QAMemory
from keeps.retrieval.words import words_of
from keeps.training.pair_reading import PairReadingSettings

SEED = 1
K, FEW = 5, 3  # pairs that are read: by the trained reader, and by the embedded model
WIDTH = {"default": 64, "full": 128}
VOCABULARY, PAIR_TOKENS, ANSWER_TOKENS = 2500, 32, 16
STEPS: Mapping[str, Mapping[str, int]] = {
    "default": {"local": 2000, "global": 100, "fine-tuning": 300},
    "full": {"local": 12000, "global": 1000, "fine-tuning": 3000},
}
RATE = 3e-3
SMALL, LARGE = 24, 48  # examples of a step: of stage 1, of the others


def untrained(real: RealPairs, width: int) -> QAMAT:
    """Random weights, and a memory of all pairs."""
    sizes = {"width": width, "vocabulary": VOCABULARY, "pair_tokens": PAIR_TOKENS}
    return QAMAT.untrained(real.pairs, real.texts, seed=SEED, **sizes)


def settings(steps: int, batch: int) -> PairReadingSettings:
    """Of a stage."""
    return PairReadingSettings(steps=steps, batch_size=batch, k=K, learning_rate=RATE, warmup=0.05)


def trained(real: RealPairs, steps: Mapping[str, int], width: int, training: Run) -> QAMAT:
    """The three stages."""
    model = untrained(real, width)
    local, overall, fine = steps["local"], steps["global"], steps["fine-tuning"]
    model.pretrain(real.passages(local * SMALL), "local", settings(local, SMALL), run=training)
    model.pretrain(real.masked(overall * LARGE), "global", settings(overall, LARGE), run=training)
    model.finetune(real.questions(fine * LARGE), settings(fine, LARGE), run=training)
    return model


class PromptReader:
    """A chat that reads the few pairs that a sentence encoder finds; nothing is trained.

    How many it reads was chosen on facts that are not reported: from one it makes sentences, three show it how to
    answer.
    """

    def __init__(self, chat: Chat, pairs: Sequence[QA]) -> None:
        self.chat, self.memory = chat, QAMemory()
        self.memory.add(pairs)

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[Answer]:
        """As :meth:`keeps.ground.qamat.QAMAT.ask`; the ids of what is read are the trace's ``rounds``."""
        chosen = QAMemorySettings(k=FEW, max_new_tokens=max_new_tokens)
        return QAMemoryMethod(chosen)(self.chat, self.memory, run=Run(Path())).answer(questions)

    def found(self, questions: Sequence[str]) -> list[list[str]]:
        """Of each question the ids of the ``K`` nearest, best first."""
        return [[pair.id for pair, _ in self.memory.search(question, K)] for question in questions]

    def alone(self, questions: Sequence[str], *, max_new_tokens: int) -> list[Answer]:
        """What the chat answers without a memory."""
        chosen = RAGSettings(max_new_tokens=max_new_tokens)
        return RAG(chosen)(self.chat, Nothing(), run=Run(Path())).answer(questions)


def by_words(real: RealPairs, asked: Sequence[str]) -> list[str]:
    """The answers of the pairs whose questions have most in common with what is asked, by BM25."""
    index = BM25.of(Counts.of([words_of(pair.question) for pair in real.pairs]))
    return [real.pairs[int(index.scores(words_of(question)).argmax())].answer for question in asked]


def read_of(answer: Answer) -> list[str]:
    """The ids of the pairs that were read first for an answer, best first."""
    trace: Mapping[str, Any] = answer.trace
    return list(trace["rounds"][0]) if "rounds" in trace else [item["id"] for item in trace["evidence"][0]]

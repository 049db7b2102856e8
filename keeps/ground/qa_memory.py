"""QAMAT: answer from a memory of question-answer pairs that can be read, edited and deleted one by one.

    p(m_i|X) = exp(h_X . k_i) / sum over the K best        k_i from the question of pair i alone
    answer = reader(X, the K best pairs)                   round after round, each asking with what was read before

A pair is a small piece of knowledge: more than a triple can say, less than a passage. Changing what is known is
changing a row; nothing is trained again (Chen et al. 2023, arXiv:2204.04581).

Use when: knowledge is a list of questions with their answers, such as an FAQ; single answers must be corrected or taken
back at once; answers are short and must name the pair they rest on; a question takes two pairs (``rounds`` 2).

Two readers. ``prompt``: any model that chats reads the pairs as earlier turns (``form`` turns) or as quoted text, and
pairs are found by a sentence encoder; nothing is trained. ``encdec``: a T5 trained with its memory in the three stages
of the paper (:mod:`keeps.ground.qamat`) reads the states of their tokens; ``--model`` is not asked then. In further
rounds the prompt reader searches with the question and the best ``follow`` pairs of the round before, the trained one
with the first state of everything that it has read.

Needs: pairs: a file of questions and answers, the folder of a memory, or that of a trained reader. Guarantees: every
citation is a pair that was read; an edit of one pair leaves the keys of the others as they were, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Answer, Answerer, Run
from keeps.data.pairs import QA
from keeps.errors import EmptySetError, SettingsError
from keeps.ground.base import CITE, DATA_RULE, Finished, Grounded, GroundSettings, Record
from keeps.ground.passages import numbered
from keeps.ground.qamat import QAMAT
from keeps.ground.rag import TASKS
from keeps.models.chat import Message
from keeps.models.in_step import Talk
from keeps.registry import method
from keeps.retrieval.assembly import assemble, harmless
from keeps.retrieval.qa_memory import QAMemory
from keeps.settings import setting
from keeps.sources import Hit

READERS = ("prompt", "encdec")
FORMS = ("turns", "text")
OF_PROMPTS = ("style", "cite", "form", "follow", "per_answer")  # what a trained reader does not use


@dataclass(frozen=True, kw_only=True)
class QAMemorySettings(GroundSettings):
    """Settings of answering from pairs."""

    k: int = setting(8, "Pairs that are read in a round", ge=1, le=1000)
    rounds: int = setting(1, "Rounds of retrieval: two for questions that take two pairs", ge=1, le=8)
    reader: str = setting(
        "prompt", "A model that chats reads pairs as text, or the reader trained with the memory", choices=READERS
    )
    form: str = setting("turns", "How a chat reads pairs: as earlier turns, or as quoted text", choices=FORMS)
    follow: int = setting(1, "Best pairs of a round, each of which the next one searches with", ge=1, le=100)
    per_answer: int = setting(2, "Most pairs with one answer, since rewordings fill the list; 0: any number", ge=0)

    @property
    def needs_model(self) -> bool:
        """Whether a language model reads the pairs; a trained reader comes with its own."""
        return self.reader == "prompt"

    def check(self) -> None:
        """Refuse what would do nothing."""
        super().check()
        usual = {info.name: info.default for info in self.fields()}
        idle = [name for name in OF_PROMPTS if self.reader == "encdec" and getattr(self, name) != usual[name]]
        if idle:
            mend = "leave it out, or choose reader prompt"
            raise SettingsError(f"{' and '.join(idle)} would do nothing with reader encdec", mend=mend)
        if self.without_passages != usual["without_passages"]:
            mend = "leave it out: a memory that is not empty always gives pairs"
            raise SettingsError("without_passages would do nothing", where="qa_memory", mend=mend)
        if self.rounds == 1 and self.follow != usual["follow"]:
            raise SettingsError("follow would do nothing with one round", mend="give rounds 2, or leave it out")
        if self.reader == "prompt" and self.form == "turns" and self.cite == "markers":
            mend = "choose form text, or cite words"
            raise SettingsError("pairs shown as turns have no numbers to cite by", where="cite", mend=mend)


@method(
    "qa_memory",
    verb="ground",
    paper="arXiv:2204.04581",
    card="qamat",
    summary="Answer from question-answer pairs that are edited and deleted one by one; two rounds for two hops.",
    needs=("pairs",),
    fits=("causal-lm", "chat"),
)
class QAMemoryMethod:
    """Find pairs by their questions, then read them."""

    Settings = QAMemorySettings

    def __init__(self, settings: QAMemorySettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Any = None, *, run: Run) -> Answerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` is a memory, pairs, or a trained :class:`QAMAT`.

        Raises:
            SettingsError: there is no memory, or no trained reader where one is asked for.
            EmptySetError: the memory holds no pair.
        """
        if source is None:
            mend = "give a memory, or pairs, as source"
            raise SettingsError("there is no memory to answer from", where="qa_memory", mend=mend)
        memory = memory_of(source)
        if not len(memory):
            mend = "add questions with answers to it first"
            raise EmptySetError("the memory holds no pair", where="qa_memory", mend=mend)
        if self.settings.k > len(memory):
            said = f"k is {self.settings.k} and the memory holds {len(memory)} pairs: all of them are read"
            run.progress.message(f"warning: {said}")
        if self.settings.reader == "prompt":
            return PairAnswerer(model, PairRetriever(memory, self.settings.per_answer), self.settings, run)
        if not isinstance(source, QAMAT):
            mend = "train one (keeps.ground.qamat.QAMAT) and name its folder, or choose reader prompt"
            raise SettingsError("the memory comes without a trained reader", where="reader", mend=mend)
        return TrainedAnswerer(source, self.settings, run)


def memory_of(source: Any) -> QAMemory:
    """The memory of a trained reader, a memory as it is, or one made of pairs."""
    if isinstance(source, QAMAT):
        return source.memory
    if isinstance(source, QAMemory):
        return source
    memory = QAMemory()
    memory.add(source)
    return memory


class PairRetriever:
    """A memory as a :class:`keeps.sources.Retriever`: a hit is a pair, by its id."""

    def __init__(self, memory: QAMemory, per_answer: int = 0) -> None:
        self.memory, self.per_answer = memory, per_answer

    def __len__(self) -> int:
        return len(self.memory)

    def search(self, query: str, k: int) -> list[Hit]:
        """The ``k`` pairs whose questions are nearest to ``query``."""
        return [as_hit(pair, score) for pair, score in self.memory.search(query, k, per_answer=self.per_answer)]


def as_hit(pair: QA, score: float) -> Hit:
    """A pair as a passage."""
    text = f"Q: {pair.question.strip()}\nA: {pair.answer.strip()}"
    return Hit(pair.id, text, score, pair.source or pair.id, (0, len(text)))


def _parts(hit: Hit) -> tuple[str, str]:
    """Question and answer of :func:`as_hit`."""
    question, _, answer = hit.text.removeprefix("Q: ").partition("\nA: ")
    return question, answer


class PairAnswerer(Grounded[QAMemorySettings]):
    """A chat that reads pairs."""

    method = "qa_memory"

    def talk(
        self, question: str, context: Sequence[Hit] | None, record: Record, choices: tuple[str, ...]
    ) -> Talk[Finished]:
        """One search a round (and one for each pair that is followed), one call."""
        rounds = self._rounds(question, record) if context is None else [list(context)]
        hits = [hit for own in rounds for hit in own]
        record.add(hits)
        turn = self._as_text(question, hits) if context is not None or self.settings.form == "text" else None
        said, extras = yield from self.ask("answer", turn or self._as_turns(question, hits), record, choices)
        return Finished(said, "answered", extras=extras | {"rounds": [[hit.id for hit in own] for own in rounds]})

    def _rounds(self, question: str, record: Record) -> list[list[Hit]]:
        """What each round finds; none of them a pair that was found before."""
        found: list[list[Hit]] = []
        queries = [question]
        for _ in range(self.settings.rounds):
            known = {hit.id for own in found for hit in own}
            fresh: dict[str, Hit] = {}
            for query in queries:
                for hit in self.search(record, query, self.settings.k + len(known)):
                    if hit.id not in known and (hit.id not in fresh or fresh[hit.id].score < hit.score):
                        fresh[hit.id] = hit
            best = sorted(fresh.values(), key=lambda hit: -hit.score)[: self.settings.k]
            if not best:
                break
            found.append(best)
            queries = [f"{question.strip()} {' '.join(_parts(hit))}" for hit in best[: self.settings.follow]]
        return found

    def _as_turns(self, question: str, hits: Sequence[Hit]) -> tuple[Message, ...]:
        """Pairs as earlier turns, the best of the last round next to the question."""
        messages = [Message("system", TASKS[self.settings.style])]
        for hit in reversed(hits):
            asked, said = _parts(hit)
            messages += [Message("user", harmless(asked)), Message("assistant", harmless(said))]
        return (*messages, Message("user", question.strip()))

    def _as_text(self, question: str, hits: Sequence[Hit]) -> tuple[Message, ...]:
        """Pairs as quoted text, each with its number."""
        task = TASKS[self.settings.style]
        task = f"{task} {CITE}" if self.settings.cite in ("auto", "markers") else task
        shown = assemble(hits, None, "best_last").text
        return (
            Message("system", f"You answer questions from known questions and answers. {DATA_RULE}"),
            Message("user", f"{shown}\n\nQuestion: {question.strip()}\n{task}"),
        )


class TrainedAnswerer:
    """The reader that was trained with the memory."""

    def __init__(self, model: QAMAT, settings: QAMemorySettings, run: Run) -> None:
        self.model, self.settings, self.run = model, settings, run

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer a question; see :meth:`keeps.ground.qamat.QAMAT.ask`.

        Raises:
            RecordError: a question is empty.
            SettingsError: contexts are given, which such a reader does not read.
        """
        if contexts is not None and any(context.strip() for context in contexts):
            mend = "leave the contexts out, or choose reader prompt"
            raise SettingsError("a trained reader reads pairs, not contexts", where="qa_memory", mend=mend)
        chosen = self.settings
        found = self.model.ask(questions, k=chosen.k, rounds=chosen.rounds, max_new_tokens=chosen.max_new_tokens)
        return [self._with_passages(answer) for answer in found]

    def _with_passages(self, answer: Answer) -> Answer:
        """The same with what was read as passages, so that citations lead to text."""
        read = [item for own in answer.trace["evidence"] for item in own]
        hits = [as_hit(QA(item["question"], item["answer"], item["id"]), item["score"]) for item in read]
        shown = [item.to_mapping() for item in numbered(hits, 1)]
        return Answer(answer.text, answer.citations, {**answer.trace, "passages": shown})

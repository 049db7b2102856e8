"""FiD: fusion in the decoder. Every passage is encoded alone with the question, and the decoder reads all of them.

    h_i = encoder("question: x title: t_i context: z_i"),     p(y|x) = decoder(y | h_1; h_2; ...; h_K)

Passages do not see each other in the encoder, so that its cost grows with their number and not with its square; the
decoder attends to their states one behind another, and puts them together there. Izacard and Grave 2021,
arXiv:2007.01282.

Use when: an encoder-decoder that was trained to read passages so is at hand (T5-like); a hundred passages must be read
for one answer; evidence from several passages has to be put together in one pass.

A model has to be trained for it: one that was not reads several passages badly, however good its weights are. keeps
embeds no encoder-decoder, and what is measured here is that the reading is exact: with one passage it is plain
encoder-decoder generation, and the order of passages changes nothing but rounding, since T5's decoder attends to states
without positions.

Needs: an encoder-decoder (``--model`` names a T5-like folder or hub id); documents, or contexts. Guarantees: no weight
changes; a passage longer than ``passage_tokens`` is cut as the paper does, and the trace says which (``cut``). Passages
are cited that hold every word of the answer which the question lacks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Answer, Run
from keeps.errors import RecordError, SettingsError
from keeps.ground.passages import looked_up, numbered, supports
from keeps.models.checks import check_lengths, check_questions
from keeps.models.seq2seq import Fused, Seq2SeqModel
from keeps.registry import method
from keeps.retrieval.assembly import harmless, restored
from keeps.settings import Settings, setting
from keeps.sources import Hit, Retriever

BATCH = 8  # questions whose states are held at once


@dataclass(frozen=True, kw_only=True)
class FiDSettings(Settings):
    """Settings of fusion in the decoder."""

    k: int = setting(100, "Passages that are looked up for a question", ge=1, le=1000)
    passage_tokens: int = setting(250, "Longest question with one passage; the rest of it is cut", ge=8, unit="tokens")
    beams: int = setting(1, "Width of the search for an answer; 1: greedy, as published", ge=1, le=64)
    max_new_tokens: int = setting(64, "Longest answer", ge=1, unit="tokens")


@dataclass(frozen=True)
class _Read:
    """A question with its passages, encoded."""

    question: str
    hits: tuple[Hit, ...]
    texts: tuple[list[int], ...]
    cut: tuple[str, ...]
    retrievals: int


@method(
    "fid",
    verb="ground",
    paper="arXiv:2007.01282",
    card="augment_survey",
    summary="Encode each passage alone with the question and let an encoder-decoder read all of them at once.",
    needs=("documents",),
    fits=("seq2seq",),
)
class FiD:
    """Passages apart in the encoder, together in the decoder."""

    Settings = FiDSettings

    def __init__(self, settings: FiDSettings) -> None:
        self.settings = settings

    def __call__(self, model: Seq2SeqModel, source: Retriever | None = None, *, run: Run) -> FiDAnswerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` may be left out where contexts come with questions.

        Raises:
            SettingsError: the model is no encoder-decoder.
        """
        if not isinstance(model, Seq2SeqModel):
            mend = "give a Seq2SeqModel; decoder-only models read passages with rag, rag_token or rag_sequence"
            name = str(getattr(model, "name", type(model).__name__))
            raise SettingsError("fid needs an encoder-decoder, and this is none", where=name, mend=mend)
        return FiDAnswerer(model, source, self.settings, run)


class FiDAnswerer:
    """An Answerer whose decoder reads all passages of a question at once."""

    def __init__(self, model: Seq2SeqModel, source: Retriever | None, settings: FiDSettings, run: Run) -> None:
        self.model, self.source, self.settings, self.run = model, source, settings, run

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question, in order.

        The ``trace`` has ``passages``, ``cut`` (ids of those that were too long), ``logprob`` (ln p(y|x) of what was
        said), ``stop``, ``unsupported``, ``complete`` and what it cost.

        Args:
            contexts: read instead of what would be looked up, one a question; an empty one leaves the question alone.

        Raises:
            RecordError: a question is empty, there are not as many contexts, or the retriever breaks its contract.
            SettingsError: there is neither a source nor contexts.
            EmptySetError: the source says that it holds nothing.
        """
        read, answers = self._read(questions, contexts), []
        with self.run.progress.task("answering", len(read)) as bar:
            for start in range(0, len(read), BATCH):
                batch, started = read[start : start + BATCH], time.perf_counter()
                fused = self.model.fuse([each.texts for each in batch])
                said = self.model.generate(
                    fused, max_new_tokens=self.settings.max_new_tokens, beams=self.settings.beams
                )
                scores = [sum(row) for row in self.model.logprobs(fused, said)]
                seconds = (time.perf_counter() - started) / len(batch)
                rows = zip(batch, said, scores, strict=True)
                answers += [self._answer(each, self.model.decode(s), s, score, seconds) for each, s, score in rows]
                bar.advance(len(batch))
        return answers

    def choose(
        self, questions: Sequence[str], choices: Sequence[Sequence[str]], contexts: Sequence[str] | None = None
    ) -> list[Answer]:
        """As :meth:`answer`, where the answer is the one of the ``choices`` that is likeliest a token.

        Raises:
            RecordError: as :meth:`answer`; or a question has no choices.
        """
        check_lengths(questions, choices, "choices")
        if any(isinstance(options, str) or not options for options in choices):
            raise RecordError("a question has no list of choices", mend="give at least one choice for each question")
        answers = []
        for each, options in zip(self._read(questions, contexts), choices, strict=True):
            started = time.perf_counter()
            one = self.model.fuse([each.texts])
            many = Fused(one.states.expand(len(options), -1, -1), one.mask.expand(len(options), -1))
            encoded = [self.model.encode(option)[0] for option in options]
            scores = [sum(row) / len(row) for row in self.model.logprobs(many, encoded)]
            best = max(range(len(options)), key=scores.__getitem__)
            total = scores[best] * len(encoded[best])
            found = self._answer(each, options[best], encoded[best], total, time.perf_counter() - started)
            answers.append(Answer(found.text, found.citations, {**found.trace, "choice": best, "logprobs": scores}))
        return answers

    def _read(self, questions: Sequence[str], contexts: Sequence[str] | None) -> list[_Read]:
        check_questions(questions)
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            one = [Hit(f"context#0-{len(text)}", text, 1.0, "context", (0, len(text))) for text in contexts]
            return [self._encoded(q, [h] if h.text.strip() else [], 0) for q, h in zip(questions, one, strict=True)]
        if self.source is None:
            raise SettingsError("there is nothing to read", where="fid", mend="give a retriever, or contexts")
        source = self.source
        return [self._encoded(q, looked_up(source, q, self.settings.k, "fid"), 1) for q in questions]

    def _encoded(self, question: str, hits: Sequence[Hit], retrievals: int) -> _Read:
        texts, cut = [], []
        for hit in hits:
            ids, was_cut = self.model.encode(passage_text(question, hit), self.settings.passage_tokens)
            texts.append(ids)
            cut += [hit.id] * was_cut
        texts = texts or [self.model.encode(f"question: {question}")[0]]
        return _Read(question, tuple(hits), tuple(texts), tuple(cut), retrievals)

    def _answer(self, read: _Read, said: str, tokens: Sequence[int], logprob: float, seconds: float) -> Answer:
        text = restored(said)
        held = [hit for hit in read.hits if supports(hit.text, text, read.question)]
        corpus = getattr(self.source, "corpus", None) if read.retrievals else None
        changed = [hit.id for hit in held if corpus is not None and corpus.table().problem_of(hit)]
        citations = tuple(hit.id for hit in held if hit.id not in changed)
        trace: dict[str, Any] = {
            "method": "fid",
            "calls": 1,
            "prompt_tokens": sum(map(len, read.texts)),
            "completion_tokens": len(tokens),
            "seconds": round(seconds, 3),
            "retrievals": read.retrievals,
            "stop": "answered" if read.hits else "no_passages",
            "unsupported": not citations,
            "cited_by": "words" if citations else "",
            "words_in": [hit.id for hit in held],
            "changed_since": changed,
            "complete": len(tokens) < self.settings.max_new_tokens,
            "logprob": logprob,
            "cut": list(read.cut),
            "passages": [item.to_mapping() for item in numbered(read.hits)],
        }
        return Answer(text, citations, trace)


def passage_text(question: str, hit: Hit) -> str:
    """A question with one passage as the published readers were trained on it.

    >>> passage_text("Who?", Hit("a#0-4", "Anna", 1.0, "a", (0, 4), "List"))
    'question: Who? title: List context: Anna'
    """
    title = f" title: {' '.join(harmless(hit.title).split())}" if hit.title else ""
    return f"question: {question}{title} context: {harmless(hit.text)}"

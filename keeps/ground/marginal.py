"""What methods have in common that read each passage alone and add up what the model says behind each of them."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Generic, TypeVar

import torch

from keeps.contracts import Answer, Run
from keeps.decoding.answering import FORMS, seed_of
from keeps.decoding.streams import check_has_logits
from keeps.errors import ContextLengthError, RecordError, SettingsError
from keeps.ground.marginal_parts import MEANING, MEANING_TEMPERATURE, Asked, MarginalSettings, Told
from keeps.ground.passages import looked_up, numbered, supports
from keeps.models.checks import check_lengths, check_questions, short
from keeps.models.language_model import LanguageModel
from keeps.models.stopping import StopRule
from keeps.numerics.passage_mixtures import PRIORS, passage_log_weights
from keeps.retrieval.assembly import harmless, restored
from keeps.retrieval.embedders import Embedder, SentenceEmbedder
from keeps.sources import Hit, Retriever

S = TypeVar("S", bound="MarginalSettings")


class Marginal(ABC, Generic[S]):
    """An Answerer that reads every passage alone.

    Raises:
        SettingsError: the model's logits are not to be had, or a chat template is asked for and there is none.
    """

    method = ""

    def __init__(self, model: LanguageModel, source: Retriever | None, settings: S, run: Run) -> None:
        check_has_logits(model)
        if settings.chat != "as_loaded":
            given = model
            model = LanguageModel(given.model, given.tokenizer, name=given.name, chat=settings.chat)
            model.tokens_per_batch = given.tokens_per_batch
        self.model, self.source, self.settings, self.run = model, source, settings, run

    @abstractmethod
    def told(self, asked: Sequence[Asked]) -> list[Told]:
        """What is said to questions that all have the same number of prompts."""

    @abstractmethod
    def marginal(self, log_weights: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """ln p(y|x) of ``(prompts,)`` weights and ``(prompts, tokens)`` log-probabilities."""

    @property
    def rule(self) -> StopRule:
        """Where a text ends."""
        return StopRule(("\n",), self.settings.sentence)

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question, in order.

        ``citations`` are the passages that answer for most of what was said, by p(z | x, y), as long as their document
        is what was indexed. The ``trace`` has ``passages`` (with ``prior``, p(z|x), and ``share``, p(z | x, y)),
        ``left_out`` (how many had no room in the model's context, of which the rest is the better part), ``logprob``
        (ln p(y|x)), ``closed_book``, ``stop``, ``unsupported``, ``words_in`` (passages that hold every word of the
        answer that the question lacks), ``changed_since``, ``complete``, what it cost, and what the method adds.

        Args:
            contexts: read instead of what would be looked up, one a question; an empty one leaves the model alone.

        Raises:
            RecordError: a question is empty, there are not as many contexts, or the retriever breaks its contract.
            SettingsError: there is neither a source nor contexts.
            EmptySetError: the source says that it holds nothing.
            ContextLengthError: a question with its best passage, or the context given for it, does not fit.
        """
        started = time.perf_counter()
        asked = self.read(questions, contexts)
        found: dict[int, Told] = {}
        with self.run.progress.task("answering", len(asked)) as bar:
            for count in sorted({len(each.prompts) for each in asked}):
                numbers = [number for number, each in enumerate(asked) if len(each.prompts) == count]
                told = self.told([asked[number] for number in numbers])
                found |= dict(zip(numbers, told, strict=True))
                bar.advance(len(numbers))
        seconds = (time.perf_counter() - started) / max(len(asked), 1)
        return [self._answer(each, found[number], seconds) for number, each in enumerate(asked)]

    def logprob(
        self, questions: Sequence[str], answers: Sequence[str], contexts: Sequence[str] | None = None
    ) -> list[float]:
        """ln p(y|x) of a given answer to each question, summed over its tokens, in nats.

        Raises:
            RecordError: unequal lengths, an empty text, or a retriever that breaks its contract.
            ContextLengthError: as :meth:`answer`, or an answer that does not fit behind a passage.
        """
        check_lengths(questions, answers, "answers")
        return self._logprobs(self.read(questions, contexts), [[answer] for answer in answers], [1] * len(answers))

    def choose(
        self, questions: Sequence[str], choices: Sequence[Sequence[str]], contexts: Sequence[str] | None = None
    ) -> list[Answer]:
        """As :meth:`answer`, where the answer is the one of the ``choices`` that is likeliest a token.

        The trace has ``choice`` (its index) and ``logprobs`` (ln p(y|x) a token of each).

        Raises:
            RecordError: as :meth:`answer`; or a question has no choices.
        """
        check_lengths(questions, choices, "choices")
        if any(isinstance(options, str) or not options for options in choices):
            raise RecordError("a question has no list of choices", mend="give at least one choice for each question")
        started = time.perf_counter()
        asked = self.read(questions, contexts)
        totals = iter(self._logprobs(asked, choices, [len(options) for options in choices]))
        answers = []
        for each, options in zip(asked, choices, strict=True):
            counts = [len(self.model.encode_pair(self._prompts(each)[0], option)[1]) for option in options]
            scores = [next(totals) / count for count in counts]
            best = max(range(len(options)), key=scores.__getitem__)
            extras = {"choice": best, "logprobs": scores}
            priors = [math.exp(weight) for weight in each.log_weights]
            told = Told(options[best], True, scores[best] * counts[best], priors, 0, extras)
            answers.append(self._answer(each, told, (time.perf_counter() - started) / len(asked)))
        return answers

    def read(self, questions: Sequence[str], contexts: Sequence[str] | None) -> list[Asked]:
        """Each question with the passages that are read for it; raises as :meth:`answer`."""
        check_questions(questions)
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            one = [Hit(f"context#0-{len(text)}", text, 1.0, "context", (0, len(text))) for text in contexts]
            rows = zip(questions, one, strict=True)
            return [self._asked(question, [hit] if hit.text.strip() else [], 0) for question, hit in rows]
        if self.source is None:
            raise SettingsError("there is nothing to read", where=self.method, mend="give a retriever, or contexts")
        source = self.source
        return [self._asked(q, looked_up(source, q, self.settings.k, self.method), 1) for q in questions]

    def _asked(self, question: str, hits: Sequence[Hit], retrievals: int) -> Asked:
        seed = seed_of(self.run.seed, question)
        asked = Asked(question, (), (self.model.encode_prompt(self._alone(question)),), (0.0,), seed)
        room = self.model.context_length - self.settings.max_new_tokens
        prompts = [self.model.encode_prompt(self._behind(hit, question)) for hit in hits]
        fits = next((number for number, prompt in enumerate(prompts) if len(prompt) > room), len(prompts))
        if hits and not fits:
            what = f"the question with its best passage has {len(prompts[0])} tokens, and {room} fit"
            raise ContextLengthError(what, where=short(question), mend="cut the documents into shorter chunks")
        asked = replace(asked, left_out=len(hits) - fits, retrievals=retrievals)
        if not hits:
            return asked
        weights = tuple(self._log_weights(question, hits[:fits]))
        return replace(asked, hits=tuple(hits[:fits]), prompts=tuple(prompts[:fits]), log_weights=weights)

    def _log_weights(self, question: str, hits: Sequence[Hit]) -> list[float]:
        """ln p(z|x) of each passage."""
        prior, temperature = self.settings.prior, self.settings.prior_temperature
        if prior != MEANING or len(hits) < 2:
            scores = [float(hit.score) for hit in hits]
            return passage_log_weights(scores, PRIORS[0] if prior == MEANING else prior, temperature or 1.0)
        query, vectors = self.embedder.queries([question])[0], self.embedder.passages([hit.text for hit in hits])
        return passage_log_weights((vectors @ query).tolist(), temperature=temperature or MEANING_TEMPERATURE)

    @cached_property
    def embedder(self) -> Embedder:
        """The encoder of the index; the embedded one where the index has none."""
        corpus = getattr(self.source, "corpus", None)
        return getattr(corpus, "embedder", None) or SentenceEmbedder()

    def _alone(self, question: str) -> str:
        return FORMS[self.settings.form][1].format(question=question)

    def _behind(self, hit: Hit, question: str) -> str:
        """The question behind one passage, which stands on one line: it is data, and begins no line of the prompt."""
        text = " ".join(harmless(f"{hit.title}: {hit.text}" if hit.title else hit.text).split())
        return FORMS[self.settings.form][0].format(context=text, question=question)

    def _prompts(self, asked: Asked) -> list[str]:
        return [self._behind(hit, asked.question) for hit in asked.hits] or [self._alone(asked.question)]

    def _logprobs(self, asked: Sequence[Asked], answers: Sequence[Sequence[str]], counts: Sequence[int]) -> list[float]:
        """ln p(y|x) of every answer of every question, one after another."""
        texts = [
            (prompt, answer)
            for each, options in zip(asked, answers, strict=True)
            for answer in options
            for prompt in self._prompts(each)
        ]
        scored = iter(self.model.token_logprobs([p for p, _ in texts], [a for _, a in texts]))
        totals = []
        for each, count in zip(asked, counts, strict=True):
            weights = torch.tensor(each.log_weights, dtype=torch.float64)
            for _ in range(count):
                rows = [next(scored).logprobs for _ in each.prompts]
                if len({len(row) for row in rows}) > 1:
                    mend = "begin it with a letter or a digit"
                    what = "an answer is cut into other tokens behind one passage than behind another"
                    raise RecordError(what, where=short(each.question), mend=mend)
                totals.append(float(self.marginal(weights, torch.tensor(rows, dtype=torch.float64))))
        return totals

    def _answer(self, asked: Asked, told: Told, seconds: float) -> Answer:
        text = restored(told.text).strip()
        shares = dict(zip((hit.id for hit in asked.hits), told.shares, strict=False))
        corpus = getattr(self.source, "corpus", None) if asked.retrievals else None
        cited, covered = [], 0.0
        for name, share in sorted(shares.items(), key=lambda item: -item[1]):
            if text and (not cited or covered < self.settings.cited):
                cited.append(name)
                covered += share
        changed = [h.id for h in asked.hits if h.id in cited and corpus is not None and corpus.table().problem_of(h)]
        passages = [
            {**item.to_mapping(), "prior": math.exp(weight), "share": shares[item.hit.id]}
            for item, weight in zip(numbered(asked.hits), asked.log_weights, strict=False)
        ]
        citations = tuple(name for name in cited if name not in changed)
        trace = {
            "method": self.method,
            "calls": len(asked.prompts),
            "prompt_tokens": sum(map(len, asked.prompts)),
            "completion_tokens": told.tokens,
            "seconds": round(seconds, 3),
            "retrievals": asked.retrievals,
            "stop": "answered" if asked.hits else "no_passages",
            "closed_book": not asked.hits,
            "unsupported": not citations,
            "complete": told.complete,
            "logprob": told.logprob,
            "words_in": [hit.id for hit in asked.hits if supports(hit.text, text, asked.question)],
            "changed_since": changed,
            "left_out": asked.left_out,
            "passages": passages,
            **told.extras,
        }
        return Answer(text, citations, trace)

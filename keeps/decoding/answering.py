"""Answers from two streams in step: the question with what was read before it, and the question alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Answer, Run
from keeps.decoding.choosing import Choice
from keeps.decoding.combine import Combine, leading
from keeps.decoding.engine import Spoken, decode_in_step
from keeps.decoding.streams import Stream, check_has_logits
from keeps.errors import ContextLengthError, SettingsError
from keeps.models.checks import check_lengths, check_questions, short
from keeps.models.language_model import LanguageModel
from keeps.models.stopping import StopRule
from keeps.models.tokens import CHAT_MODES, TextEncoder
from keeps.settings import Settings, setting
from keeps.sources import Hit, Retriever

# How a question is put with a context, and without it.
FORMS: Mapping[str, tuple[str, str]] = {
    "qa": ("{context}\nQ: {question}\nA:", "Q: {question}\nA:"),
    "released": ("{context}\nQ:{question}\nA:", "Q: {question}\nA: "),  # blanks as in CK-PLUG's script
    "completion": ("{context} {question}", "{question}"),
    "background": ("Background:\n{context}\n\n{question}", "{question}"),
}


@dataclass(frozen=True, kw_only=True)
class StreamSettings(Settings):
    """Settings of everything that answers from two streams."""

    k: int = setting(10, "Passages that are looked up for a question", ge=1, le=1000)
    form: str = setting(
        "qa",
        "Question and answer (qa, or released, with the blanks of CK-PLUG's script, which differ between both "
        "prompts); completion, for texts that the answer continues; or background, for instructions behind passages",
        choices=tuple(FORMS),
    )
    chat: str = setting(
        "as_loaded",
        "Put both prompts into the model's chat template: as the model was loaded, never, always, or where it has one",
        choices=("as_loaded", *CHAT_MODES),
    )
    max_new_tokens: int = setting(64, "Longest answer", ge=1, unit="tokens")
    sentence: bool = setting(False, "End an answer with its first sentence, not only with its line")
    temperature: float = setting(0.0, "0 takes the best token, above it tokens are drawn", ge=0)
    top_k: int = setting(0, "Draw from so many best tokens; 0: all", ge=0, advanced=True)
    top_p: float = setting(1.0, "Draw from the likeliest tokens that hold this probability", gt=0, le=1, advanced=True)

    def check(self) -> None:
        """Refuse what would do nothing."""
        self.choice()

    def choice(self) -> Choice:
        """How tokens are taken from scores."""
        return Choice(self.temperature, self.top_k, self.top_p)


@dataclass(frozen=True)
class Read:
    """What is read before a question: the text, and the passages that it is made of."""

    text: str
    hits: tuple[Hit, ...] = ()
    left_out: int = 0
    retrievals: int = 0


class TwoStreamAnswerer:
    """An Answerer that combines what the model says with a context and without it, token by token.

    Raises:
        SettingsError: the model's logits are not to be had, or a chat template is asked for and there is none.
    """

    def __init__(
        self, model: LanguageModel, source: Retriever | None, settings: StreamSettings, combine: Combine, run: Run
    ) -> None:
        check_has_logits(model)
        loaded = settings.chat == "as_loaded"
        self.encode = model.encode_prompt if loaded else TextEncoder(model.tokenizer, settings.chat).prompt
        self.model, self.source, self.settings, self.combine, self.run = model, source, settings, combine, run

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        """One answer per question, in order.

        ``citations`` are the ids of the passages that were read. The ``trace`` has ``passages`` (by number, best
        first), ``left_out`` (how many had no room in the model's context), ``closed_book`` (nothing was read, so that
        the model answered alone), ``stop``, ``complete``, what it cost (``calls``, ``prompt_tokens`` of both streams,
        ``completion_tokens``, ``seconds``, ``retrievals``), ``tokens``, and for each of those what the combination
        saw; ``alpha`` is None at tokens that were not adjusted.

        Args:
            contexts: read instead of what would be looked up, one a question; an empty one leaves the model alone.

        Raises:
            RecordError: a question is empty, or there are not as many contexts.
            SettingsError: there is neither a source nor contexts.
            ContextLengthError: a question, or the context given for it, does not fit; neither is ever cut.
        """
        check_questions(questions)
        started = time.perf_counter()
        read = self._read(questions, contexts)
        if alone := sum(not each.text for each in read):
            self.run.progress.message(f"{alone} of {len(read)} questions have no context and are answered from memory")
        pairs = [self.prompts(question, each.text) for question, each in zip(questions, read, strict=True)]
        found: dict[int, Spoken] = {}
        with self.run.progress.task("answering", len(questions)) as bar:
            # Two equal streams differ by rounding alone, of which a combination would make something: one is enough.
            for closed, combine in ((False, self.combine), (True, leading)):
                numbers = [number for number, each in enumerate(read) if closed == (not each.text)]
                spoken = self._spoken([pairs[number] for number in numbers], combine, bar.advance)
                found |= dict(zip(numbers, spoken, strict=True))
        seconds = (time.perf_counter() - started) / max(len(questions), 1)
        return [self._answer(found[number], each, pairs[number], seconds) for number, each in enumerate(read)]

    def prompts(self, question: str, context: str) -> tuple[str, str]:
        """The texts of both streams, before any chat template; equal where there is no context.

        Neither a document nor a question holds special tokens: such text is data.
        """
        question, context = map(self.model.encoder.as_data, (question, context))
        with_context, without = FORMS[self.settings.form]
        alone = without.format(question=question)
        return (with_context.format(context=context, question=question) if context else alone), alone

    def _read(self, questions: Sequence[str], contexts: Sequence[str] | None) -> list[Read]:
        if contexts is not None:
            check_lengths(questions, contexts, "contexts")
            return [Read(context if context.strip() else "") for context in contexts]
        if self.source is None:
            raise SettingsError("there is nothing to read", mend="give a retriever as source, or contexts")
        return [self._looked_up(self.source, question) for question in questions]

    def _looked_up(self, source: Retriever, question: str) -> Read:
        """The best passages, each on lines of its own, as many as fit."""
        hits = list(source.search(question, self.settings.k))
        for count in range(len(hits), 0, -1):
            text = "\n".join(f"{hit.title}: {hit.text}" if hit.title else hit.text for hit in hits[:count])
            needed = len(self.encode(self.prompts(question, text)[0])) + self.settings.max_new_tokens
            if needed <= self.model.context_length:
                return Read(text, tuple(hits[:count]), len(hits) - count, 1)
        if hits:
            what = f"not even the best passage fits into the {self.model.context_length} tokens of {self.model.name}"
            raise ContextLengthError(what, where=short(question), mend="cut the documents into shorter chunks")
        return Read("", retrievals=1)

    def _spoken(
        self, pairs: Sequence[tuple[str, str]], combine: Combine, advance: Callable[[float], None]
    ) -> list[Spoken]:
        if not pairs:
            return []
        columns = list(zip(*pairs, strict=True))[: 1 if combine is leading else 2]
        choice = self.settings.choice()
        return decode_in_step(
            [Stream(self.model, list(map(self.encode, column))) for column in columns],
            combine,
            max_new_tokens=self.settings.max_new_tokens,
            rule=StopRule(("\n",), self.settings.sentence),
            choice=choice,
            seeds=[seed_of(self.run.seed, *pair) for pair in pairs] if choice.temperature else None,
            advance=advance,
        )

    def _answer(self, spoken: Spoken, read: Read, pair: tuple[str, str], seconds: float) -> Answer:
        steps: dict[str, list[Any]] = dict(spoken.trace)
        if "adjusted" in steps:
            steps["alpha"] = [a if on else None for a, on in zip(steps["alpha"], steps["adjusted"], strict=True)]
        prompts = set(pair)  # one, where nothing was read
        trace = {
            "passages": [_passage(number, hit) for number, hit in enumerate(read.hits, 1)],
            "left_out": read.left_out,
            "closed_book": not read.text,
            "stop": "answered" if read.text else "no_passages",
            "unsupported": not read.hits,
            "complete": spoken.complete,
            "calls": 1,
            "prompt_tokens": sum(len(self.encode(prompt)) for prompt in prompts),
            "completion_tokens": len(spoken.tokens),
            "seconds": round(seconds, 3),
            "retrievals": read.retrievals,
            "tokens": [self.model.encoder.decode([token]) for token in spoken.tokens],
            **steps,
        }
        return Answer(spoken.text, tuple(hit.id for hit in read.hits), trace)


def seed_of(seed: int, *prompts: str) -> int:
    """What an item draws with: by its prompts and the run's seed, whatever is asked with it."""
    digest = hashlib.sha256("\0".join((str(seed), *prompts)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1  # a seed of torch has 63 bits


def _passage(number: int, hit: Hit) -> dict[str, Any]:
    """As it stands in a trace: everything that leads back to the stored text."""
    found = {"number": number, "id": hit.id, "document": hit.document, "span": list(hit.span)}
    return {**found, "title": hit.title, "score": float(hit.score), "ranks": dict(hit.ranks)}

"""Scoring and continuing token ids, for callers that have their own rules of how texts become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from keeps.errors import RecordError
from keeps.models.checks import check_context, check_lengths
from keeps.models.scores import AnswerScore
from keeps.models.scoring import Advance, Engine, Tokens, score_pairs
from keeps.models.stopping import StopRule


class RawStop(StopRule):
    """Cuts as its base does and leaves the white space around the text."""

    def cut(self, text: str) -> str:
        """``text`` before the first stop string."""
        return text[: min((place for place in map(text.find, self.strings) if place >= 0), default=None)]


class EncodedScoring:
    """The part of a :class:`keeps.models.LanguageModel` that takes token ids."""

    if TYPE_CHECKING:
        name: str

        @property
        def context_length(self) -> int: ...

        def _reading(self) -> AbstractContextManager[Engine]: ...

        def continue_tokens(
            self,
            contexts: Sequence[list[int]],
            labels: Sequence[str],
            *,
            max_new_tokens: int,
            rule: StopRule | None = None,
            advance: Advance | None = None,
        ) -> list[tuple[str, bool]]: ...

    def logprob_encoded(
        self, contexts: Sequence[Tokens], continuations: Sequence[Tokens], *, advance: Advance | None = None
    ) -> list[AnswerScore]:
        """Log-probability of each continuation after its context; ``advance`` is told of items done.

        A continuation's last token is never fed, so it may stand one behind the end of the model's context.

        Raises:
            RecordError: unequal lengths, or an empty context or continuation.
            ContextLengthError: a context with its continuation is longer than the model's context.
        """
        check_lengths(contexts, continuations, "continuations")
        pairs = list(zip(contexts, continuations, strict=True))
        for number, (context, continuation) in enumerate(pairs):
            if not context or not continuation:
                mend = "give at least one token of each"
                raise RecordError("a context or its continuation is empty", where=f"item {number + 1}", mend=mend)
            label = f"{len(context)} tokens of context"
            check_context(number, label, len(context) + len(continuation) - 1, self.context_length, self.name)
        with self._reading() as engine:
            scores = score_pairs(engine, pairs, advance=advance)
        return [
            AnswerScore(score.logprob, len(continuation), score.greedy)
            for score, (_, continuation) in zip(scores, pairs, strict=True)
        ]

    def continue_encoded(
        self,
        contexts: Sequence[Tokens],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        advance: Advance | None = None,
    ) -> list[str]:
        """Greedy continuations, cut before the first of ``stop``, with their white space.

        Raises:
            ContextLengthError: a context leaves no room for ``max_new_tokens``.
        """
        labels = [f"{len(context)} tokens of context" for context in contexts]
        given = [list(context) for context in contexts]
        rule = RawStop(tuple(stop))
        found = self.continue_tokens(given, labels, max_new_tokens=max_new_tokens, rule=rule, advance=advance)
        return [text for text, _ in found]

"""What the scorer returns. All log-probabilities are natural logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerScore:
    """How likely an answer is after its prompt.

    Attributes:
        logprob: log-probability of the answer, summed over its tokens.
        tokens: number of answer tokens.
        greedy: whether every answer token is the most likely one in turn, that is, whether greedy
            decoding starts with exactly this answer.
    """

    logprob: float
    tokens: int
    greedy: bool

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token.

        >>> AnswerScore(-3.0, 2, False).per_token
        -1.5
        """
        return self.logprob / self.tokens


@dataclass(frozen=True)
class ChoiceScore:
    """Which of the choices the model prefers.

    Attributes:
        best: index of the choice with the highest ``normalised`` value (the first one of equals).
        logprobs: log-probability of each choice, summed over its tokens.
        normalised: ``logprobs`` divided by each choice's number of tokens.
    """

    best: int
    logprobs: tuple[float, ...]
    normalised: tuple[float, ...]

    @classmethod
    def of(cls, scores: Sequence[AnswerScore]) -> ChoiceScore:
        """The ranking of scored choices.

        >>> ChoiceScore.of([AnswerScore(-3.0, 1, False), AnswerScore(-4.0, 2, False)]).best
        1
        """
        normalised = tuple(score.per_token for score in scores)
        best = max(range(len(normalised)), key=normalised.__getitem__)
        return cls(best, tuple(score.logprob for score in scores), normalised)


@dataclass(frozen=True)
class Asked:
    """What the model says to a prompt, and how likely it finds the expected answer.

    Attributes:
        text: the greedy continuation, cut by the stop rule, without surrounding white space.
        logprob: log-probability of the expected answer, summed over its tokens.
        tokens: number of tokens of the expected answer.
        greedy: whether greedy decoding starts with exactly the expected answer's tokens.
    """

    text: str
    logprob: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class TextScore:
    """How likely a running text is; ``tokens`` counts the tokens that were scored, each once."""

    logprob: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean negative log-probability of a token.

        >>> TextScore(0.0, 5).perplexity
        1.0
        """
        return math.exp(-self.logprob / self.tokens)

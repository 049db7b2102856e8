"""What methods that read each passage alone are set by, read and say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keeps.decoding.answering import FORMS, StreamSettings
from keeps.models.scoring import Tokens
from keeps.models.tokens import CHAT_MODES
from keeps.numerics.passage_mixtures import PRIORS
from keeps.settings import setting
from keeps.sources import Hit

MEANING = "meaning"
MEANING_TEMPERATURE = 0.05  # of the embedded encoder's training: cosines times 20


@dataclass(frozen=True, kw_only=True)
class MarginalSettings(StreamSettings):
    """Settings of everything that marginalises over passages."""

    k: int = setting(5, "Passages that are looked up for a question, each read alone", ge=1, le=1000)
    form: str = setting(
        "background",
        "How a passage stands before a question: as background of an instruction; qa, as published for readers that "
        "answer in a line; or completion, for texts that the answer continues",
        choices=tuple(FORMS),
    )
    chat: str = setting(
        "auto",
        "Put prompts into the model's chat template: where it has one, never, always, or as the model was loaded",
        choices=("as_loaded", *CHAT_MODES),
    )
    prior: str = setting(
        "meaning",
        "p(z|x): softmax of the products of sentence vectors as published, of the retriever's scores, by rank, or the "
        "same for all",
        choices=(MEANING, *PRIORS),
    )
    prior_temperature: float | None = setting(
        None, "Scores are divided by it (default 0.05 for meaning, as its encoder was trained, else 1)", gt=0
    )
    cited: float = setting(0.5, "Passages are cited until they answer for this share of the text", ge=0, le=1)


@dataclass(frozen=True)
class Asked:
    """A question with its passages.

    Attributes:
        hits: that are read, best first; none where the model answers alone.
        prompts: token ids of the question behind each of them, or of the question alone.
        log_weights: ln p(z|x) of each prompt; 0 of the question alone.
    """

    question: str
    hits: tuple[Hit, ...]
    prompts: tuple[Tokens, ...]
    log_weights: tuple[float, ...]
    seed: int
    left_out: int = 0
    retrievals: int = 0


@dataclass(frozen=True)
class Told:
    """What was said to one question.

    Attributes:
        logprob: ln p(y|x) under the method, in nats.
        shares: p(z | x, y), one a prompt; for methods that mix at each token, its mean over them.
        tokens: that were generated, over all calls.
        extras: what else stands in the trace.
    """

    text: str
    complete: bool
    logprob: float
    shares: Sequence[float]
    tokens: int
    extras: dict[str, Any] = field(default_factory=dict)

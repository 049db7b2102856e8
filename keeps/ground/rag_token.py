"""RAG-Token: every token is said by all passages together, each as far as it is believed.

    p(y|x) = prod_i sum_z p(z|x) p(y_i | x, z, y_<i)

Each passage z stands alone before the question x, in a stream of its own; the streams share the answer so far, and the
next token is taken from the mixture of what they say. p(z|x) is the softmax of products of sentence vectors. Lewis et
al. 2020, arXiv:2005.11401, section 2.1, without their training of retriever and generator: any causal language model,
any retriever.

Use when: one answer draws on several passages, each of which says a part; passages together do not fit into the
context; an answer should come with the share that each passage has in each of its tokens; passages contradict each
other and none should win by its place in the prompt.

The mixture is of probabilities, so its weights matter: a passage that does not hold the answer leaves the model to its
guesses, and a small model guesses with confidence. ``prior`` says where p(z|x) comes from. The paper trains its
encoders so that products of vectors tell; here the encoder of the index, or the embedded one, is taken with the
temperature of its own training. Scores of a fused search are nearly equal and make nearly equal weights.

Needs: a language model on this machine; documents, or contexts given with the questions. Guarantees: no weight
changes; one passage answers as plain reading does, token for token; the order of passages changes nothing but rounding;
no passage can begin a line of the prompt or write a mark of a chat template. Costs one pass a passage a token, in one
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from keeps.contracts import Run
from keeps.decoding.combine import mixture
from keeps.decoding.engine import Spoken, decode_in_step
from keeps.decoding.streams import Stream
from keeps.ground.marginal import Marginal
from keeps.ground.marginal_parts import Asked, MarginalSettings, Told
from keeps.models.language_model import LanguageModel
from keeps.numerics.passage_mixtures import responsibilities, token_marginal
from keeps.registry import method
from keeps.sources import Retriever


@dataclass(frozen=True, kw_only=True)
class RAGTokenSettings(MarginalSettings):
    """Settings of RAG-Token."""


@method(
    "rag_token",
    verb="ground",
    paper="arXiv:2005.11401",
    card="augment_survey",
    summary="Read each passage alone and take every token from the mixture of what is said behind them.",
    needs=("documents",),
)
class RAGToken:
    """One stream a passage, mixed at every token."""

    Settings = RAGTokenSettings

    def __init__(self, settings: RAGTokenSettings) -> None:
        self.settings = settings

    def __call__(self, model: LanguageModel, source: Retriever | None = None, *, run: Run) -> RAGTokenAnswerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` may be left out where contexts come with questions.

        Raises:
            SettingsError: the model is a server, a chat, or has a memory before it: its logits are not to be had.
        """
        return RAGTokenAnswerer(model, source, self.settings, run)


class RAGTokenAnswerer(Marginal[RAGTokenSettings]):
    """Answers from the mixture; the trace has ``tokens`` and ``token_shares``: p(z | x, y_<=i) of each passage."""

    method = "rag_token"

    def told(self, asked: Sequence[Asked]) -> list[Told]:
        """See :meth:`keeps.ground.marginal.Marginal.told`."""
        streams = range(len(asked[0].prompts)) if asked else ()
        choice = self.settings.choice()
        spoken = decode_in_step(
            [Stream(self.model, [each.prompts[number] for each in asked]) for number in streams],
            mixture,
            max_new_tokens=self.settings.max_new_tokens,
            rule=self.rule,
            choice=choice,
            seeds=[each.seed for each in asked] if choice.temperature else None,
            weights=[[each.log_weights[number] for each in asked] for number in streams],
        )
        return [self._told(each) for each in spoken]

    def marginal(self, log_weights: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """See :meth:`keeps.ground.marginal.Marginal.marginal`."""
        return token_marginal(log_weights, logprobs)

    def _told(self, spoken: Spoken) -> Told:
        joint = torch.tensor(spoken.trace["joint"], dtype=torch.float64).T  # (passages, tokens)
        shares = responsibilities(joint)
        extras: dict[str, Any] = {
            "tokens": [self.model.encoder.decode([token]) for token in spoken.tokens],
            "token_shares": shares.T.tolist(),
        }
        logprob, count = float(joint.logsumexp(0).sum()), len(spoken.tokens)
        return Told(spoken.text, spoken.complete, logprob, shares.mean(1).tolist(), count, extras)

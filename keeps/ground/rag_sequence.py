"""RAG-Sequence: whole answers are proposed behind each passage, and judged behind all of them.

    p(y|x) = sum_z p(z|x) prod_i p(y_i | x, z, y_<i)

One passage z is thought to have told the whole answer, and which one is not known. This is no product of token
probabilities, so the best answer is looked for as the paper does: candidates y are searched for behind each passage
alone; each is then scored behind every passage, and the one of the largest sum is the answer (``thorough``). ``fast``
leaves out the passages behind which a candidate was not found. Lewis et al. 2020, arXiv:2005.11401, sections 2.1 and
2.5, without their training of retriever and generator.

Use when: an answer stands whole in one passage and it is not known in which; several passages say the same thing and
should count as several witnesses; an answer must come with the passage it came from, by probability; answers of
several passages must not be mixed into a third one.

Candidates come greedily (``beams`` 1, what the paper uses for answers to questions), from a search of some width, or
are drawn (``temperature``). Probabilities are of all tokens with the one that ends the text, and are not divided by its
length. p(z|x) as in ``rag_token``. The share of a passage is p(z | x, y) exactly, which is what is cited.

Needs: a language model on this machine; documents, or contexts given with the questions. Guarantees: no weight
changes; with one passage and one beam it answers as plain reading does; the order of passages changes nothing but
rounding. Costs one decoding a passage, and one pass a candidate a passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from keeps.contracts import Run
from keeps.decoding.beams import beam_search
from keeps.decoding.combine import leading
from keeps.decoding.engine import decode_in_step
from keeps.decoding.streams import Stream
from keeps.errors import SettingsError
from keeps.ground.marginal import Marginal
from keeps.ground.marginal_parts import Asked, MarginalSettings, Told
from keeps.models.generation import Ending
from keeps.models.language_model import LanguageModel
from keeps.numerics.passage_mixtures import responsibilities, sequence_marginal
from keeps.registry import method
from keeps.settings import setting
from keeps.sources import Retriever

Candidate = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RAGSequenceSettings(MarginalSettings):
    """Settings of RAG-Sequence."""

    decoding: str = setting(
        "thorough", "Score candidates behind every passage, or behind those they were found behind",
        choices=("thorough", "fast"),
    )  # fmt: skip
    beams: int = setting(1, "Candidates behind each passage, by a search of this width", ge=1, le=64)

    def check(self) -> None:
        """Refuse what would do nothing."""
        super().check()
        if self.beams > 1 and self.temperature > 0:
            mend = "take one beam, or a temperature of 0"
            raise SettingsError("a search draws no tokens", where="beams", mend=mend)


@method(
    "rag_sequence",
    verb="ground",
    paper="arXiv:2005.11401",
    card="augment_survey",
    summary="Propose answers behind each passage alone and take the one that is likeliest behind all of them.",
    needs=("documents",),
)
class RAGSequence:
    """Candidates from each passage, judged by all."""

    Settings = RAGSequenceSettings

    def __init__(self, settings: RAGSequenceSettings) -> None:
        self.settings = settings

    def __call__(self, model: LanguageModel, source: Retriever | None = None, *, run: Run) -> RAGSequenceAnswerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` may be left out where contexts come with questions.

        Raises:
            SettingsError: the model is a server, a chat, or has a memory before it: its logits are not to be had.
        """
        return RAGSequenceAnswerer(model, source, self.settings, run)


class RAGSequenceAnswerer(Marginal[RAGSequenceSettings]):
    """Answers with the likeliest candidate; the trace has ``candidates`` with ln p(y|x), and where each was found."""

    method = "rag_sequence"

    def told(self, asked: Sequence[Asked]) -> list[Told]:
        """See :meth:`keeps.ground.marginal.Marginal.told`."""
        found = self._candidates(asked)
        thorough = self.settings.decoding == "thorough"
        wanted = [
            (prompt, candidate)
            for each, candidates in zip(asked, found, strict=True)
            for candidate, places in candidates.items()
            for number, prompt in enumerate(each.prompts)
            if thorough or number in places
        ]
        scores = iter(self.model.logprob_encoded([prompt for prompt, _ in wanted], [said for _, said in wanted]))
        return [
            self._told(each, candidates, {
                candidate: [
                    next(scores).logprob if thorough or number in places else -torch.inf
                    for number in range(len(each.prompts))
                ]
                for candidate, places in candidates.items()
            })
            for each, candidates in zip(asked, found, strict=True)
        ]  # fmt: skip

    def marginal(self, log_weights: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """See :meth:`keeps.ground.marginal.Marginal.marginal`."""
        return sequence_marginal(log_weights, logprobs)

    def _candidates(self, asked: Sequence[Asked]) -> list[dict[Candidate, list[int]]]:
        """For each question its candidates, and the passages behind which each was found."""
        prompts = [prompt for each in asked for prompt in each.prompts]
        stream, most = Stream(self.model, prompts), self.settings.max_new_tokens
        if self.settings.beams > 1:
            searched = beam_search(stream, self.settings.beams, max_new_tokens=most, rule=self.rule)
            said = iter([[one.tokens for one in each] for each in searched])
        else:
            choice = self.settings.choice()
            # every passage draws with numbers of its own
            seeds = [each.seed ^ number for each in asked for number in range(len(each.prompts))]
            spoken = decode_in_step(
                [stream],
                leading,
                max_new_tokens=most,
                rule=self.rule,
                choice=choice,
                seeds=seeds if choice.temperature else None,
            )
            said = iter([[tuple(each.tokens)] for each in spoken])
        found: list[dict[Candidate, list[int]]] = []
        for each in asked:
            found.append({})
            for number in range(len(each.prompts)):
                for candidate in next(said):
                    found[-1].setdefault(candidate, []).append(number)
        return found

    def _told(self, asked: Asked, found: dict[Candidate, list[int]], scores: dict[Candidate, list[float]]) -> Told:
        encoder, weights = self.model.encoder, torch.tensor(asked.log_weights, dtype=torch.float64)
        ending = Ending(self.settings.max_new_tokens, self.rule, encoder.end_ids, encoder.decode)
        joint = {one: weights + torch.tensor(row, dtype=torch.float64) for one, row in scores.items()}
        totals = {one: float(each.logsumexp(0)) for one, each in joint.items()}
        ranked = sorted(totals, key=lambda one: -totals[one])
        best = ranked[0]
        listed = [
            {"text": ending.text(one), "logprob": totals[one], "found_behind": [n + 1 for n in found[one]]}
            for one in ranked
        ]
        shares = responsibilities(joint[best]).tolist()
        count = sum(len(one) * len(places) for one, places in found.items())
        return Told(ending.text(best), ending.ended(best), totals[best], shares, count, {"candidates": listed})

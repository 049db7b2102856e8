"""Context-aware decoding: what the context adds to a token's score counts once more, at every token.

    scores = (1 + alpha) z_c - alpha z_p

with z_c the logits behind context and question and z_p those behind the question alone; alpha = 0 is plain
retrieval-augmented generation. Shi et al. 2023, arXiv:2305.14739. It is classifier-free guidance of scale 1 + alpha
(Sanchez et al. 2023, arXiv:2306.17806) towards the context.

Use when: the passages are right and the model keeps answering what it knew before; summaries must stay with their
source; a baseline for decoding between context and memory is wanted.

It is always on: where context and memory agree it still takes probability from what both say, so that it may leave
the right answer on contexts that are true. ``plausible`` keeps it among tokens that have at least this share of the
best one's probability with the context (Li et al. 2023, arXiv:2210.15097); the paper has no such bound.

Needs: a language model on this machine; documents, or contexts given with the questions. Guarantees: no weight
changes; two forward passes a token; alpha 0 answers as plain retrieval does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keeps.contracts import Run
from keeps.decoding.answering import StreamSettings, TwoStreamAnswerer
from keeps.decoding.combine import CADCombine
from keeps.registry import method
from keeps.settings import setting
from keeps.sources import Retriever


@dataclass(frozen=True, kw_only=True)
class CADSettings(StreamSettings):
    """Settings of context-aware decoding."""

    alpha: float = setting(0.5, "How much what the context adds counts once more; 0: plain retrieval", ge=0, le=100)
    plausible: float = setting(0.0, "Least share of the best probability with the context; 0: no bound", ge=0, le=1)


@method(
    "cad",
    verb="ground",
    paper="arXiv:2305.14739",
    card="ck_plug",
    summary="Believe the context more: count what it adds to each token's score once more.",
    needs=("documents",),
)
class CAD:
    """Two streams in step, their difference added at every token."""

    Settings = CADSettings

    def __init__(self, settings: CADSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Retriever | None = None, *, run: Run) -> TwoStreamAnswerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` may be left out where contexts come with questions.

        Raises:
            SettingsError: the model is a server, a chat, or has a memory before it: its logits are not to be had.
        """
        combine = CADCombine(self.settings.alpha, self.settings.plausible)
        return TwoStreamAnswerer(model, source, self.settings, combine, run)

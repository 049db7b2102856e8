"""Gradient ascent on a leash: up on the forget set, and no divergence from the old model on the retain set.

    L = gamma log p on the forget set  +  alpha KL(p_old || p_now) on the retain set        (Maini et al. 2024)

The retain set needs no right answers, only typical ones: the model goes on saying about them what it said, with all
of its probabilities (arXiv:2401.06121, "KL minimisation"). What the old model said is read once and kept as hidden
states, so there is no second model.

Use when: the behaviour on other data must not change at all while something is forgotten; the retain set has no
labels, or its labels were never learned.

Needs: what is to be forgotten, and what is to be retained. Guarantees: nothing beyond the retain set.

Where the published code takes the divergence at every position, padding and prompt included, and divides by all of
them, it is taken here over the answer tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeps.registry import method
from keeps.settings import setting
from keeps.unlearn.grad_diff import GradDiff, GradDiffSettings


@dataclass(frozen=True, kw_only=True)
class KLUnlearnSettings(GradDiffSettings):
    """Settings of gradient ascent with a KL term."""

    retain_loss: str = setting(
        "kl",
        "The term on the retain set: its right answers (nll), or what the model said before (kl)",
        choices=("nll", "kl"),
    )


@method(
    "kl_unlearn",
    verb="unlearn",
    paper="arXiv:2401.06121",
    summary="Raise the loss on the forget set while the model goes on saying what it said about the rest.",
    card="unlearning",
    needs=("forget", "retain"),
)
class KLUnlearn(GradDiff):
    """Gradient ascent with the divergence from the old model as retain term."""

    Settings = KLUnlearnSettings

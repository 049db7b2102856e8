"""CK-PLUG: one dial between what was read and what the model knew, turned only where the two disagree.

Two streams share the answer so far: the question with the context (z_c) and the question alone (z_p). Over the tokens
that are likely in either, H is the entropy of a stream and CG = H_p - H_c the confidence gain. Where the context makes
the model less sure (CG < 0), the next token is taken from

    alpha log p_p + (1 - alpha) log(p_c / p_p)

and elsewhere from z_c, which is plain retrieval-augmented generation. alpha = 1 is the memory, alpha = 0 pure contrast
(only what the context adds), alpha = 0.5 chooses the tokens of the plain answer; ``adaptive`` is H_c / (H_c + H_p) at
each token, more memory the less sure the context leaves the model. Bi et al. 2025, arXiv:2503.15888.

Use when: passages may be wrong, outdated or planted and the model's own knowledge should weigh more; passages are
right and newer than the model, which clings to what it knew; one dial between context and memory is wanted without
training; nobody knows how good the retrieved text is (``adaptive``).

``gate`` says where it turns the dial: ``cg`` as published, ``code`` as the released loop does (CG < H_c, which is more
often), ``always``; ``gate_offset`` any other CG < offset * H_c. At alpha below 0.5 a token that is merely impossible
without the context may win; ``context_floor`` admits only what the context finds likely. With drawn tokens
``scale="code"`` gives adaptive scores the temperature of the released loop; the best token is the same.

Needs: a language model on this machine; documents, or contexts given with the questions. Guarantees: no weight
changes; two forward passes a token, both streams in one batch where that is cheaper; alpha 0.5 answers as plain
retrieval does, token for token; a question without context is answered by the model alone; every token's gate, gain,
entropies and alpha stand in the trace. Beams are refused here and followed by
``keeps.decoding.processor.StreamProcessor``, which puts the same combination into transformers' ``generate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from keeps.contracts import Run
from keeps.decoding.answering import StreamSettings, TwoStreamAnswerer
from keeps.decoding.combine import CKCombine
from keeps.errors import SettingsError
from keeps.registry import method
from keeps.settings import setting
from keeps.sources import Retriever


@dataclass(frozen=True, kw_only=True)
class CKPlugSettings(StreamSettings):
    """Settings of CK-PLUG."""

    alpha: str = setting("adaptive", "Weight of the memory: 0 (the context) to 1, or adaptive")
    gate: str = setting("cg", "Where tokens are adjusted: as published, as released, everywhere",
                        choices=("cg", "code", "always"))  # fmt: skip
    gate_offset: float | None = setting(None, "Adjust where CG < offset times H_c; default: by gate", advanced=True)
    rho: float = setting(0.01, "Share of the best probability that makes a candidate", gt=0, le=1, advanced=True)
    top: int = setting(10, "Candidates of each stream at least", ge=1, advanced=True)
    context_floor: bool = setting(False, "Below alpha 0.5 take only candidates of the context")
    scale: str = setting("paper", "Temperature of adaptive scores that are drawn from", choices=("paper", "code"),
                         advanced=True)  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.alpha, (int, float)) and not isinstance(self.alpha, bool):
            object.__setattr__(self, "alpha", repr(float(self.alpha)))  # a number is welcome where text is read
        super().__post_init__()

    def check(self) -> None:
        """Refuse values out of range, and what would do nothing."""
        super().check()
        if self.gate_offset is not None and self.gate != "cg":
            raise SettingsError(f'gate "{self.gate}" has its own offset', mend="leave gate or gate_offset out")
        if self.scale == "code" and (self.alpha != "adaptive" or self.temperature == 0):
            what = "the released scale changes nothing but adaptive scores that tokens are drawn from"
            raise SettingsError(what, where="scale", mend="choose alpha adaptive and a temperature, or leave it out")
        combine = self.combine()
        if self.context_floor and not isinstance(combine.alpha, str) and combine.alpha >= 0.5:
            what = f"context_floor does nothing at alpha {combine.alpha}"
            raise SettingsError(what, mend="leave it out, or choose alpha below 0.5")

    def combine(self) -> CKCombine:
        """The function that these settings make of two streams' logits."""
        try:
            alpha = "adaptive" if self.alpha == "adaptive" else float(self.alpha)
        except ValueError:
            mend = 'choose a number in [0, 1], or "adaptive"'
            raise SettingsError(f'alpha is "{self.alpha}"', mend=mend) from None
        gate = cast(Literal["cg", "code", "always"], self.gate) if self.gate_offset is None else self.gate_offset
        scale = cast(Literal["paper", "code"], self.scale)
        return CKCombine(cast(Any, alpha), gate, self.rho, self.top, self.context_floor, scale)


@method(
    "ck_plug",
    verb="ground",
    paper="arXiv:2503.15888",
    summary="One dial between what was read and what the model knew, turned only where they disagree.",
    needs=("documents",),
)
class CKPlug:
    """Two streams in step, combined where the context makes the model less sure."""

    Settings = CKPlugSettings

    def __init__(self, settings: CKPlugSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, source: Retriever | None = None, *, run: Run) -> TwoStreamAnswerer:
        """See :class:`keeps.sources.GroundMethod`; ``source`` may be left out where contexts come with questions.

        Raises:
            SettingsError: the model is a server, a chat, or has a memory before it: its logits are not to be had.
        """
        return TwoStreamAnswerer(model, source, self.settings, self.settings.combine(), run)

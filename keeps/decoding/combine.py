"""What the engine makes of the streams' logits at each step: a function from logits to scores, with what it saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from keeps.errors import SettingsError, nearest
from keeps.numerics.logit_arithmetic import GATES, Gate, cad, ck_adjust, classifier_free_guidance, shifted


@dataclass(frozen=True)
class Combined:
    """The scores of the next token, and what is worth knowing of each row.

    Attributes:
        scores: ``(rows, vocabulary)``; -inf on what must not be chosen.
        trace: name -> ``(rows,)`` or ``(rows, values)``.
        of_chosen: name -> ``(values, rows, vocabulary)``, of which the values of the chosen token are noted.
    """

    scores: Tensor
    trace: Mapping[str, Tensor] = field(default_factory=dict)
    of_chosen: Mapping[str, Tensor] = field(default_factory=dict)


# Of float32 logits (streams, rows, vocabulary). Rows have nothing to do with each other.
Combine = Callable[[Tensor], Combined]


def leading(logits: Tensor) -> Combined:
    """Plain decoding: the first stream's logits, whatever the others say."""
    return Combined(logits[0])


def mixture(joint: Tensor) -> Combined:
    """A mixture: streams are the logarithms of what each adds to a token's probability (``decode_in_step(weights=)``).

    Notes of each chosen token what every stream adds to it, ``joint``; see
    :mod:`keeps.numerics.passage_mixtures`.
    """
    return Combined(joint.logsumexp(0), of_chosen={"joint": joint})


@dataclass(frozen=True)
class CKCombine:
    """CK-PLUG of two streams, with context and without; see :func:`keeps.numerics.logit_arithmetic.ck_adjust`.

    Raises:
        SettingsError: alpha, rho, top or the gate is out of range.
    """

    alpha: float | Literal["adaptive"] = "adaptive"
    gate: Gate | float = "cg"
    rho: float = 0.01
    top: int = 10
    context_floor: bool = False
    scale: Literal["paper", "code"] = "paper"

    def __post_init__(self) -> None:
        if isinstance(self.alpha, str) and self.alpha != "adaptive":
            raise SettingsError(f'alpha is "{self.alpha}"', mend='choose a number in [0, 1], or "adaptive"')
        if not isinstance(self.alpha, str) and not 0 <= self.alpha <= 1:
            raise SettingsError(f"alpha is {self.alpha}", mend="choose 0 (the context) to 1 (the memory)")
        if isinstance(self.gate, str) and self.gate not in GATES:
            raise SettingsError(f'gate is "{self.gate}"', mend=nearest(self.gate, GATES))
        if self.gate != self.gate:
            raise SettingsError("gate is not a number", mend="choose the offset of the gate, such as 0")
        if not 0 < self.rho <= 1:
            raise SettingsError(f"rho is {self.rho}", mend="choose above 0 and at most 1")
        if self.top < 1:
            raise SettingsError(f"top is {self.top}", mend="choose 1 or more candidates")
        if self.scale not in ("paper", "code"):
            raise SettingsError(f'scale is "{self.scale}"', mend='choose "paper" or "code"')

    def __call__(self, logits: Tensor) -> Combined:
        """See :data:`Combine`."""
        found = ck_adjust(
            logits[0],
            logits[1],
            self.alpha,
            gate=self.gate,
            rho=self.rho,
            top=self.top,
            context_floor=self.context_floor,
            scale=self.scale,
        )
        trace = {
            "cg": found.gain,
            "adjusted": found.adjusted,
            "alpha": found.alpha,
            "h_context": found.h_context,
            "h_param": found.h_param,
        }
        return Combined(found.scores, trace)


@dataclass(frozen=True)
class CADCombine:
    """Context-aware decoding of two streams, with context and without.

    Raises:
        SettingsError: alpha is negative, or plausible is no share.
    """

    alpha: float = 0.5
    plausible: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise SettingsError(f"alpha is {self.alpha}", mend="choose 0 or more")
        if not 0 <= self.plausible <= 1:
            raise SettingsError(f"plausible is {self.plausible}", mend="choose a share in [0, 1]")

    def __call__(self, logits: Tensor) -> Combined:
        """See :data:`Combine`."""
        return Combined(cad(logits[0], logits[1], self.alpha, plausible=self.plausible))


@dataclass(frozen=True)
class GuidanceCombine:
    """Classifier-free guidance of two streams: the prompt, and what it is to be told from."""

    scale: float = 1.5

    def __call__(self, logits: Tensor) -> Combined:
        """See :data:`Combine`."""
        return Combined(classifier_free_guidance(logits[0], logits[1], self.scale))


@dataclass(frozen=True)
class ShiftCombine:
    """A large model, a small one, and small experts made of it, in this order: proxy tuning and DExperts.

    Raises:
        SettingsError: there is no expert.
    """

    alphas: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if not self.alphas:
            raise SettingsError("there is no expert to steer with", mend="give one alpha for each expert")

    def __call__(self, logits: Tensor) -> Combined:
        """See :data:`Combine`."""
        return Combined(shifted(logits[0], logits[1], list(logits[2:]), self.alphas))

"""The lines of a knowledge diff as plain data: what each holds, and JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from keeps.errors import LedgerError
from keeps.numerics.statistics import Estimate, Proportion

Outcome = Literal["learned", "kept", "lost", "missing"]
OUTCOMES: tuple[Outcome, ...] = ("learned", "kept", "lost", "missing")


def plain(value: Any) -> Any:
    """``value`` with every tuple as a list, as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


@dataclass(frozen=True)
class GroupDiff:
    """One line of the diff: the questions of a group, or of all groups of a role.

    Attributes:
        learned, kept, lost, missing: wrong→right, right→right, right→wrong, wrong→wrong; they add up to ``n``.
        before, after: share of right answers, with its Wilson interval.
        p_value: exact McNemar test of "learning and losing are equally likely".
        logprob_shift: mean change of the expected answer's log-probability in nats, with a t
            interval over the questions; None without probabilities on both sides.
    """

    name: str
    n: int
    learned: int
    kept: int
    lost: int
    missing: int
    before: Proportion
    after: Proportion
    p_value: float
    logprob_shift: Estimate | None


@dataclass(frozen=True)
class TextDiff:
    """Running text: loss in nats per token over all tokens, and the shift paired over passages.

    Where ``tokens_before`` and ``tokens_after`` differ, two tokenizers cut the same text, and the
    losses per token are not comparable with each other.
    """

    group: str
    n: int
    tokens_before: int
    tokens_after: int
    loss_before: float
    loss_after: float
    perplexity_before: float
    perplexity_after: float
    loss_shift: Estimate


@dataclass(frozen=True)
class ItemDiff:
    """One question with the answers before and after."""

    id: str
    group: str
    prompt: str
    expected: str
    before: str
    after: str
    outcome: Outcome
    logprob_before: float | None = None
    logprob_after: float | None = None


@dataclass(frozen=True)
class KnowledgeDiff:
    """What changed between two models: lines per group, pooled lines per role, texts, items, cost.

    Attributes:
        totals: all groups of a role pooled, such as ``"learn"``, ``"learn, unseen wording"``, ``"keep"``.
        text_totals: all running text of a role pooled, such as ``"text"``.
        items: every question that is not text, in the order of the probe.
        cost: what the change cost, as the run measured it; not derived from rows.
        only_before, only_after: ids asked of one side only; they count in no number.
    """

    before_name: str
    after_name: str
    groups: tuple[GroupDiff, ...]
    totals: tuple[GroupDiff, ...]
    texts: tuple[TextDiff, ...]
    text_totals: tuple[TextDiff, ...]
    items: tuple[ItemDiff, ...]
    cost: Mapping[str, Any] = field(default_factory=dict)
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()

    def total(self, role: str) -> GroupDiff | None:
        """The pooled line of a role, such as ``"keep"``; None if nothing of the role was asked."""
        return next((line for line in self.totals if line.name == role), None)

    def text_total(self, role: str = "text") -> TextDiff | None:
        """The pooled line of a role's running text; None if there is none."""
        return next((line for line in self.text_totals if line.group == role), None)

    def select(self, *outcomes: Outcome, group: str = "") -> list[ItemDiff]:
        """Items of the given outcomes (default: those that flipped) whose group begins with ``group``."""
        wanted = outcomes or ("learned", "lost")
        return [item for item in self.items if item.outcome in wanted and item.group.startswith(group)]

    def to_mapping(self) -> dict[str, Any]:
        """JSON types only; :meth:`from_mapping` gives the same diff back."""
        return plain(asdict(self))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> KnowledgeDiff:
        """Rebuild a diff from :meth:`to_mapping`, or from JSON made of it.

        Raises:
            LedgerError: a field is missing or not known.
        """
        try:
            parts: dict[str, Any] = {
                "groups": tuple(_group_from(line) for line in values["groups"]),
                "totals": tuple(_group_from(line) for line in values["totals"]),
                "texts": tuple(_text_from(line) for line in values["texts"]),
                "text_totals": tuple(_text_from(line) for line in values["text_totals"]),
                "items": tuple(ItemDiff(**item) for item in values["items"]),
                "only_before": tuple(values["only_before"]),
                "only_after": tuple(values["only_after"]),
            }
            return cls(**{**values, **parts})
        except (KeyError, TypeError) as error:
            raise LedgerError(
                f"this is no knowledge diff ({error})", mend="give what `keeps diff --json` prints"
            ) from None


def _group_from(values: Mapping[str, Any]) -> GroupDiff:
    shift = values["logprob_shift"]
    parts = {"before": Proportion(**values["before"]), "after": Proportion(**values["after"])}
    return GroupDiff(**{**values, **parts, "logprob_shift": Estimate(**shift) if shift else None})


def _text_from(values: Mapping[str, Any]) -> TextDiff:
    return TextDiff(**{**values, "loss_shift": Estimate(**values["loss_shift"])})

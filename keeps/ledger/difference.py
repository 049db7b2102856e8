"""The knowledge diff: what a model answers before and after a change, question by question.

It reads like ``git diff --stat`` first (one line per group) and like ``git diff`` when asked (the
items). Every number is computed from two lists of rows and nothing else, so that it can be
recomputed from the ledger: :func:`diff_results` does so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from keeps.contracts import Row
from keeps.errors import LedgerError
from keeps.ledger.lines import OUTCOMES, GroupDiff, ItemDiff, KnowledgeDiff, Outcome, TextDiff
from keeps.numerics.statistics import mcnemar_exact, paired_shift, ratio_shift, wilson

if TYPE_CHECKING:
    from keeps.ledger.store import Ledger

UNSEEN = ", unseen wording"  # ends the name of a group that is asked in wordings not trained on


def compare_rows(
    before: Sequence[Row],
    after: Sequence[Row],
    *,
    before_name: str = "before",
    after_name: str = "after",
    cost: Mapping[str, Any] | None = None,
    unmatched: Literal["refuse", "count"] = "refuse",
) -> KnowledgeDiff:
    """Join two probe results by group and id, and count what was learned, kept, lost and is missing.

    Questions asked of one side only are refused, or with ``unmatched="count"`` listed in
    ``only_before`` and ``only_after``.

    >>> row = Row("no", "keep: capital", "The capital of Norway is", "Oslo", "Oslo", True, 1.0)
    >>> from dataclasses import replace
    >>> diff = compare_rows([row], [replace(row, answer="Bergen", correct=False)])
    >>> diff.groups[0].lost, diff.items[0].after
    (1, 'Bergen')

    Raises:
        LedgerError: ids that do not match or occur twice, questions that differ, nothing in common.
    """
    first, second = _by_key(before, before_name), _by_key(after, after_name)
    only_before = tuple(key[1] for key in first if key not in second)
    only_after = tuple(key[1] for key in second if key not in first)
    if (only_before or only_after) and unmatched == "refuse":
        raise LedgerError(
            f"{len(only_before)} questions were asked of {before_name} only and {len(only_after)} of {after_name} only",
            where=", ".join([*only_before, *only_after][:5]),
            mend="probe both with the same questions, or have the rest counted as unmatched",
        )
    pairs = [(first[key], second[key]) for key in first if key in second]
    if not pairs:
        raise LedgerError(f"{before_name} and {after_name} have no question in common", mend="probe both the same way")
    for one, other in pairs:
        if (one.expected, one.kind) != (other.expected, other.kind):
            what = (
                f'{before_name} expects "{one.expected}" ({one.kind}), {after_name} "{other.expected}" ({other.kind})'
            )
            raise LedgerError(what, where=f"{one.group}, {one.id}", mend="probe both with the same version of the data")
    asked = [pair for pair in pairs if pair[0].kind != "text"]
    texts = [pair for pair in pairs if pair[0].kind == "text"]
    return KnowledgeDiff(
        before_name=before_name,
        after_name=after_name,
        groups=tuple(_group(name, part) for name, part in _parts(asked, lambda group: group)),
        totals=tuple(_group(name, part) for name, part in _parts(asked, role_of)),
        texts=tuple(_text(name, part) for name, part in _parts(texts, lambda group: group)),
        text_totals=tuple(_text(name, part) for name, part in _parts(texts, role_of)),
        items=tuple(_item(*pair) for pair in asked),
        cost=dict(cost or {}),
        only_before=only_before,
        only_after=only_after,
    )


def diff_results(ledger: Ledger, before: str, after: str, **options: Any) -> KnowledgeDiff:
    """The diff of two stored results, computed from their rows; options as of :func:`compare_rows`."""
    names = {"before_name": ledger.result(before).subject_name, "after_name": ledger.result(after).subject_name}
    return compare_rows(ledger.rows(before), ledger.rows(after), **{**names, **options})


def role_of(group: str) -> str:
    """The pooled line that a group counts in.

    >>> role_of("keep: capital"), role_of("learn: capital, unseen wording"), role_of("capital")
    ('keep', 'learn, unseen wording', 'all')
    """
    role, colon, _ = group.partition(": ")
    name = role if colon else "all"
    return name + UNSEEN if group.endswith(UNSEEN) else name


Pair = tuple[Row, Row]


def _by_key(rows: Iterable[Row], name: str) -> dict[tuple[str, str], Row]:
    keyed: dict[tuple[str, str], Row] = {}
    for row in rows:
        if (row.group, row.id) in keyed:
            raise LedgerError(
                f"{name} has two rows for one question", where=f"{row.group}, {row.id}", mend="probe again"
            )
        keyed[row.group, row.id] = row
    return keyed


def _parts(pairs: Sequence[Pair], name_of: Callable[[str], str]) -> list[tuple[str, list[Pair]]]:
    """The pairs by the name of their group, in order of first appearance."""
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(name_of(pair[0].group), []).append(pair)
    return list(parts.items())


def _outcome(before: Row, after: Row) -> Outcome:
    if before.correct:
        return "kept" if after.correct else "lost"
    return "learned" if after.correct else "missing"


def _group(name: str, pairs: Sequence[Pair]) -> GroupDiff:
    counts = dict.fromkeys(OUTCOMES, 0)
    for pair in pairs:
        counts[_outcome(*pair)] += 1
    scored = [(a.logprob, b.logprob) for a, b in pairs if a.logprob is not None and b.logprob is not None]
    scored = [pair for pair in scored if all(map(math.isfinite, pair))]  # -inf has no mean; n tells how many have one
    shift = paired_shift([a for a, _ in scored], [b for _, b in scored]) if scored else None
    n = len(pairs)
    return GroupDiff(
        name=name,
        n=n,
        **counts,
        before=wilson(counts["kept"] + counts["lost"], n),
        after=wilson(counts["kept"] + counts["learned"], n),
        p_value=mcnemar_exact(counts["learned"], counts["lost"]),
        logprob_shift=shift,
    )


def _text(name: str, pairs: Sequence[Pair]) -> TextDiff:
    tokens = [[int(row.details.get("tokens", 0)) for row in side] for side in zip(*pairs, strict=True)]
    losses = [
        [-(row.logprob if row.logprob is not None else math.nan) for row in side] for side in zip(*pairs, strict=True)
    ]
    for (row, _), *values in zip(pairs, *tokens, *losses, strict=True):
        if min(values[:2]) < 1 or not all(math.isfinite(value) for value in values):
            raise LedgerError(
                "a text row needs a log-probability and its tokens", where=f"{name}, {row.id}", mend="probe again"
            )
    totals, sizes = [math.fsum(side) for side in losses], [sum(side) for side in tokens]
    before, after = totals[0] / sizes[0], totals[1] / sizes[1]
    return TextDiff(
        group=name,
        n=len(pairs),
        tokens_before=sizes[0],
        tokens_after=sizes[1],
        loss_before=before,
        loss_after=after,
        perplexity_before=_exp(before),
        perplexity_after=_exp(after),
        loss_shift=ratio_shift(losses[0], tokens[0], losses[1], tokens[1]),
    )


def _item(before: Row, after: Row) -> ItemDiff:
    answers = (before.answer, after.answer)
    return ItemDiff(
        before.id,
        before.group,
        before.prompt,
        before.expected,
        *answers,
        _outcome(before, after),
        before.logprob,
        after.logprob,
    )


def _exp(loss: float) -> float:
    """e^loss, held at the largest float where it would overflow (JSON has no infinity)."""
    return math.exp(min(loss, 709.0))

"""What a user should look at after an edit: edits that did not take, neighbours that moved, a collapse that nears."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keeps.contracts import Row
from keeps.data.edits import Edit
from keeps.ledger.lines import KnowledgeDiff
from keeps.probe.matching import normalised

SHOWN = 3  # edits named in one warning
MOVED = 0.2  # share of neighbours with another answer above which they count as moved
PERPLEXITY = 0.2  # rise on neutral text above which a sequence of edits nears collapse
NORM = 0.5  # size of an update, as a share of its weight, above which it does


def edit_warnings(
    edits: Sequence[Edit],
    before: Sequence[Row],
    after: Sequence[Row],
    diff: KnowledgeDiff,
    measures: Mapping[str, Any],
) -> Iterator[str]:
    """One sentence a finding, none where all is well."""
    left = measures.get("not_made")
    if left:
        yield f"{left} of {len(edits)} edits were not made: the text limit was reached, so the model holds no more"
    targets = {edit.id: edit.target_new for edit in edits}
    failed = [row for row in after if row.details["scope"] == "rewrite" and not row.correct]
    for row in failed[:SHOWN]:
        name = row.details["edit"]
        yield (
            f'the edit {name} did not take: to "{row.prompt}" the model says "{_short(row.answer)}", '
            f'not "{targets.get(name, row.expected)}"'
        )
    if len(failed) > SHOWN:
        yield f"{len(failed) - SHOWN} more of {len(edits)} edits did not take"
    already = [row for row in before if row.details["scope"] == "rewrite" and row.correct]
    if already:
        yield f"{len(already)} of {len(edits)} edits were answered so before: nothing had to be edited there"
    yield from _neighbours(before, after)
    kept = diff.total("keep")
    if kept is not None and kept.lost > MOVED * max(kept.lost + kept.kept, 1):
        yield f"{kept.lost} of {kept.lost + kept.kept} facts to keep are lost"
    yield from _collapse(diff, measures)


def _neighbours(before: Sequence[Row], after: Sequence[Row]) -> Iterator[str]:
    mates = {row.id: row for row in before}
    rows = [row for row in after if row.details["scope"] == "locality" and row.id in mates]
    rows = [row for row in rows if row.details["kind"] != "prefix_distraction"]
    moved = [row for row in rows if normalised(row.answer) != normalised(mates[row.id].answer)]
    if rows and len(moved) > MOVED * len(rows):
        shown = moved[0]
        yield (
            f'neighbours moved: {len(moved)} of {len(rows)} are answered differently, such as "{shown.prompt}" '
            f'("{_short(mates[shown.id].answer)}" before, "{_short(shown.answer)}" now)'
        )


def _collapse(diff: KnowledgeDiff, measures: Mapping[str, Any]) -> Iterator[str]:
    text = diff.text_total()
    rise = None if text is None else math.expm1(text.loss_shift.value)
    if rise is not None and rise > PERPLEXITY:
        yield f"the model nears collapse: its perplexity on neutral text rose by {rise:.0%}"
    norm = measures.get("update_norm")
    if isinstance(norm, (int, float)) and norm > NORM:
        yield f"the model nears collapse: the update is {norm:.0%} of the size of the weight"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"

"""The picture of what was tried: what each parent keeps, and the ways that no other way beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keeps.errors import LedgerError
from keeps.ledger.figures import INK, MUTED, PAPER, WIDTH, colours_of, dress, new_figure
from keeps.ledger.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 8  # places: of more only the front has its names written beside it
NAMED = 2  # names of what shares one place

Tried = tuple[str, Mapping[str, float], bool]  # label, score of each parent, whether it is on the front


def draw_front(tried: Sequence[Tried], *, title: str = "What each parent keeps of its own") -> Figure:
    """One point for each score that was reached; those that no other beats are filled and joined.

    Each has the names of its trials beside it, where they are few; the front always has.

    Of two parents an axis each; of more, the mean over the parents (x) against the worst of them (y).

    Args:
        tried: scores are in per cent of what the parent itself answers.

    Raises:
        LedgerError: nothing was tried, or scores are of fewer than two parents.
    """
    if not tried or len(tried[0][1]) < 2:
        raise LedgerError("there is nothing to draw", mend="try one merge of two models or more")
    names = list(tried[0][1])
    figure = new_figure(WIDTH, 5.0)
    axes = figure.add_subplot()
    if len(names) == 2:
        places = [(scores[names[0]], scores[names[1]]) for _, scores, _ in tried]
        x, y = (f"{name}: share of what it answers itself (%)" for name in names)
    else:
        places = [(sum(scores.values()) / len(scores), min(scores.values())) for _, scores, _ in tried]
        x, y = "mean over the parents (%)", "the parent that lost most (%)"
    dress(axes, x=x, y=y, title=title)
    colours = colours_of([label for label, _, _ in tried])
    front = sorted({place for place, (_, _, best) in zip(places, tried, strict=True) if best})
    if len(front) > 1 and len(names) == 2:
        axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    alike: dict[tuple[float, float], list[str]] = {}
    for (label, _, _), place in zip(tried, places, strict=True):
        alike.setdefault(place, []).append(label)
    for place, labels in alike.items():  # one point for all that score the same, or the last would hide the others
        own = colours[labels[0]]
        axes.scatter(*place, s=60, facecolor=own if place in front else PAPER, edgecolor=own, linewidth=1.4, zorder=3)
    for draw in (axes.axhline, axes.axvline):
        draw(100, color=INK, linewidth=0.9, alpha=0.6, zorder=1)  # as good as the parent
    axes.margins(0.12)
    figure.canvas.draw()  # lays the axes out, so that labels can be measured
    figure.set_layout_engine("none")
    named = [place for place in alike if place in front or len(alike) <= LABELLED]
    half = 5 * figure.dpi / 72
    dots = [axes.transData.transform(place).tolist() for place in alike if place not in named]
    place_labels(
        axes,
        [(*place, _together(alike[place]), colours[alike[place][0]] if place in front else MUTED) for place in named],
        avoid=[(x - half, y - half, x + half, y + half) for x, y in dots],
    )
    return figure


def _together(labels: Sequence[str]) -> str:
    """The names of what lies at one place.

    >>> print(_together(["average", "ties (scale 1)", "dare", "slerp"]))
    average
    ties (scale 1)
    and 2 more
    """
    more = len(labels) - NAMED
    return "\n".join([*labels[:NAMED], *([f"and {more} more"] if more > 0 else [])])

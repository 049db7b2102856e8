"""The picture of what was tried: what each parent keeps, and the ways that no other way beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keeps.errors import LedgerError
from keeps.ledger.figures import INK, MUTED, PAPER, WIDTH, colours_of, dress, new_figure
from keeps.ledger.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tried = tuple[str, Mapping[str, float], bool]  # label, score of each parent, whether it is on the front


def draw_front(tried: Sequence[Tried], *, title: str = "What each parent keeps of its own") -> Figure:
    """One point a trial; those that no other beats are filled, labelled and joined.

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
    for (label, _, best), place in zip(tried, places, strict=True):
        face = colours[label] if best else PAPER
        axes.scatter(*place, s=60, facecolor=face, edgecolor=colours[label], linewidth=1.4, zorder=3)
    for value, draw in ((100, axes.axhline), (100, axes.axvline)):
        draw(value, color=INK, linewidth=0.6, alpha=0.4, zorder=0)
    axes.margins(0.12)
    once: dict[tuple[float, float], str] = {}
    for (label, _, best), place in zip(tried, places, strict=True):
        if best:
            once.setdefault(place, label)
    figure.canvas.draw()  # lays the axes out, so that labels can be measured
    figure.set_layout_engine("none")
    place_labels(axes, [(*place, label, colours[label]) for place, label in once.items()])
    return figure

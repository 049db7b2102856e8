"""The picture of the language-specific probe: a field for each cluster and language, the expert framed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keeps.data.languages import language
from keeps.ledger.figures import INK, PALETTE, WIDTH, dress, new_figure
from keeps.probe.language_analysis import Analysis
from keeps.probe.language_report import NO_EFFECT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE, HEAD = 0.3, 1.5  # inches of a cluster, and of title and axis
MOST_MODELS = 3
SHORT = 34  # characters of a cluster's example


def draw(several: Sequence[tuple[str, Analysis]], examples: Sequence[Sequence[str]]) -> Figure | None:
    """Shares right by cluster and language on the train questions, one field a model; None for no model.

    Args:
        several: names and analyses; the first three are drawn.
        examples: a question of each cluster of each model.
    """
    chosen = list(several)[:MOST_MODELS]
    if not chosen:
        return None
    heights = [HEAD + LINE * len(found.map.centres) for _, found in chosen]
    figure = new_figure(WIDTH, sum(heights))
    fields = figure.subplots(len(chosen), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, found), own in zip(fields, chosen, examples, strict=False):
        _draw_field(axes, found, own, name if len(chosen) > 1 else "")
    return figure


def _draw_field(axes: Any, found: Analysis, examples: Sequence[str], name: str) -> None:
    from matplotlib.patches import Rectangle

    table = found.map.table
    effect = "the expert language of each topic is framed" if found.significant else NO_EFFECT
    title = "Right answers by topic and language (%)" + (f": {name}" if name else "")
    dress(axes, x=effect[:1].upper() + effect[1:], title=title, grid="")
    axes.xaxis.label.set_fontsize(9.5)
    values = [[100 * value for value in line] for line in table.accuracy.tolist()]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not math.isnan(value):
                colour = "w" if value > 55 else INK
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
        if found.significant:
            place = (int(table.experts[row]) - 0.47, row - 0.46)
            axes.add_patch(Rectangle(place, 0.94, 0.92, fill=False, edgecolor=PALETTE[1], linewidth=2))
    codes = found.map.languages
    axes.set_xticks(range(len(codes)), [language(code).name for code in codes], rotation=30, ha="right")
    labels = [
        f"{text if len(text) <= SHORT else text[: SHORT - 1] + '…'}  n={int(count)}"
        for text, count in zip(examples, table.counts, strict=True)
    ]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)

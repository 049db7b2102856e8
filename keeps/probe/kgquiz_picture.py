"""The picture of KGQuiz: a bar for every task, and a field for every relation and task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keeps.ledger.figures import INK, PALETTE, WIDTH, dress, new_figure
from keeps.probe.base import Findings, Measure
from keeps.probe.kgquiz_report import SCORE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_RELATIONS = 24  # lines of the picture


def draw(found: Findings) -> Figure | None:
    """Bars of every task with intervals, and below them the first model's score by relation and task."""
    bars = [m for m in found.measures if m.metric == SCORE and m.value is not None]
    tasks = [m for m in bars if not m.group.startswith("relation ")]
    if not tasks:
        return None
    groups, models = (list(dict.fromkeys(getattr(m, name) for m in tasks)) for name in ("group", "model"))
    own = [m for m in bars if m.group.startswith("relation ") and m.model == models[0]]
    grid = {(m.group.removeprefix("relation ").split(" / ")[0], m.group.split(" / ")[1]): m for m in own}
    lines = list(dict.fromkeys(line for line, _ in grid))[:MOST_RELATIONS]
    columns = list(dict.fromkeys(column for _, column in grid))
    heights = [0.9 + 0.3 * len(groups) * len(models)] + ([1.2 + 0.24 * len(lines)] if len(lines) > 1 else [])
    figure = new_figure(WIDTH, sum(heights))
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_bars(axes[0], tasks, groups, models)
    if len(models) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(models), 3), frameon=False, fontsize=9.5)
    if len(lines) > 1:
        _draw_grid(axes[1], grid, lines, columns, models[0] if len(models) > 1 else "")
    return figure


def _draw_bars(axes: Any, tasks: Sequence[Measure], groups: Sequence[str], models: Sequence[str]) -> None:
    dress(axes, x="score (%)", title="From recognising to writing", grid="x")
    height = 0.8 / len(models)
    for number, model in enumerate(models):
        own = [measure for measure in tasks if measure.model == model]
        places = [groups.index(measure.group) + number * height for measure in own]
        values = [100 * float(measure.value or 0) for measure in own]
        axes.barh(places, values, height=0.9 * height, color=PALETTE[number % len(PALETTE)], label=model)
        for place, measure in zip(places, own, strict=True):
            if measure.low is not None and measure.high is not None:
                axes.plot([100 * measure.low, 100 * measure.high], [place, place], color=INK, linewidth=1)
    axes.set_yticks([n + (len(models) - 1) * height / 2 for n in range(len(groups))], groups)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)


def _draw_grid(
    axes: Any, grid: Mapping[tuple[str, str], Measure], lines: Sequence[str], columns: Sequence[str], model: str
) -> None:
    dress(axes, title="Score by relation (%)" + (f", {model}" if model else ""), grid="")
    values = [
        [100 * grid[line, column].value if (line, column) in grid else float("nan") for column in columns]  # type: ignore[operator]
        for line in lines
    ]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not math.isnan(value):
                axes.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color="w" if value > 55 else INK,
                )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), lines)

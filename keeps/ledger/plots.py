"""The pictures: learned against kept, outcomes per group, training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keeps.errors import LedgerError
from keeps.ledger.comparison import COSTS, Comparison, MethodRow
from keeps.ledger.figures import (
    INK,
    MUTED,
    OUTCOME_COLOURS,
    PAPER,
    PIXELS_PER_INCH,
    WIDTH,
    colours_of,
    dress,
    method_of,
    new_figure,
)
from keeps.ledger.labels import Box, place_labels
from keeps.ledger.lines import GroupDiff, KnowledgeDiff
from keeps.ledger.units import quantity, round_down
from keeps.numerics.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keeps.ledger.store import Point

LARGEST_AREA = 900.0  # square points of the disc of the costliest row
LINE_STYLES = ("-", "--", ":", "-.")
MOST_LINES = 24  # of a legend that can still be read


def draw_comparison(
    comparison: Comparison, *, cost: str = "train_seconds", title: str = "What was learned, what was kept"
) -> Figure:
    """Learned (x) against kept (y) in per cent, with 95 % intervals on both; area is the cost.

    Rows without both shares are left out (the table has them).

    A dashed line joins the rows that no other row beats on both axes.

    Raises:
        LedgerError: no row has both shares, or there is no such cost.
    """
    if cost not in COSTS:
        raise LedgerError(f'no cost "{cost}"', mend="choose one of " + ", ".join(COSTS))
    rows = [row for row in comparison.rows if row.learned and row.kept]
    if not rows:
        mend = "learn and keep need questions with answers that were wrong, or right, before"
        raise LedgerError("no run has both a learned and a kept share to draw", mend=mend)
    figure = new_figure(WIDTH, 5.0)
    axes = figure.add_subplot()
    axis_names = ("learned: share of the new facts now right (%)", "kept: share of the known facts still right (%)")
    dress(axes, x=axis_names[0], y=axis_names[1], title=title)
    _limit(axes, rows)
    front = sorted((_percent(row.learned), _percent(row.kept)) for row in rows if row.front)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    colours = colours_of([row.label for row in rows])
    largest = max((row.costs[cost].value for row in rows if cost in row.costs), default=0.0)
    for row in rows:
        _mark(axes, row, colours[row.label], cost, largest)
    places = [
        (_percent(row.learned), _percent(row.kept), row.label.replace(" (", "\n(", 1), colours[row.label])
        for row in rows
    ]
    _size_legend(figure, axes, cost, largest)
    figure.canvas.draw()  # lays the axes out, so that labels can be measured
    figure.set_layout_engine("none")
    place_labels(axes, places, avoid=_marked_areas(axes, rows, cost, largest))
    return figure


def draw_diff(diff: KnowledgeDiff, *, title: str | None = None) -> Figure:
    """One bar a group: the shares kept, learned, lost and still missing, with their counts.

    Raises:
        LedgerError: the diff has no question, only text.
    """
    if not diff.groups:
        raise LedgerError("the diff has no question to draw", mend="probe with facts or choices, not with text alone")
    lines: list[tuple[GroupDiff, bool]] = []
    for total in diff.totals:
        members = [group for group in diff.groups if _belongs(group, total)]
        lines += [(group, False) for group in members]
        if len(members) > 1:
            lines.append((total, True))
    figure = new_figure(WIDTH, 1.45 + 0.36 * len(lines))
    axes = figure.add_subplot()
    dress(axes, x="share of the questions (%)", grid="x")
    for position, (line, pooled) in enumerate(lines):
        _bar(axes, position, line, 0.74 if pooled else 0.6)
    axes.set_yticks(range(len(lines)), [_bar_label(line, pooled) for line, pooled in lines])
    for tick, (_, pooled) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set(color=INK, fontweight="bold" if pooled else "normal")
    axes.set(xlim=(0, 100), ylim=(len(lines) - 0.4, -0.6))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    heading = f"{diff.before_name} → {diff.after_name}" if title is None else title
    if heading:
        figure.suptitle(heading, color=INK, fontsize=12, fontweight="bold", x=0.01, ha="left")
    from matplotlib.patches import Patch

    handles = [Patch(color=OUTCOME_COLOURS[name], label=name) for name in ("kept", "learned", "lost", "missing")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, labelcolor=INK, fontsize=9.5)
    return figure


def draw_curves(curves: Sequence[tuple[str, Sequence[Point]]], *, title: str = "") -> Figure:
    """Training curves: one panel a curve name, one line a run, runs of one label in one colour.

    ``curves`` holds a label and the points of one run each. Points that are not finite leave a gap.

    Raises:
        LedgerError: there is no point.
    """
    names = sorted({name for _, points in curves for name, _, _ in points}, key=lambda name: ("loss" not in name, name))
    if not names:
        raise LedgerError("there is no training curve to draw", mend="train with at least one logged step")
    columns = min(2, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(WIDTH, 0.9 + 2.5 * lines)
    colours = colours_of([label for label, _ in curves])
    for position, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, position + 1)
        dress(axes, x="step", title=name.replace("_", " "))
        seen: set[str] = set()
        for label, points in curves:
            drawn = sorted((step, value) for other, step, value in points if other == name)
            variants = [other for other in colours if method_of(other) == method_of(label)]
            style = LINE_STYLES[variants.index(label) % len(LINE_STYLES)]
            values = [value if math.isfinite(value) else math.nan for _, value in drawn]
            axes.plot(
                [step for step, _ in drawn],
                values,
                color=colours[label],
                linestyle=style,
                linewidth=1.4,
                alpha=0.85,
                marker="o" if len(drawn) < 2 else "",
                label="_again" if label in seen else label,
            )
            seen.add(label)
    if title:
        figure.suptitle(title, color=INK, fontsize=12, fontweight="bold", x=0.01, ha="left")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(colours) > 1:
        shown = min(len(labels), MOST_LINES)
        figure.legend(
            handles[:shown],
            labels[:shown],
            loc="outside lower center",
            ncols=min(4, shown),
            frameon=False,
            labelcolor=INK,
            fontsize=9.5,
        )
    return figure


def _percent(estimate: Estimate | None) -> float:
    return 100 * estimate.value if estimate else math.nan


def _mark(axes: Axes, row: MethodRow, colour: str, cost: str, largest: float) -> None:
    assert row.learned
    assert row.kept
    x, y = _percent(row.learned), _percent(row.kept)
    bars = {"color": colour, "linewidth": 1.3, "alpha": 0.7, "zorder": 3, "solid_capstyle": "butt"}
    if row.learned.low is not None and row.learned.high is not None:
        axes.plot([100 * row.learned.low, 100 * row.learned.high], [y, y], **bars)
    if row.kept.low is not None and row.kept.high is not None:
        axes.plot([x, x], [100 * row.kept.low, 100 * row.kept.high], **bars)
    if cost in row.costs and largest > 0:
        area = LARGEST_AREA * row.costs[cost].value / largest
        axes.scatter([x], [y], s=area, color=colour, alpha=0.28, linewidth=0, zorder=2, clip_on=False)
    axes.scatter([x], [y], s=26, color=colour, edgecolor=PAPER, linewidth=0.8, zorder=4, clip_on=False)


def _limit(axes: Axes, rows: Sequence[MethodRow]) -> None:
    """Limits that hold every interval, with room for discs and labels."""
    for name, axis, setter in (("learned", axes.xaxis, axes.set_xlim), ("kept", axes.yaxis, axes.set_ylim)):
        estimates = [getattr(row, name) for row in rows]
        values = [100 * end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
        low, high = min(values), max(values)
        room = max(0.14 * (high - low), 4.0)
        start, end = max(-6.0, low - room), min(106.0, high + room)
        setter(start, end)
        axis.set_ticks([tick for tick in axis.get_ticklocs() if max(0, start) <= tick <= min(100, end)])


def _size_legend(figure: Figure, axes: Axes, cost: str, largest: float) -> None:
    if largest <= 0:
        return
    heading, unit = COSTS[cost]
    marks = [round_down(largest, unit), round_down(largest / 4, unit)]
    discs = [
        axes.scatter([], [], s=LARGEST_AREA * value / largest, color=MUTED, alpha=0.35, linewidth=0) for value in marks
    ]
    dashes = axes.plot([], [], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    bar = axes.plot([], [], color=MUTED, linewidth=1.3)
    labels = [f"{heading} {quantity(value, unit)}" for value in marks]
    figure.legend(
        [*discs, *dashes, *bar],
        [*labels, "not beaten on both", "95 % interval"],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        columnspacing=1.6,
        borderpad=1.0,
    )


def _marked_areas(axes: Axes, rows: Sequence[MethodRow], cost: str, largest: float) -> list[Box]:
    """The boxes, in pixels, of discs and interval bars: where no label should lie."""
    boxes: list[Box] = []
    scale = PIXELS_PER_INCH / 72
    for row in rows:
        assert row.learned
        assert row.kept
        x, y = row.learned, row.kept
        ends = [(x.low, y.value), (x.high, y.value), (x.value, y.low), (x.value, y.high)]
        pixels = [axes.transData.transform((100 * a, 100 * b)) for a, b in ends if a is not None and b is not None]
        for one, other in zip(pixels[::2], pixels[1::2], strict=True):
            boxes.append((one[0] - scale, one[1] - scale, other[0] + scale, other[1] + scale))
        if cost in row.costs and largest > 0:
            side = math.sqrt(LARGEST_AREA * row.costs[cost].value / largest) / 2 * scale * 0.8  # of a square inside
            across, up = axes.transData.transform((100 * x.value, 100 * y.value))
            boxes.append((across - side, up - side, across + side, up + side))
    return boxes


def _belongs(group: GroupDiff, total: GroupDiff) -> bool:
    from keeps.ledger.difference import role_of

    return role_of(group.name) == total.name


def _bar_label(line: GroupDiff, pooled: bool) -> str:
    return f"{line.name}{', together' if pooled else ''}  (n = {line.n})"


def _bar(axes: Axes, position: int, line: GroupDiff, height: float) -> None:
    left = 0.0
    for name in ("kept", "learned", "lost", "missing"):
        count = getattr(line, name)
        width = 100 * count / line.n
        axes.barh(
            position, width, left=left, height=height, color=OUTCOME_COLOURS[name], edgecolor=PAPER, linewidth=0.6
        )
        if width >= 3.5:
            colour = "#1b1f25" if name == "missing" else "#fffffe"  # not the ink that a page recolours
            axes.text(
                left + width / 2, position, str(count), ha="center", va="center_baseline", fontsize=8.5, color=colour
            )
        left += width

"""Where to write the name of each point so that no two names overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels

DISTANCES = (9.0, 16.0, 26.0, 40.0, 58.0, 80.0)  # from the point, in points
DIRECTIONS = (45, 135, -45, -135, 0, 180, 90, -90)  # degrees, the most readable first


def place_labels(
    axes: Axes, places: Sequence[tuple[float, float, str, str]], *, avoid: Sequence[Box] = (), size: float = 10.0
) -> list[Box]:
    """Write the labels ``(x, y, text, colour)``, in data units, each at the nearest free spot; returns their boxes.

    Greedy: for each label, in order of height, the first spot that neither meets another label, a
    point or a box of ``avoid`` (pixels), nor leaves the axes; where every spot is taken, the one that
    overlaps least. A label far from its point gets a thin line to it. The layout of the figure must be final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72  # pixels a point
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = _box(axes.get_window_extent(renderer).extents)
    dots = [axes.transData.transform((x, y)).tolist() for x, y, _, _ in places]
    taken: list[Box] = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in dots]
    taken += avoid
    boxes: dict[int, Box] = {}
    for index in sorted(range(len(places)), key=lambda i: (-dots[i][1], dots[i][0])):
        _, _, text, colour = places[index]
        label = axes.text(0, 0, text, fontsize=size, color=colour, fontweight="bold", ha="left", va="bottom", zorder=5)
        extent = label.get_window_extent(renderer)
        box, far = _spot(dots[index], extent.width, extent.height, scale, frame, taken)
        taken.append(box)
        boxes[index] = box
        label.set_transform(axes.transData)
        label.set_position(axes.transData.inverted().transform(box[:2]).tolist())
        if far:
            edge = (min(max(dots[index][0], box[0]), box[2]), min(max(dots[index][1], box[1]), box[3]))
            ends = axes.transData.inverted().transform([dots[index], edge])
            axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=0.7, alpha=0.7, zorder=1.5)
    return [boxes[index] for index in range(len(places))]


def _box(values: Iterable[float]) -> Box:
    left, bottom, right, top = (float(value) for value in values)
    return left, bottom, right, top


def _spot(
    dot: Sequence[float], width: float, height: float, scale: float, frame: Box, taken: Sequence[Box]
) -> tuple[Box, bool]:
    best: tuple[float, Box, bool] | None = None
    for distance in DISTANCES:
        for degrees in DIRECTIONS:
            across, up = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            # The box touches the circle of this distance with its nearest corner or edge.
            left = dot[0] + across * distance * scale - width * (0.5 - 0.5 * _sign(across))
            bottom = dot[1] + up * distance * scale - height * (0.5 - 0.5 * _sign(up))
            box = (left, bottom, left + width, bottom + height)
            cost = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
            if cost == 0:
                return box, distance > DISTANCES[1]
            if best is None or cost < best[0]:
                best = (cost, box, distance > DISTANCES[1])
    assert best is not None
    return best[1], best[2]


def _sign(value: float) -> int:
    return 0 if abs(value) < 1e-9 else (1 if value > 0 else -1)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return across * up if across > 0 and up > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return 2 * (area - _overlap(box, frame))

"""The picture of the probe of capacity: bits held of what there is to know, a bar a relation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keeps.ledger.figures import INK, PALETTE, WIDTH, dress, new_figure
from keeps.probe.base import Measure
from keeps.probe.capacity_measures import BITS, TO_KNOW
from keeps.probe.findings import ALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TO_LEARN = "#C9CDD2"  # of the bars of what there is to know


def draw_bits(measures: Sequence[Measure]) -> Figure | None:
    """Bars by relation: grey what there is to know, coloured what each model holds, with its interval."""
    held = [measure for measure in measures if measure.metric == BITS and measure.group != ALL]
    known = {m.group: m.value or 0.0 for m in measures if m.metric == TO_KNOW}
    if not held or not any(known.values()):
        return None
    groups = list(dict.fromkeys(measure.group for measure in held))
    models = list(dict.fromkeys(measure.model for measure in held))
    figure = new_figure(WIDTH, 1.4 + 0.36 * len(groups) * max(1.0, 0.7 * len(models)))
    axes = figure.add_subplot()
    dress(axes, x="bits", title="Bits held of what there is to know", grid="x")
    height = 0.8 / len(models)
    widest = max(known[group] for group in groups)
    for place, group in enumerate(groups):
        axes.barh(place + 0.4 - height / 2, known[group], height=0.84, color=TO_LEARN, zorder=1)
        axes.text(
            known[group] + widest / 100,
            place + 0.4 - height / 2,
            _label(held, group, known[group]),
            va="center",
            color=INK,
            fontsize=8.5,
        )
    for number, model in enumerate(models):
        own = [measure for measure in held if measure.model == model]
        places = [groups.index(measure.group) + number * height for measure in own]
        axes.barh(
            places,
            [m.value or 0.0 for m in own],
            height=0.8 * height,
            color=PALETTE[number % len(PALETTE)],
            label=model,
            zorder=2,
        )
        for place, measure in zip(places, own, strict=True):
            if measure.low is not None and measure.high is not None:
                axes.plot([measure.low, measure.high], [place, place], color=INK, linewidth=1.2, zorder=3)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(groups))], groups)
    axes.set_xlim(0, 1.2 * widest)
    axes.invert_yaxis()
    if len(models) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(models), 3), frameon=False, fontsize=9.5)
    return figure


def _label(held: Sequence[Measure], group: str, known: float) -> str:
    """The shares of all models in one relation."""
    if not known:
        return "nothing to know"
    return " · ".join(f"{100 * min(1.0, (m.value or 0.0) / known):.0f} %" for m in held if m.group == group)

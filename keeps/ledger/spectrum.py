"""Oriented spectra as a table by kind of layer, as one by layer, and as a picture of all layers."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keeps.ledger.figures import INK, MUTED, WIDTH, new_figure
from keeps.ledger.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = Mapping[str, Any]  # of one layer, as keeps.adapt.corda.CorDA.spectrum describes it
TITLES = {"keep": "in the context of what to keep", "learn": "in the context of what to learn"}
COLUMNS = ("rank", "largest hold (%)", "smallest hold (%)", "components for 99 %", "of", "damping")
NOTE = (
    "Share of the sum of squared singular values of W C' that the largest (ipm) and smallest (kpm) components hold, as "
    "many as the rank. The fewer components hold 99 %, the more compressible a layer is in this context."
)


def spectrum_tables(layers: Mapping[str, Sequence[Line]], *, items: bool = False) -> list[Table]:
    """One table a context: a row for each kind of layer (medians), or with ``items`` for each layer."""
    tables = []
    for context, lines in layers.items():
        groups: dict[str, list[Line]] = {}
        for line in lines:
            groups.setdefault(line["layer"] if items else kind_of(line["layer"]), []).append(line)
        rows = tuple((name, *_cells(group)) for name, group in groups.items())
        first = ("layer",) if items else ("kind of layer", "layers")
        if not items:
            rows = tuple((row[0], str(len(groups[row[0]])), *row[1:]) for row in rows)
        tables.append(Table(f"Spectra {TITLES[context]}", (*first, *COLUMNS), rows, note="" if tables else NOTE))
    return tables


def spectrum_figure(layers: Mapping[str, Sequence[Line]]) -> Figure:
    """A field of squares a context, kinds of layer by depth: the share of components that hold 99 % of the energy."""
    kinds = list(dict.fromkeys(kind_of(line["layer"]) for lines in layers.values() for line in lines))
    depth = 1 + max(block_of(line["layer"]) for lines in layers.values() for line in lines)
    figure = new_figure(WIDTH, 0.9 + len(layers) * (1.0 + 0.3 * len(kinds)))
    drawn = None
    for number, (context, lines) in enumerate(layers.items(), start=1):
        field = [[math.nan] * depth for _ in kinds]
        for line in lines:
            share = line["components_99"] / line["components"]
            field[kinds.index(kind_of(line["layer"]))][block_of(line["layer"])] = 100 * share
        axes = figure.add_subplot(len(layers), 1, number)
        drawn = axes.imshow(field, aspect="auto", cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
        axes.set_yticks(range(len(kinds)), kinds)
        axes.tick_params(colors=MUTED, labelsize=9.5, length=0)
        axes.set_title(f"Components that hold 99 %, {TITLES[context]}", color=INK, fontsize=12, loc="left", pad=8)
        axes.set_xlabel("block", color=INK, fontsize=11)
        for spine in axes.spines.values():
            spine.set_visible(False)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=figure.axes, shrink=0.8)
        bar.set_label("share of all components (%)", color=INK, fontsize=11)
    return figure


def kind_of(layer: str) -> str:
    """The last part of a layer's name.

    >>> kind_of("model.layers.3.mlp.up_proj")
    'up_proj'
    """
    return layer.rpartition(".")[2]


def block_of(layer: str) -> int:
    """The number of the block that a layer stands in; 0 for a layer outside of blocks.

    >>> block_of("model.layers.13.mlp.up_proj"), block_of("head")
    (13, 0)
    """
    found = re.search(r"(?:^|\.)(\d+)\.", layer)
    return int(found.group(1)) if found else 0


def _cells(group: Sequence[Line]) -> tuple[str, ...]:
    def middle(key: str) -> float:
        return statistics.median(line[key] for line in group)

    return (
        f"{middle('rank'):g}",
        f"{100 * middle('ipm'):.1f}",
        f"{100 * middle('kpm'):.1e}",
        f"{middle('components_99'):g}",
        f"{middle('components'):g}",
        f"{max(line['damping'] for line in group):g}",
    )

"""The picture of causal tracing: average indirect effects, a field for each class of tokens and block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from keeps.contracts import Row
from keeps.ledger.figures import INK, MUTED, PALETTE, WIDTH, dress, new_figure
from keeps.models.causal_tracing import ATTENTION, MLP, STATE
from keeps.numerics.causal_effects import weighted_means
from keeps.probe.base import ModelRows
from keeps.probe.causal_tracing_measures import indirect_effects, kinds_and_classes, traces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE, HEAD = 0.32, 1.15  # inches of a class of tokens, and of title and axis
MOST_MODELS = 2
COLOURS: Mapping[str, str] = {STATE: "Purples", MLP: "Greens", ATTENTION: "Blues"}
FRAME = PALETTE[1]  # stands out from all three, light and dark
TITLES: Mapping[str, str] = {STATE: "State after a block", MLP: "MLP outputs", ATTENTION: "Attention outputs"}
NAMES: Mapping[str, str] = {
    "first_subject": "first subject token",
    "middle_subject": "middle subject tokens",
    "last_subject": "last subject token",
    "first_after": "first token after",
    "further": "further tokens",
    "last": "last token",
}


def draw_effects(asked: Sequence[ModelRows]) -> Figure | None:
    """AIE in points, one field a kind and model (the first two); None where nothing was traced."""
    chosen = [model for model in asked if traces(model.rows)][:MOST_MODELS]
    if not chosen:
        return None
    kinds, classes = kinds_and_classes([row for model in chosen for row in model.rows])
    figure = new_figure(WIDTH * (1 + 0.6 * (len(chosen) - 1)), len(kinds) * (HEAD + LINE * len(classes)))
    fields = figure.subplots(len(kinds), len(chosen), squeeze=False)
    for line, kind in zip(fields, kinds, strict=True):
        for axes, model in zip(line, chosen, strict=True):
            _draw_field(figure, axes, model.rows, kind, model.name if len(chosen) > 1 else "")
    for axes in fields[-1]:
        axes.set_xlabel("block; the largest effect of each line is framed", color=INK, fontsize=11)
    return figure


def _draw_field(figure: Any, axes: Any, rows: Sequence[Row], kind: str, name: str) -> None:
    from matplotlib.patches import Rectangle

    _, classes = kinds_and_classes(rows)
    found = [indirect_effects(rows, kind, each) for each in classes]
    means = [100 * weighted_means(each, torch.ones(1, len(each), dtype=torch.float64))[0] for each in found]
    width = traces(rows)[0]["window"]
    around = "" if kind == STATE else f" of {width} blocks around it" if width > 1 else " of one block"
    dress(axes, title=f"{TITLES[kind]}{around}" + (f": {name}" if name else ""), grid="")
    table = torch.stack(means)
    top = max(float(table.nan_to_num().max()), 1e-3)
    # Restoring may also hurt; what is below zero is drawn as white as zero, so that the places that help stand out.
    image = axes.imshow(table.tolist(), cmap=COLOURS[kind], vmin=0, vmax=top, aspect="auto")
    axes.set_yticks(range(len(classes)), [NAMES[each] for each in classes])
    axes.tick_params(axis="y", labelcolor=INK)
    for row, own in enumerate(means):
        best = int(own.nan_to_num().argmax())
        axes.add_patch(Rectangle((best - 0.5, row - 0.46), 1, 0.92, fill=False, edgecolor=FRAME, linewidth=1.8))
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("AIE (points)", color=INK, fontsize=9.5)
    bar.ax.tick_params(colors=MUTED, labelsize=8.5)
    bar.outline.set_visible(False)

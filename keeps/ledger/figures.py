"""How every picture looks and how it is saved: one palette, plain axes, the same bytes every time.

matplotlib is imported where it is used, drawn through its object interface, and never through
``pyplot``, so that no global state is touched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito, "Color Universal Design" (2008); amber and sky are darkened and yellow is left out, so that
# every colour has a contrast of at least 3 to 1 to white and to a dark page.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07A00", "#2F95CC", "#8E6BB0", "#7A7A7A")
OUTCOME_COLOURS: Mapping[str, str] = {
    "kept": "#0071B2",  # a shade off the palette: a page recolours that one for the dark, but not filled bars
    "learned": "#009D73",
    "lost": "#D55D00",
    "missing": "#C9CDD2",
}
INK, MUTED, GRID, PAPER = "#1b1f24", "#59636e", "#e3e6ea", "#ffffff"
WIDTH = 7.6  # inches: at this size text stays readable in a column of 800 pixels
PIXELS_PER_INCH = 200
FORMATS = (".png", ".svg")
_SAVING: Any = {"svg.hashsalt": "keeps", "font.family": ["DejaVu Sans"], "savefig.facecolor": "auto"}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches
    figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, facecolor=PAPER, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: str = "both") -> None:
    """Plain axes: a light grid behind, no box, labels in ink."""
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    if grid:
        axes.grid(True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=MUTED, labelsize=9.5, length=3, width=0.8)
    axes.set_xlabel(x, color=INK, fontsize=11)
    axes.set_ylabel(y, color=INK, fontsize=11)
    if title:
        axes.set_title(title, color=INK, fontsize=12, loc="left", fontweight="bold", pad=10)


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label, one a method, in order of first appearance; variants share it.

    >>> colours_of(["lora (rank 8)", "lora (rank 16)"])
    {'lora (rank 8)': '#0072B2', 'lora (rank 16)': '#0072B2'}
    """
    methods = list(dict.fromkeys(method_of(label) for label in labels))
    return {label: PALETTE[methods.index(method_of(label)) % len(PALETTE)] for label in labels}


def method_of(label: str) -> str:
    """The method in front of the settings of a label."""
    return label.partition(" (")[0]


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as ``"png"`` or ``"svg"``: equal figures give equal bytes."""
    import matplotlib as mpl

    stream = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with mpl.rc_context(_SAVING):
        figure.savefig(stream, format=kind, dpi=PIXELS_PER_INCH, metadata=metadata)
    return stream.getvalue()


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write the figure to ``path``, a PNG or an SVG by its ending, atomically.

    Raises:
        StorageError: another ending, or the folder is missing or not writable.
    """
    from keeps.weights.files import atomic_write_bytes

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise StorageError(f'no picture format "{path.suffix}"', where=str(path), mend="end the name in .png or .svg")
    atomic_write_bytes(path, to_bytes(figure, path.suffix.lower()[1:]))
    return path


def inline_svg(figure: Figure, description: str) -> str:
    """The figure for a page: text stays text, ink follows the page's colour, the ground is clear.

    ``description`` is what a screen reader says instead of the picture.
    """
    import matplotlib as mpl
    from markupsafe import escape

    figure.set_facecolor("none")
    stream = io.StringIO()
    with mpl.rc_context({**_SAVING, "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.set_facecolor(PAPER)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", description.lower())  # ids must be unique on a page of several pictures
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "line"), (PAPER, "paper")):
        text = text.replace(colour, f"var(--{name})")
    for position, colour in enumerate(PALETTE):
        text = text.replace(colour.lower(), f"var(--series-{position})")
    label = escape(description)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from keeps.errors import LedgerError, StorageError
from keeps.ledger import Comparison, Ledger, compare_stored
from keeps.ledger.comparison import ComparedRun
from keeps.ledger.figures import OUTCOME_COLOURS, PALETTE, inline_svg, new_figure, save_figure, to_bytes
from keeps.ledger.labels import place_labels
from keeps.ledger.plots import LARGEST_AREA, draw_comparison, draw_curves, draw_diff
from keeps.ledger.units import duration, quantity, round_down


@pytest.fixture
def compared(ledger_of: Callable[..., Path]) -> tuple[Comparison, list[ComparedRun]]:
    with Ledger.open(ledger_of(seeds=2), read_only=True) as ledger:
        return compare_stored(ledger, [run.id for run in ledger.runs()])


def test_equal_figures_give_equal_bytes(compared: tuple[Comparison, list[ComparedRun]], tmp_path: Path) -> None:
    comparison, _ = compared
    for kind in ("png", "svg"):
        first, second = (save_figure(draw_comparison(comparison), tmp_path / f"{i}.{kind}") for i in range(2))
        assert first.read_bytes() == second.read_bytes()
    assert b"<dc:date>" not in (tmp_path / "0.svg").read_bytes()


def test_points_bars_and_areas_are_where_the_figures_say(compared: tuple[Comparison, list[ComparedRun]]) -> None:
    comparison, _ = compared
    axes = draw_comparison(comparison).axes[0]
    dots = [item.get_offsets()[0] for item in axes.collections if len(item.get_offsets())]  # type: ignore[index, arg-type]
    places = {(round(float(x), 6), round(float(y), 6)) for x, y in dots}  # type: ignore[misc]
    expected = {
        (round(100 * r.learned.value, 6), round(100 * r.kept.value, 6)) for r in comparison.rows if r.learned and r.kept
    }
    assert places == expected
    areas = sorted(float(item.get_sizes()[0]) for item in axes.collections if item.get_sizes()[0] != 26)  # type: ignore[attr-defined]
    costs = [row.costs["train_seconds"].value for row in comparison.rows]
    for cost in costs:
        assert any(math.isclose(area, LARGEST_AREA * cost / max(costs), rel_tol=1e-9) for area in areas)


@pytest.mark.parametrize("seed", range(4))
def test_labels_overlap_neither_each_other_nor_a_point(seed: int) -> None:
    dice = random.Random(seed)
    figure = new_figure(7.6, 5.0)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 100), ylim=(0, 100))
    places = [(dice.uniform(70, 99), dice.uniform(70, 99), f"method {i} (rank 16)", "#000000") for i in range(9)]
    figure.canvas.draw()
    figure.set_layout_engine("none")
    boxes = place_labels(axes, places)
    frame = axes.get_window_extent().extents
    dots = [axes.transData.transform((x, y)) for x, y, _, _ in places]
    for index, (left, bottom, right, top) in enumerate(boxes):
        assert frame[0] <= left
        assert right <= frame[2]
        assert frame[1] <= bottom
        assert top <= frame[3]
        assert not any(left < x < right and bottom < y < top for x, y in dots)
        for other in boxes[:index]:
            assert right <= other[0] or other[2] <= left or top <= other[1] or other[3] <= bottom


def test_bars_of_a_group_add_up_to_its_questions(compared: tuple[Comparison, list[ComparedRun]]) -> None:
    diff = compared[1][0].diff
    axes = draw_diff(diff).axes[0]
    widths: dict[float, float] = {}
    for patch in axes.patches:
        middle = round(patch.get_y() + patch.get_height() / 2, 6)  # type: ignore[attr-defined]
        widths[middle] = widths.get(middle, 0) + patch.get_width()  # type: ignore[attr-defined]
    assert len(widths) == len(diff.groups) + 2  # learn and keep have several groups, hence a pooled bar
    assert all(math.isclose(width, 100) for width in widths.values())


def test_curves_draw_every_run_and_leave_gaps_where_the_loss_is_not_a_number() -> None:
    curves = [("lora", [("loss", 1, 2.0), ("loss", 2, math.nan), ("loss", 3, 1.0)]), ("full", [("loss", 1, 3.0)])]
    axes = draw_curves(curves).axes[0]
    assert len(axes.lines) == 2
    assert math.isnan(list(axes.lines[0].get_ydata())[1])  # type: ignore[arg-type]
    assert axes.lines[0].get_color() != axes.lines[1].get_color()


def test_what_cannot_be_drawn_is_said(compared: tuple[Comparison, list[ComparedRun]], tmp_path: Path) -> None:
    comparison, entries = compared
    empty = replace(comparison, rows=tuple(replace(row, kept=None) for row in comparison.rows))
    for draw in (
        lambda: draw_comparison(empty),
        lambda: draw_comparison(comparison, cost="money"),
        lambda: draw_diff(replace(entries[0].diff, groups=())),
        lambda: draw_curves([]),
    ):
        with pytest.raises(LedgerError):
            draw()
    with pytest.raises(StorageError, match="no picture format"):
        save_figure(new_figure(1, 1), tmp_path / "picture.pdf")
    with pytest.raises(StorageError):
        save_figure(new_figure(1, 1), tmp_path / "missing" / "picture.png")


def test_a_picture_for_a_page_is_well_formed_and_follows_its_colours(
    compared: tuple[Comparison, list[ComparedRun]],
) -> None:
    text = inline_svg(draw_comparison(compared[0]), 'learned & "kept"')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'learned & "kept"'
    assert "var(--ink)" in text
    assert "var(--series-0)" in text
    assert "corda" in text  # text stays text
    assert to_bytes(draw_comparison(compared[0]), "svg") == to_bytes(draw_comparison(compared[0]), "svg")


def test_colours_can_be_told_apart_on_white() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len(set(PALETTE)) == len(PALETTE)
    assert all(1.05 / (luminance(colour) + 0.05) >= 3 for colour in PALETTE)  # WCAG 2.2, 1.4.11
    assert not set(PALETTE) & set(OUTCOME_COLOURS.values())


def test_importing_the_ledger_does_not_import_matplotlib_or_torch() -> None:
    code = (
        "import sys, keeps.ledger; print([n for n in ('matplotlib', 'torch', 'jinja2', 'numpy') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_quantities_read_well() -> None:
    assert [duration(value) for value in (0.0421, 12.34, 599, 800, 3600, 7379)] == [
        "0.0421 s", "12.3 s", "599 s", "13 min 20 s", "1 h", "2 h 3 min",
    ]  # fmt: skip
    assert [quantity(value, "bytes") for value in (0, 999, 999_600, 2.1e9)] == ["0 B", "999 B", "1.00 MB", "2.10 GB"]
    assert quantity(134_515_008, "") == "135 M"
    for value in (0.037, 1.0, 9.99, 59.9, 3599, 1e5, 3.3e9):
        for unit in ("s", ""):
            assert 0 < round_down(value, unit) <= value

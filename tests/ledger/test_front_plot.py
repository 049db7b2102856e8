"""The picture of tried merges: its axes, what is joined and labelled, and when there is nothing to draw."""

from __future__ import annotations

import numpy as np
import pytest

from keeps.errors import LedgerError
from keeps.ledger.figures import to_bytes
from keeps.ledger.front_plot import draw_front

TWO = [("ties (scale 1)", {"law": 80.0, "math": 60.0}, True), ("average", {"law": 70.0, "math": 70.0}, True)]
BEATEN = ("dare", {"law": 60.0, "math": 50.0}, False)


def test_of_two_parents_each_has_an_axis_and_the_front_is_labelled() -> None:
    figure = draw_front([*TWO, BEATEN])
    axes = figure.axes[0]
    assert "law" in axes.get_xlabel()
    assert "math" in axes.get_ylabel()
    assert {text.get_text() for text in axes.texts} == {"ties (scale 1)", "average", "dare"}
    joined = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert [[70.0, 70.0], [80.0, 60.0]] in joined
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_what_scores_the_same_is_one_point_with_all_names() -> None:
    scores = {"law": 80.0, "math": 60.0}
    axes = draw_front([(name, scores, True) for name in ("average", "ties (scale 1)", "slerp")]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["average\nties (scale 1)\nand 1 more"]
    assert len(axes.collections) == 1


def test_of_many_trials_only_the_front_is_labelled() -> None:
    beaten = [(f"dare (density {n})", {"law": 50.0 + n, "math": 40.0 - n}, False) for n in range(9)]
    axes = draw_front([*TWO, *beaten]).axes[0]
    assert {text.get_text() for text in axes.texts} == {"ties (scale 1)", "average"}
    assert len(axes.collections) == 11


def test_of_three_parents_the_mean_and_the_worst_are_drawn() -> None:
    figure = draw_front([("average", {"a": 90.0, "b": 60.0, "c": 30.0}, True)])
    points = figure.axes[0].collections[0].get_offsets()
    assert [tuple(map(float, point)) for point in points] == [(60.0, 30.0)]  # type: ignore[union-attr]


@pytest.mark.parametrize("tried", [[], [("average", {"a": 1.0}, True)]])
def test_nothing_to_draw_is_said(tried: list) -> None:  # type: ignore[type-arg]
    with pytest.raises(LedgerError, match="nothing to draw"):
        draw_front(tried)

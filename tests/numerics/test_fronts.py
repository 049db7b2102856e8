"""Points that no other beats: against the definition, and what may be added without changing it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.fronts import undominated

POINTS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 4).map(float)] * width), min_size=1, max_size=8)
)


@given(POINTS)
def test_a_point_is_on_the_front_when_everyone_better_somewhere_is_worse_elsewhere(
    points: list[tuple[float, ...]],
) -> None:
    for point, front in zip(points, undominated(points), strict=True):
        better = [p for p in points if any(a > b for a, b in zip(p, point, strict=True))]
        assert front == all(any(a < b for a, b in zip(p, point, strict=True)) for p in better)


@given(POINTS)
def test_the_largest_of_every_coordinate_is_on_the_front(points: list[tuple[float, ...]]) -> None:
    front = undominated(points)
    for place in range(len(points[0])):
        best = max(point[place] for point in points)
        assert any(flag for flag, point in zip(front, points, strict=True) if point[place] == best)

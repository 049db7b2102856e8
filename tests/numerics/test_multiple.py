"""Holm's correction against its definition and another library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.multiple import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(P_VALUES)
def test_a_hypothesis_is_rejected_exactly_when_the_step_down_procedure_rejects_it(p_values: list[float]) -> None:
    level = 0.05
    corrected = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected: set[int] = set()
    for rank, index in enumerate(order):
        if (len(p_values) - rank) * p_values[index] > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(corrected) if p <= level} == rejected


@given(P_VALUES)
def test_a_correction_never_lowers_a_p_value_nor_changes_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert [c for _, c in pairs] == sorted(corrected)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        holm([0.5, 1.5])

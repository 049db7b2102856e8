"""A limit is fair to groups, nested in larger ones, and the same whatever else is asked."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.contracts import Question
from keeps.errors import SettingsError
from keeps.probe.sampling import limited
from keeps.probe.shots import with_shots


def questions(sizes: dict[str, int]) -> list[Question]:
    return [
        Question(f"{group}{n}", group, (f"{group} {n} is", f"Say {group} {n}:"), (f"answer {n}",))
        for group, size in sizes.items()
        for n in range(size)
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 30), st.integers(0, 3))
def test_groups_get_equal_shares_as_far_as_they_reach(sizes: list[int], limit: int, seed: int) -> None:
    asked = questions({f"g{n}": size for n, size in enumerate(sizes)})
    chosen = limited(asked, limit, seed)
    assert len(chosen) == min(limit, len(asked))
    assert [item for item in asked if item in chosen] == chosen, "the order stays"
    counts = Counter(item.group for item in chosen)
    fullest = max(counts.values())
    assert all(counts[f"g{n}"] >= min(size, fullest - 1) for n, size in enumerate(sizes))


@given(st.integers(1, 19), st.integers(0, 3))
def test_a_smaller_limit_asks_part_of_what_a_larger_one_does(limit: int, seed: int) -> None:
    asked = questions({"a": 11, "b": 9})
    smaller, larger = limited(asked, limit, seed), limited(asked, limit + 1, seed)
    assert {item.id for item in smaller} < {item.id for item in larger}


def test_another_seed_chooses_others() -> None:
    asked = questions({"a": 40})
    assert limited(asked, 10, 0) != limited(asked, 10, 1)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(SettingsError, match="limit"):
        limited(questions({"a": 3}), limit, 0)


def test_shots_are_solved_others_of_the_group_in_every_wording() -> None:
    asked = questions({"a": 5, "b": 5})
    for before, after in zip(asked, with_shots(asked, 2, seed=0), strict=True):
        for plain, shown in zip(before.prompts, after.prompts, strict=True):
            *solved, last = shown.split("\n")
            assert last == plain
            assert len(solved) == 2
            assert all(line.startswith(before.group) for line in solved)
            assert before.prompts[0] not in " ".join(solved)
        assert (after.id, after.answers, after.group) == (before.id, before.answers, before.group)


def test_without_shots_nothing_changes() -> None:
    asked = questions({"a": 2})
    assert with_shots(asked, 0, seed=0) == asked


@pytest.mark.parametrize("shots", [-1, 3])
def test_shots_that_a_group_cannot_give_are_refused(shots: int) -> None:
    with pytest.raises(SettingsError):
        with_shots(questions({"a": 3}), shots, seed=0)

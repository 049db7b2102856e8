"""Mix-Review: as many old samples as its formula says, none lost, none of them always the same."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import EmptySetError, SettingsError
from keeps.training.mix_review import mixed_epoch, reviewed

NEW, OLD = [f"new {n}" for n in range(10)], [f"old {n}" for n in range(100)]


def test_fewer_old_samples_every_epoch() -> None:
    assert [reviewed(1000, epoch) for epoch in range(5)] == [4000, 2800, 1960, 1372, 960]
    assert reviewed(10, 3, ratio=1, decay=1) == 10
    assert reviewed(10, 1, decay=0) == 0


@given(st.integers(0, 6), st.integers(0, 3))
def test_an_epoch_holds_all_that_is_new_and_as_much_of_the_old(epoch: int, seed: int) -> None:
    mixed = Counter(mixed_epoch(NEW, OLD, epoch, seed=seed))
    assert all(mixed[sample] == 1 for sample in NEW)
    assert sum(mixed[sample] for sample in OLD) == reviewed(10, epoch)
    assert max(mixed.values()) == 1  # without replacement


def test_old_samples_come_again_only_when_there_are_too_few() -> None:
    mixed = Counter(mixed_epoch(NEW, OLD[:15], 0))
    assert sorted(mixed[sample] for sample in OLD[:15]) == [2] * 5 + [3] * 10


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    assert mixed_epoch(NEW, OLD, 1, seed=3) == mixed_epoch(NEW, OLD, 1, seed=3)
    assert mixed_epoch(NEW, OLD, 1, seed=3) != mixed_epoch(NEW, OLD, 1, seed=4)
    assert set(mixed_epoch(NEW, OLD, 2)) != set(mixed_epoch(NEW, OLD, 3))


def test_every_old_sample_is_as_likely() -> None:
    drawn = Counter(sample for seed in range(600) for sample in mixed_epoch(NEW, OLD, 2, seed=seed, decay=0.5))
    counts = [drawn[sample] for sample in OLD]
    expected = 600 * 10 / 100
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_square < 150  # 99 degrees of freedom: exceeded by chance in 0.1 %


def test_bad_input_is_refused() -> None:
    with pytest.raises(EmptySetError):
        mixed_epoch(NEW, [], 0)
    with pytest.raises(EmptySetError):
        mixed_epoch([], OLD, 0)
    assert sorted(mixed_epoch(NEW, [], 0, ratio=0)) == sorted(NEW)
    for wrong in ({"ratio": -1.0}, {"decay": 1.5}):
        with pytest.raises(SettingsError):
            reviewed(10, 0, **wrong)

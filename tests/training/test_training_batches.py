"""The order of the data is a function of seed and step, and batches mark exactly the answer tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.training.batches import Order, TokenizedExample, collate, stable_seed

SIZES = {"count": st.integers(1, 40), "batch": st.integers(1, 9), "accumulation": st.integers(1, 3)}


def numbered(count: int) -> list[TokenizedExample]:
    """Examples whose first token is their number, of differing lengths."""
    return [TokenizedExample((number, *[0] * (1 + number * 7 % 5)), 1) for number in range(count)]


def numbers(examples: list[TokenizedExample]) -> list[int]:
    return [example.input_ids[0] for example in examples]


@given(**SIZES)
def test_every_epoch_holds_every_example_once(count: int, batch: int, accumulation: int) -> None:
    order = Order(numbered(count), batch, accumulation, seed=3)
    for epoch in range(2):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert sorted(number for step in steps for number in numbers(order.step(step))) == list(range(count))


@given(processes=st.integers(1, 4), **SIZES)
def test_processes_share_each_pass_without_overlap_and_take_part_in_all(
    count: int, batch: int, accumulation: int, processes: int
) -> None:
    order = Order(numbered(count), batch, accumulation, seed=3)
    for step in range(order.steps_per_epoch):
        shares = [order.passes(step, process, processes) for process in range(processes)]
        assert len({len(share) for share in shares}) == 1
        assert all(part and len(part) <= batch for share in shares for part in share)
        learned = [e.input_ids[0] for share in shares for part in share for e in part if e.answer_tokens]
        assert sorted(learned) == sorted(numbers(order.step(step)))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, again, other = (Order(numbered(30), 30, 1, seed) for seed in (1, 1, 2))
    by_index = [TokenizedExample((number, 0), 1) for number in range(30)]  # equal lengths: the shuffle itself
    assert numbers(first.step(5)) == numbers(again.step(5))
    orders = [numbers(Order(by_index, 30, 1, seed).step(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert set(numbers(other.step(0))) == set(range(30))


def test_the_order_of_a_seed_never_changes_between_versions() -> None:
    assert stable_seed("order", 0, 0) == stable_seed("order", 0, 0) != stable_seed("order", 0, 1)
    assert stable_seed("a", 1) == 1555466263100575535  # first 8 bytes of sha256sum of "a:1", halved


def test_passes_of_a_step_are_cut_by_length_to_save_padding() -> None:
    order = Order(numbered(12), 4, 3, seed=0)
    lengths = [[len(example.input_ids) for example in part] for part in order.passes(0)]
    assert [len(part) for part in lengths] == [4, 4, 4]
    assert min(lengths[0]) >= max(lengths[1])
    assert min(lengths[1]) >= max(lengths[2])


def test_collate_marks_the_positions_that_predict_answers() -> None:
    batch = collate([TokenizedExample((5, 6, 7, 8), 2), TokenizedExample((9, 4), 1), TokenizedExample((3, 2), 2)], 0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0], [3, 2, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert batch.predicting.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.targets.tolist() == [7, 8, 4]
    assert batch.targets.dtype == torch.int64


@pytest.mark.parametrize("start", [0, 4, -1])
def test_an_answer_that_nothing_predicts_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="answer_start"):
        TokenizedExample((1, 2, 3), start)

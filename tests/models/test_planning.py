"""Batches, shared beginnings and text windows: pure functions, checked on random inputs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.models.batching import length_batches, pad_right
from keeps.models.prefix import CALL_COST, plan_prefixes
from keeps.models.windows import text_windows

LENGTHS = st.lists(st.integers(1, 30), max_size=40)
SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=60), max_size=30)


@given(LENGTHS, st.integers(1, 100))
def test_batches_hold_every_item_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget=budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(LENGTHS, st.integers(0, 20), st.integers(1, 200))
def test_batches_keep_to_the_limit_of_cached_tokens(lengths: list[int], past: int, slots: int) -> None:
    for batch in length_batches(lengths, budget=1000, past=past, slots=slots):
        assert len(batch) == 1 or len(batch) * (max(lengths[index] for index in batch) + past) <= slots


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad_right([[3, 4, 5], [6]], 9, torch.device("cpu"))
    assert ids.tolist() == [[3, 4, 5], [6, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@given(SEQUENCES, st.integers(1, 30))
def test_groups_hold_every_sequence_once_and_share_what_they_say(sequences: list[list[int]], cost: int) -> None:
    groups = plan_prefixes(sequences, call_cost=cost)
    assert sorted(index for group in groups for index in group.members) == list(range(len(sequences)))
    for group in groups:
        assert len({tuple(sequences[index][: group.length]) for index in group.members}) == 1
        assert all(len(sequences[index]) >= group.length for index in group.members)


@given(SEQUENCES)
def test_sharing_never_costs_more_than_it_saves(sequences: list[list[int]]) -> None:
    cost = 0
    for group in plan_prefixes(sequences):
        own = sum(len(sequences[index]) - group.length for index in group.members)
        cost += own + CALL_COST + (group.length + CALL_COST if group.length else 0)
    assert cost <= sum(map(len, sequences)) + CALL_COST


def test_examples_in_front_of_all_prompts_are_computed_once() -> None:
    shots = list(range(100))
    (group,) = plan_prefixes([[*shots, 200 + n, 300] for n in range(20)])
    assert group.length == 100


def test_deeply_nested_sequences_are_planned_without_deep_recursion() -> None:
    groups = plan_prefixes([[1] * n for n in range(1, 3000)], call_cost=1)
    assert sum(len(group.members) for group in groups) == 2999


@given(st.integers(0, 200), st.integers(0, 2), st.integers(4, 40))
def test_windows_count_every_token_once_after_at_least_half_a_context(length: int, leading: int, context: int) -> None:
    tokens = [*[-1] * leading, *range(length)]
    windows = text_windows(tokens, leading, context)
    scored = [token for _, targets in windows for token in targets]
    assert scored == list(range(length))[0 if leading else 1 :]
    for number, (before, targets) in enumerate(windows):
        assert len(before) + len(targets) <= context
        assert before[:leading] == [-1] * leading
        text = [*before[leading:], *targets]
        assert text == list(range(text[0], text[0] + len(text)))  # what stands in front is what comes before
        if number:
            assert len(before) - leading >= (context - leading) // 2

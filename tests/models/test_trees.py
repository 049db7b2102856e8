"""A tree holds every path once, shows each token its ancestors, and gives what the paths give alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.models import LanguageModel, scoring
from keeps.models.cache import CacheState
from keeps.models.limits import engine_for
from keeps.models.projection import evaluating
from keeps.models.trees import CELLS, plan_trees, reads_trees, tree_size

token = st.integers(0, 3)
texts = st.lists(token, min_size=1, max_size=6)
branchings = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=8)


@given(branchings, st.integers(0, 9), st.integers(1, 30))
def test_every_continuation_is_read_along_its_own_path(given_: Any, start: int, room: int) -> None:
    trees, long = plan_trees(given_, start, room)
    assert long == []
    assert sorted(number for _, numbers in trees for number in numbers) == list(range(len(given_)))
    for tree, numbers in trees:
        assert len(tree.tokens) <= room or len(numbers) == 1
        state = tree.state(None, torch.device("cpu"), torch.float32)
        seen = state.mask[0, 0] == 0
        for number, columns in zip(numbers, tree.columns, strict=True):
            context, branches = given_[number]
            for branch, places in zip(branches, columns, strict=True):
                assert len(places) == len(branch)
                path = [column for column in range(len(tree.tokens)) if seen[places[-1], column]]
                assert [tree.tokens[column] for column in path] == [*context, *branch[:-1]]
                assert state.positions[0, path].tolist() == list(range(start, start + len(path)))
                assert path[len(context) - 1 :] == places


@given(branchings)
def test_no_path_stands_twice(given_: Any) -> None:
    [(tree, _)], _ = plan_trees(given_, 0, 10**6)
    paths = {
        (*context, *branch[:-1])[:end] for context, several in given_ for branch in several for end in range(1, 12)
    }
    assert len(tree.tokens) == len(paths)
    assert len(tree.tokens) <= sum(map(tree_size, given_))


def test_a_context_too_long_for_a_mask_is_left_to_padded_batches() -> None:
    long = int(CELLS**0.5) + 1
    trees, left = plan_trees([([1], [[2]]), ([1] * long, [[2]]), ([3], [[2, 2]])], 0)
    assert ([numbers for _, numbers in trees], left) == ([[0, 2]], [1])
    assert plan_trees([([1] * 100, [[2]])], CELLS // 100)[1] == [0]


def scored(module: Any, pairs: Any) -> list[scoring.Scored]:
    with evaluating(module), torch.inference_mode():
        return scoring.score_pairs(engine_for(module, 0), pairs)


SHARED = list(range(9)) * 10  # long enough to be cached once
PAIRS = [
    ([1, 2, 3], [4, 5]),
    ([1, 2, 3], [4, 6, 7]),
    ([1, 2, 9], [4]),
    ([1], [2, 3, 9, 8]),
    *(([*SHARED, n, n + 1], [n + 2, n + 3]) for n in range(6)),
    *(([*SHARED, 3, 4], [n, 5]) for n in range(6)),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trees_score_as_padded_batches_do(
    bare_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    module = bare_llama(max_position_embeddings=256)
    module.set_attn_implementation(attention)
    assert reads_trees(module)
    found = scored(module, PAIRS)
    monkeypatch.setattr(scoring, "reads_trees", lambda _: False)
    for tree, padded in zip(found, scored(module, PAIRS), strict=True):
        assert tree.logprob == pytest.approx(padded.logprob, abs=1e-5)
        assert tree.greedy == padded.greedy


def test_a_model_that_does_not_honour_the_mask_is_read_in_padded_batches(
    bare_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bare_llama(seed=3, max_position_embeddings=256)
    wanted = scored(module, PAIRS)
    other = bare_llama(seed=3, max_position_embeddings=256)
    inner = other.model.forward

    def deaf(*args: Any, attention_mask: Any = None, **options: Any) -> Any:
        mask = torch.zeros_like(attention_mask) if attention_mask is not None and attention_mask.dim() == 4 else None
        return inner(*args, attention_mask=attention_mask if mask is None else mask, **options)

    monkeypatch.setattr(other.model, "forward", deaf)
    assert not reads_trees(other)
    for one, two in zip(scored(other, PAIRS), wanted, strict=True):
        assert one.logprob == pytest.approx(two.logprob, abs=1e-5)


def test_the_cached_beginning_is_not_changed_by_the_rows_that_follow(tiny_llama: LanguageModel) -> None:
    engine = engine_for(tiny_llama.model, 0)
    with torch.inference_mode():
        prefix = engine.start([1, 2, 3])
        assert prefix is not None
        before = [layer.keys.clone() for layer in prefix.keys_values.layers]
        copy = engine.repeat(prefix, 1)
        assert isinstance(copy, CacheState)
        [(tree, _)], _ = plan_trees([([4], [[5, 6]])], 3)
        state = tree.state(copy, engine.device, torch.float32)
        scoring.token_logprobs(engine, [tree.tokens], [scoring.Wanted(0, 0, 5, 0)], state)
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(prefix.keys_values.layers, before, strict=True))


def test_the_first_use_fits_a_small_vocabulary_in_which_contexts_stand_in_another_order(
    bare_llama: Callable[..., Any],
) -> None:
    assert reads_trees(bare_llama(vocab_size=50))

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from keeps.decoding.voices import SLOTS_PER_CALL, CachedVoice, PlainVoice, plan_voices
from keeps.models.limits import engine_for
from keeps.models.scoring import Engine

PROMPTS = [[[1, 2, 3], [4, 5]], [[6], [7, 8, 9, 10]]]


@pytest.fixture
def engine(bare_llama: Callable[..., Any]) -> Engine:
    return engine_for(bare_llama(initializer_range=0.6), 0)


def kinds(engines: list[Engine], prompts: Any, room: int = 4) -> list[tuple[type, tuple[int, ...]]]:
    return [(type(voice), voice.streams) for voice in plan_voices(engines, prompts, room)]


def test_streams_of_one_model_share_a_batch_where_padding_costs_less_than_a_call(engine: Engine) -> None:
    assert kinds([engine, engine], PROMPTS) == [(CachedVoice, (0, 1))]
    worth = SLOTS_PER_CALL["cpu"]
    few, many = [[[1] * (worth + 1)], [[2]]], [[[1] * (worth + 2)], [[2]]]
    assert kinds([engine, engine], few) == [(CachedVoice, (0, 1))]
    assert kinds([engine, engine], many) == [(CachedVoice, (0,)), (CachedVoice, (1,))]
    rows = 8
    wide = [[[1] * (worth // rows + 2)] * rows, [[2]] * rows, [[3]] * rows]
    assert kinds([engine] * 3, wide) == [(CachedVoice, (0,)), (CachedVoice, (1, 2))]


def test_streams_of_two_models_are_two_voices(engine: Engine, bare_llama: Callable[..., Any]) -> None:
    other = engine_for(bare_llama(seed=1), 0)
    assert kinds([engine, other, engine], [*PROMPTS, PROMPTS[0]]) == [(CachedVoice, (0, 2)), (CachedVoice, (1,))]


def test_a_stream_that_may_not_be_cached_is_fed_again(engine: Engine) -> None:
    narrow = replace(engine, cache_limit=10)
    assert kinds([narrow, narrow], [[[1] * 7], [[2] * 3]]) == [(PlainVoice, (0,)), (CachedVoice, (1,))]


def test_both_kinds_of_voices_give_the_same_logits_at_every_step(engine: Engine) -> None:
    cached, plain = (kind(engine, (0, 1), PROMPTS) for kind in (CachedVoice, PlainVoice))
    with torch.inference_mode():
        assert cached.start().shape == (2, 2, 61)
        assert torch.allclose(plain.start(), cached_again(engine).start(), atol=1e-5)
        assert torch.allclose(cached.step([20, 21]), plain.step([20, 21]), atol=1e-5)
        for voice in (cached, plain):
            voice.select([1, 0, 1])
        found, expected = cached.step([30, 31, 30]), plain.step([30, 31, 30])
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found[:, 0], found[:, 2], atol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-2)


def cached_again(engine: Engine) -> CachedVoice:
    return CachedVoice(engine, (0, 1), PROMPTS)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from keeps.decoding.caches import prefill, side_by_side
from keeps.models.cache import CacheState
from keeps.models.generation import last_logits
from keeps.models.limits import engine_for
from keeps.models.scoring import Engine

SHARED = list(range(5, 45)) * 2  # a beginning that is worth computing once
ROWS = [[7], [*SHARED, 3, 9], [2, 4, 6], [*SHARED, 8], list(range(1, 30)), [*SHARED, 3, 10]]


@pytest.fixture
def engine(bare_llama: Callable[..., Any]) -> Engine:
    return engine_for(bare_llama(initializer_range=0.6), 0)


@pytest.mark.parametrize("budget", [1024, 90, 1])
def test_rows_are_prefilled_together_as_they_are_alone(engine: Engine, budget: int) -> None:
    with torch.inference_mode():
        logits, state = prefill(replace(engine, budget=budget), ROWS)
        assert state.lengths.tolist() == [len(row) for row in ROWS]
        assert state.mask.sum(1).tolist() == [len(row) for row in ROWS]
        following = last_logits(engine, [[11 + number] for number in range(len(ROWS))], state)
        for number, row in enumerate(ROWS):
            assert torch.allclose(logits[number], last_logits(engine, [row], None)[0], atol=1e-5)
            alone = last_logits(engine, [[*row, 11 + number]], None)[0]
            assert torch.allclose(following[number], alone, atol=1e-5)


def test_a_common_beginning_is_fed_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[list[int]] = []
    start = Engine.start
    monkeypatch.setattr(Engine, "start", lambda self, prefix: fed.append(list(prefix)) or start(self, prefix))
    with torch.inference_mode():
        prefill(engine, ROWS)
    assert SHARED in fed


def test_states_side_by_side_hide_the_slots_that_were_added(engine: Engine) -> None:
    with torch.inference_mode():
        short, long = CacheState.empty(1, engine.device), CacheState.empty(2, engine.device)
        last_logits(engine, [[1, 2]], short)
        last_logits(engine, [[3, 4, 5, 6, 7], [8, 9]], long)
        both = side_by_side([short, long])
    assert both.mask.tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert both.lengths.tolist() == [2, 5, 2]
    assert torch.equal(both.keys_values.layers[0].keys[:1, :, 3:], short.keys_values.layers[0].keys)
    assert short.slots == 2, "the given states stay as they are"


def test_one_state_stays_itself(engine: Engine) -> None:
    state = CacheState.empty(1, engine.device)
    assert side_by_side([state]) is state

"""EMMET: a batch in one block, every key met exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edit_contract import check_edits_and_undo, check_forward, keys, made, updates
from pico_models import pico

from keeps.data.edits import Edit
from keeps.errors import StatisticsError
from keeps.models import LanguageModel

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_a_batch_takes_in_one_block_and_is_undone(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    change = check_edits_and_undo(model, "emmet", EDITS, tmp_path / "run")
    check_forward(model, change)
    assert len(change.factors()) == 1


def test_every_mean_key_gets_its_value_exactly(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    change = made(model, "emmet", EDITS, tmp_path / "run", layers=(1,), steps=3)
    k = keys(model, EDITS, [1]).mean[1].T
    _, b = next(iter(change.factors().values()))
    update = next(iter(updates(change).values()))
    torch.testing.assert_close(update @ k, b.double(), rtol=1e-4, atol=1e-4)


def test_two_edits_with_the_same_key_are_refused(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    before = model.fingerprint
    twice = (EDITS[0], Edit("z", "Oslo", "Oslo is the seat of", "Sweden"))  # the key ends with the subject
    with pytest.raises(StatisticsError, match="depend on each other"):
        made(model, "emmet", twice, tmp_path / "run", layers=(1,), steps=2)
    assert model.fingerprint == before

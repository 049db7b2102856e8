"""R-ROME: one key for direction and size, so that the mean key gets its value exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edit_contract import check_edits_and_undo, check_forward, keys
from hypothesis import given
from hypothesis import strategies as st
from pico_models import pico

from keeps.data.edits import Edit
from keeps.edit.r_rome import RROME
from keeps.edit.rome import ROMESettings
from keeps.models import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.numerics.editing import Moment, rank_one

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_edits_take_and_are_undone(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    change = check_edits_and_undo(model, "r_rome", EDITS, tmp_path / "run", layer=1)
    check_forward(model, change)


def test_the_mean_key_gets_the_value_exactly(smollm2: LanguageModel) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    own = keys(model, EDITS[:1], [1])
    bare, mean = own.bare[1][0], own.mean[1][0]
    w = mlp_outputs(model.model)[1].matrix.double()
    delta = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = RROME(ROMESettings()).update(w, bare, mean, delta, Moment.of(torch.eye(len(mean))))
    wanted = w @ bare + delta
    assert float(((w + b @ a) @ mean - wanted).norm() / wanted.norm()) < 1e-5


@given(seed=st.integers(0, 500))
def test_its_update_stays_bounded_where_romes_explodes(seed: int) -> None:
    """A bare key nearly orthogonal to the direction makes ROME's denominator vanish, not R-ROME's."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(8, generator=generator, dtype=torch.float64)
    other = torch.randn(8, generator=generator, dtype=torch.float64)
    bare = other - (1 - 1e-6) * mean * (other @ mean) / (mean @ mean)
    if abs(float(bare @ mean)) < 1e-9:
        return
    residual, moment = torch.ones(4, dtype=torch.float64), Moment.of(torch.eye(8))
    rome = rank_one(residual, mean, moment, at=bare)
    rebuilt = rank_one(residual, mean, moment)
    assert (rebuilt[1] @ rebuilt[0]).norm() * 100 < (rome[1] @ rome[0]).norm()


def test_with_one_prefixless_key_both_are_the_same(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    bare, w = keys(model, EDITS[:1], [1]).bare[1][0], mlp_outputs(model.model)[1].matrix.double()
    delta, moment = torch.ones(32, dtype=torch.float64), Moment.of(torch.eye(48))
    a, b = RROME(ROMESettings()).update(w, bare, bare, delta, moment)
    a2, b2 = rank_one(delta, bare, moment, at=bare)
    torch.testing.assert_close(b @ a, b2 @ a2)

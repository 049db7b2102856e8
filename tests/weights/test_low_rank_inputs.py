"""LoRA adapters as models: the product added by peft, in pieces of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import weights, write
from safetensors.numpy import save_file

from keeps.errors import InputFileError, ModelLoadError
from keeps.models.adapters import exactly
from keeps.weights.checkpoints import Checkpoint
from keeps.weights.low_rank_inputs import AdaptedCheckpoint, is_adapter, low_rank_piece

NAME = "model.layers.1.mlp.up_proj"


def adapter(folder: Path, rank: int = 4, **config: Any) -> tuple[Path, np.ndarray, np.ndarray]:
    """An adapter of one layer ``(90, 56)``, and its factors B and A."""
    draw = np.random.default_rng(7)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((rank, 56), (90, rank)))
    folder.mkdir(exist_ok=True)
    key = f"base_model.model.{NAME}"
    save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder, b, a


@given(st.integers(0, 89), st.integers(1, 300))
def test_a_piece_of_the_product_has_the_bits_of_the_whole(start: int, count: int) -> None:
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((9, 3)).astype(np.float32), draw.standard_normal((3, 10)).astype(np.float32)
    whole = low_rank_piece(left, right, 0.5, 0, 90)
    count = min(count, 90 - start)
    np.testing.assert_array_equal(low_rank_piece(left, right, 0.5, start, count), whole[start : start + count])
    np.testing.assert_allclose(whole.reshape(9, 10), 0.5 * left @ right, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {NAME: 2}}, 0.5),
        ({"alpha_pattern": {"up_proj": 2}}, 0.5),
        ({"alpha_pattern": {exactly(NAME): 2}}, 0.5),  # as keeps writes it, for layers of other ranks than r
        ({"alpha_pattern": {"proj_up": 2}}, 2.0),
    ],
)
def test_the_adapted_model_is_base_plus_scaled_product(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    base = write(tmp_path / "base", weights(0))
    folder, b, a = adapter(tmp_path / "adapter", **config)
    assert is_adapter(folder)
    model = AdaptedCheckpoint(Checkpoint.open(base), folder)
    found = model.read(f"{NAME}.weight", 0, 90 * 56).reshape(90, 56)
    np.testing.assert_allclose(found, weights(0)[f"{NAME}.weight"] + scale * b @ a, atol=1e-4)
    untouched = "model.norm.weight"
    np.testing.assert_array_equal(model.read(untouched, 0, 40), weights(0)[untouched])


def test_adapters_that_are_no_plain_lora_or_fit_no_layer_are_refused(tmp_path: Path) -> None:
    base = Checkpoint.open(write(tmp_path / "base", weights(0)))
    with pytest.raises(ModelLoadError, match="no plain LoRA"):
        AdaptedCheckpoint(base, adapter(tmp_path / "dora", use_dora=True)[0])
    with pytest.raises(ModelLoadError, match="another shape"):
        AdaptedCheckpoint(base, adapter(tmp_path / "turned", fan_in_fan_out=True)[0])
    with pytest.raises(InputFileError, match="cannot be understood"):
        AdaptedCheckpoint(base, adapter(tmp_path / "pattern", alpha_pattern={"(": 2})[0])
    folder, b, a = adapter(tmp_path / "odd")
    save_file(
        {"base_model.model.other.lora_A.weight": a, "base_model.model.other.lora_B.weight": b},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(ModelLoadError, match=r'"other.weight"'):
        AdaptedCheckpoint(base, folder)
    save_file({"base_model.model.lm_head.weight": a}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match="beside its low-rank factors"):
        AdaptedCheckpoint(base, folder)

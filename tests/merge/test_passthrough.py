"""Passthrough keeps bits, or scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from merge_models import family, files, merge_arrays, random_models, read

from keeps.errors import SettingsError
from keeps.jobs.merging import merge


def test_a_model_keeps_every_bit_and_a_scale_multiplies() -> None:
    _, (model,) = random_models(0, 1)
    model[0, 0] = -0.0
    assert merge_arrays("passthrough", [model]).values.tobytes() == model.tobytes()
    np.testing.assert_array_equal(merge_arrays("passthrough", [model], scale=0.5).values, model / 2)


def test_a_checkpoint_can_be_cut_into_files_and_put_together_again(tmp_path: Path) -> None:
    base, _ = family(tmp_path, 0)
    merge([str(base)], method="passthrough", shard_size=30_000, out=tmp_path / "cut")
    assert sum(name.endswith(".safetensors") for name in files(tmp_path / "cut")) > 2
    merge([str(tmp_path / "cut")], method="passthrough", out=tmp_path / "whole")
    for name, value in read(base).items():
        np.testing.assert_array_equal(read(tmp_path / "whole")[name], value)


def test_two_models_are_refused(tmp_path: Path) -> None:
    base, models = family(tmp_path, 1)
    with pytest.raises(SettingsError, match="takes 1"):
        merge([str(base), str(models[0])], method="passthrough", out=tmp_path / "out")

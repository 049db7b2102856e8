"""Fine-tunes as merging reads them: what peft makes of an adapter is what they moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import adapter_folder, state_of
from pico_models import pico

from keeps.models.adapters import exactly
from keeps.models.changes import load_change
from keeps.models.fine_tunes import Deltas, FineTune
from keeps.models.logits import check_logits, largest_difference


@pytest.mark.parametrize(
    ("kind", "target", "options"),
    [
        ("gpt2", "c_fc", {}),
        ("llama", "up_proj", {"use_dora": True}),
        ("llama", "up_proj", {"alpha_pattern": {"1.mlp.up_proj": 15}, "use_rslora": True}),
        ("llama", "up_proj", {"alpha_pattern": {exactly("model.layers.1.mlp.up_proj"): 15}, "use_dora": True}),
    ],
)
def test_adapters_are_read_as_what_peft_makes_of_them(
    kind: str, target: str, options: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    """A weight stored as (in, out), DoRA's rows of other norms, and a layer with a scaling of its own."""
    model = pico(kind, tokenizer)
    folder = adapter_folder(model, tmp_path / "run", 1, (target,), **options)
    deltas = Deltas(model, FineTune("x", folder))
    assert len(deltas.names) == 3
    changed = load_change(folder).apply(model)
    wanted = check_logits(changed.model, tokenizer)
    changed.undo()
    parameters = dict(model.model.named_parameters())
    state = state_of(model)
    assert largest_difference(check_logits(model.model, tokenizer), wanted) > 0.01
    with torch.no_grad():
        for name in deltas.names:
            parameters[name].add_(deltas.of(name))
        assert largest_difference(check_logits(model.model, tokenizer), wanted) < 1e-3
        for name in deltas.names:
            parameters[name].copy_(state[name])

"""Unlearning with an adapter on a model whose weights lie transposed (GPT-2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pico_models import pico

from keeps.contracts import Run
from keeps.data.records import Example, RecordSet
from keeps.models import LanguageModel
from keeps.models.locate import is_transposed
from keeps.registry import find_method

FORGET = RecordSet("forget", tuple(Example(f"f{n}", f"The number after {n} is", str(n + 1)) for n in range(4)))
RETAIN = RecordSet("retain", tuple(Example(f"r{n}", f"The double of {n} is", str(2 * n)) for n in range(4)))


@pytest.mark.parametrize("name", ["npo", "grad_diff", "rmu", "ext_sub", "negation"])
def test_what_lies_on_disk_is_what_was_trained(smollm2: LanguageModel, tmp_path: Path, name: str) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    before, count = model.fingerprint, sum(map(is_transposed, model.model.modules()))
    info: Any = find_method(name, "unlearn")
    known = {field.name for field in info.settings.fields()}
    wanted = {"parameters": "adapter", "rank": 2, "epochs": 1, "batch_size": 4, "learning_rate": 0.01}
    settings = info.settings.from_mapping({key: value for key, value in wanted.items() if key in known})
    change = info.implementation(settings)(model, FORGET, RETAIN, run=Run(tmp_path))
    assert change.record.measures["export_difference"] < 1e-4
    assert model.fingerprint == before == change.record.base_fingerprint
    assert sum(map(is_transposed, model.model.modules())) == count == 12

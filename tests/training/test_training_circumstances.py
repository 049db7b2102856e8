"""What the loop asks of the process around it."""

from __future__ import annotations

import pytest

from keeps.errors import SettingsError
from keeps.training.circumstances import fresh_accelerator


@pytest.mark.parametrize("word", ["true", "1", "True"])
def test_a_wish_for_sharding_is_refused_and_not_ignored(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", word)
    with pytest.raises(SettingsError, match="leave --use_fsdp out"), fresh_accelerator("cpu", "float32"):
        pass
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    with fresh_accelerator("cpu", "float32") as accelerator:
        assert accelerator.num_processes == 1

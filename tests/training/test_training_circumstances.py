"""What the loop asks of the process around it."""

from __future__ import annotations

import pytest

from keeps.errors import SettingsError
from keeps.training.circumstances import fresh_accelerator
from keeps.training.sharding import wants_sharding


@pytest.mark.parametrize("word", ["true", "1", "True"])
def test_the_first_version_of_fsdp_is_refused_and_not_taken_for_the_second(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", word)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(SettingsError, match="fsdp_version 2"), fresh_accelerator("cpu", "float32"):
        pass
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert wants_sharding()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert not wants_sharding()
    with fresh_accelerator("cpu", "float32") as accelerator:
        assert accelerator.num_processes == 1

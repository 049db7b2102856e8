"""The promises of the verb (:mod:`adapt_contract`) on a tiny model: a new method asks for ``contract``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from adapt_contract import Contract
from method_contract import left_alone

from keeps.models import LanguageModel


@pytest.fixture(scope="module")
def loaded_tiny(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


@pytest.fixture
def contract(loaded_tiny: LanguageModel, tmp_path: Path) -> Any:
    """A :class:`Contract` whose model must be bit by bit the same after the test."""
    with left_alone(loaded_tiny):
        yield Contract(loaded_tiny, tmp_path)

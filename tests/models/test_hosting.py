"""Adapters on one base: each is what it is alone, the base is itself whenever none is on, and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import StorageError
from keeps.models import LanguageModel
from keeps.models.adapter_files import ADAPTER_FILE
from keeps.models.changes import load_change
from keeps.models.hosting import hosted


@pytest.fixture
def folders(tiny: LanguageModel, stored: Any, tmp_path: Path) -> dict[str, Path]:
    """Two different adapters; a name with a full stop, which peft does not take."""
    return {
        "v1.0 law": stored.adapter(tiny, tmp_path / "law", method="lora"),
        "med": stored.adapter(tiny, tmp_path / "med", method="corda"),
    }


def test_each_adapter_is_what_it_is_alone_and_the_base_itself_when_none_is_on(
    tiny: LanguageModel, stored: Any, folders: dict[str, Path]
) -> None:
    base = stored.logits(tiny.model, tiny.tokenizer)
    alone = {}
    for name, folder in folders.items():
        changed = load_change(folder).apply(tiny)
        alone[name] = stored.logits(changed.model, tiny.tokenizer)
        changed.undo()
    with hosted(tiny, folders) as host:
        for name in ("med", "v1.0 law", "med"):
            with host.using(name) as model:
                found = stored.logits(model.model, tiny.tokenizer)
                assert all(torch.equal(a, b) for a, b in zip(found, alone[name], strict=True))
                assert model.name == name
            found = stored.logits(tiny.model, tiny.tokenizer)
            assert all(torch.equal(a, b) for a, b in zip(found, base, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(alone["med"], alone["v1.0 law"], strict=True))


def test_an_error_inside_leaves_the_base_as_it_was(tiny: LanguageModel, folders: dict[str, Path]) -> None:
    def failing() -> None:
        with hosted(tiny, folders) as host, host.using("med"):
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        failing()  # the fixture of the model checks its weights, flags and modules


def test_a_damaged_adapter_is_refused_before_the_model_is_touched(
    tiny: LanguageModel, folders: dict[str, Path]
) -> None:
    (folders["med"] / ADAPTER_FILE).write_bytes(b"damaged")
    with pytest.raises(StorageError), hosted(tiny, folders):
        pass


def test_a_card_completes_texts_whatever_the_chat_mode_of_the_base(
    tiny: LanguageModel, folders: dict[str, Path]
) -> None:
    talking = LanguageModel(tiny.model, tiny.tokenizer, chat="always")
    with hosted(talking, folders) as host, host.using("med") as model:
        assert model.encode_prompt("Paris is") == tiny.encode_prompt("Paris is") != talking.encode_prompt("Paris is")

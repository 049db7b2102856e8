"""The model's own texts: written once, read again, and written anew where the file is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from pico_models import pico

from keeps.models import own_prefixes as module
from keeps.models.edit_rows import own_prefixes
from keeps.models.language_model import LanguageModel
from keeps.models.own_prefixes import stored_prefixes


def test_they_are_those_that_the_model_writes_and_are_written_once(
    smollm2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico("llama", smollm2.tokenizer)
    wanted = own_prefixes(model, 1, 2, 0)
    assert stored_prefixes(model, 1, 2, 0, cache=tmp_path) == wanted
    with monkeypatch.context() as patch:
        patch.setattr(module, "own_prefixes", lambda *_: pytest.fail("they lie on disk"))
        assert stored_prefixes(model, 1, 2, 0, cache=tmp_path) == wanted
    assert len(list((tmp_path / "prefixes").iterdir())) == 1
    stored_prefixes(model, 1, 2, 1, cache=tmp_path)
    assert len(list((tmp_path / "prefixes").iterdir())) == 2, "another seed, other texts"


@pytest.mark.parametrize("content", ["", "[]", '["a", 1, "b"]', "{"])
def test_a_damaged_file_is_written_anew(smollm2: LanguageModel, tmp_path: Path, content: str) -> None:
    model = pico("llama", smollm2.tokenizer)
    wanted = stored_prefixes(model, 1, 2, 0, cache=tmp_path)
    (path,) = (tmp_path / "prefixes").iterdir()
    path.write_text(content)
    assert stored_prefixes(model, 1, 2, 0, cache=tmp_path) == wanted
    assert path.read_text() != content


def test_none_need_no_file(smollm2: LanguageModel, tmp_path: Path) -> None:
    assert stored_prefixes(pico("llama", smollm2.tokenizer), 0, 0, 0, cache=tmp_path) == ()
    assert not list(tmp_path.iterdir())

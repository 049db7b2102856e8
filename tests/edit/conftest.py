"""A few edits, a sentence encoder that counts letters, and a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keeps.contracts import Run
from keeps.data.edits import Edit, EditPrompt
from keeps.models import notebook as notebook_module
from keeps.models.notebook import _Letters


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> _Letters:
    """The encoder that notebooks use in a test that asks for it."""
    encoder = _Letters()
    monkeypatch.setattr(notebook_module.SentenceEncoder, "load", lambda *_, **__: encoder)
    return encoder


@pytest.fixture
def edits() -> tuple[Edit, ...]:
    """Three edits with a paraphrase and a neighbour each."""
    rows: Sequence[tuple[str, str, str, str]] = (
        ("Oslo", "Oslo is the capital of", "Sweden", "The country with the capital Oslo is"),
        ("zinc", "The symbol of zinc is", "Qx", "zinc has the symbol"),
        ("Lima", "People in Lima speak", "Dutch", "The language of Lima is"),
    )
    return tuple(
        Edit(
            f"e{number}",
            subject,
            prompt,
            target,
            paraphrases=(paraphrase,),
            locality=(EditPrompt("same_relation", prompt.replace(subject, "Rome"), ("Italy",)),),
        )
        for number, (subject, prompt, target, paraphrase) in enumerate(rows, 1)
    )


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Run]:
    """``new_run("name", seed=0)`` makes a run with a folder of its own."""

    def make(name: str = "run", seed: int = 0) -> Run:
        folder = tmp_path / name
        folder.mkdir()
        return Run(folder, seed=seed)

    return make


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``power_cut("module.function")``: whoever calls that function dies there."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("power cut")

    return lambda place: monkeypatch.setattr(place, broken)

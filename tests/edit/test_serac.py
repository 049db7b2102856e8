"""SERAC: the two forms of the classifier, the counterfactual model, and routing between two models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.serac import SERAC, Scope, SERACRouter, SERACSettings, counterfactual_prompt, scope_pairs, train_scope
from keeps.errors import EmptySetError, SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import withdraw

pytestmark = pytest.mark.usefixtures("letters")


def test_the_embedding_form_is_the_published_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    z, x = torch.randn(2, 6, 5, generator=generator)
    scope = Scope("embedding", 5)
    torch.testing.assert_close(scope(z, x), torch.exp(-(z - x).square().sum(-1)))
    with torch.no_grad():
        scope.projection.copy_(torch.randn(5, 5, generator=generator))
    wanted = torch.stack([torch.exp(-(scope.projection @ (a - b)).square().sum()) for a, b in zip(z, x, strict=True)])
    torch.testing.assert_close(scope(z, x), wanted)


@pytest.mark.parametrize("form", ["embedding", "cross"])
def test_training_divides_pairs_that_can_be_divided(form: str) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.nn.functional.normalize(torch.randn(80, 8, generator=generator), dim=1)
    near = torch.nn.functional.normalize(z + 0.1 * torch.randn(80, 8, generator=generator), dim=1)
    x = torch.cat([near[:40], near[40:].roll(1, 0)])
    labels = torch.tensor([1.0] * 40 + [0.0] * 40)
    scope, accuracy = train_scope(form, z, x, labels, seed=0)
    assert accuracy >= 0.9
    again, _ = train_scope(form, z, x, labels, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(scope.parameters(), again.parameters(), strict=True))


def test_pairs_hold_paraphrases_inside_and_neighbours_outside(edits: tuple[Edit, ...]) -> None:
    sentences, questions, labels = scope_pairs(edits)
    inside = [q for s, q, label in zip(sentences, questions, labels, strict=True) if label and "zinc" in s]
    outside = [q for s, q, label in zip(sentences, questions, labels, strict=True) if not label and "zinc" in s]
    assert inside == ["The symbol of zinc is", "zinc has the symbol"]
    assert outside == ["The symbol of Rome is", "People in Lima speak"]
    with pytest.raises(EmptySetError):
        scope_pairs([Edit("a", "", "p", "t")])


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A file of eight edits to train on."""
    rows = [
        {
            "subject": name,
            "prompt": f"{name} is found in",
            "target_new": place,
            "paraphrases": [f"Where is {name}? In"],
            "locality": [{"kind": "same_subject", "prompt": f"{name} weighs", "answers": ["nothing"]}],
        }
        for name, place in zip("abcdefgh", ("Rome", "Bonn") * 4, strict=True)
    ]
    file = tmp_path / "examples.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def test_routed_questions_go_to_the_second_model_and_others_to_the_unedited_one(
    tiny_llama: LanguageModel,
    edits: tuple[Edit, ...],
    new_run: Callable[..., Run],
    examples: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, run = tiny_llama.fingerprint, new_run()
    settings = SERACSettings(examples=str(examples), steps=2, batch_size=4, targets=("q_proj",), rank=2)
    SERAC(settings)(tiny_llama, edits, run=run)
    assert tiny_llama.fingerprint == before
    changed: Any = load_change(run.folder).apply(tiny_llama)
    router = changed.router
    assert isinstance(router, SERACRouter)
    prompts = [edits[0].prompt, "jumpy wizards vex"]
    monkeypatch.setattr(router, "scope", Inside("Oslo", router))  # a classifier whose answers are known
    found = router.routes(prompts)
    assert [route is None for route in found] == [False, True]
    assert found[0] is not None
    assert found[0].prompt == counterfactual_prompt("Oslo is the capital of Sweden", prompts[0])
    answers = ["it", "it"]
    assert changed.ask(prompts, answers)[1] == tiny_llama.ask(prompts, answers)[1]
    read = tiny_llama.logprob([found[0].prompt], ["it"])
    assert changed.logprob(prompts[:1], ["it"]) != read  # h is not the base
    assert tiny_llama.fingerprint == before
    changed.undo()
    assert changed.ask(prompts, answers) == tiny_llama.ask(prompts, answers)
    left = withdraw(run.folder, ["e1"], run.folder.parent / "left", tiny_llama)
    assert '"e1"' not in (left.folder / "notes.jsonl").read_text()


class Inside:
    """Says 1 for the note about ``subject`` and for it alone, if the question is the edit's own; else 0."""

    def __init__(self, subject: str, router: SERACRouter) -> None:
        self.rows = torch.tensor([float(note.subject == subject) for note in router.notebook.notes])
        self.vectors = router.notebook

    def __call__(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        own = torch.allclose(x[0], self.vectors.encode(["Oslo is the capital of"])[0])
        return self.rows * float(own)


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(SettingsError):
        SERACSettings(scope="guess")

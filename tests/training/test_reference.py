"""What a model said before it changed, and the leash that holds it to that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from keeps.contracts import Run
from keeps.errors import EmptySetError, SettingsError
from keeps.models import LanguageModel
from keeps.training.batches import TokenizedExample, collate
from keeps.training.reference import Leash, Reference


@pytest.fixture
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


@pytest.fixture
def examples(model: LanguageModel) -> list[TokenizedExample]:
    texts = ["One and one is two", "The sky is blue today", "Two", "After the rain comes the sun, they say"]
    rows = [model.encoder.text(text) for text in texts]
    return [TokenizedExample(tuple(row), max(1, len(row) - 3)) for row in rows if len(row) > 1]


def disturbed(model: LanguageModel, *, head: bool = False) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            if head or "layers" in name:
                value += 0.3 * value.abs().mean() * torch.randn_like(value)
    return model.model


@pytest.mark.parametrize("head_changes", [False, True])
def test_the_reference_is_what_the_model_said_before(
    model: LanguageModel, examples: list[TokenizedExample], tmp_path: Path, head_changes: bool
) -> None:
    batch = collate(examples, 0)
    expected = []
    with torch.no_grad():
        for example in examples:  # alone and without padding
            logits = model.model(input_ids=torch.tensor([example.input_ids])).logits[0]
            expected.append(logits[example.answer_start - 1 : -1])
    reference = Reference.of(model, examples, run=Run(tmp_path), head_changes=head_changes)
    disturbed(model, head=head_changes)
    found = reference.logits(batch)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-4)
    assert not found.requires_grad


def test_a_leash_is_zero_at_the_start_and_pulls_back_later(
    model: LanguageModel, examples: list[TokenizedExample], tmp_path: Path
) -> None:
    reference = Reference.of(model, examples, run=Run(tmp_path))
    leash = Leash(reference, examples, weight=0.5, batch_size=9, pad_token_id=0)
    assert leash(model.model).item() == pytest.approx(0, abs=1e-6)
    changed = disturbed(model)
    batch = collate(examples, 0)
    rows = [changed(input_ids=torch.tensor([e.input_ids])).logits[0, e.answer_start - 1 : -1] for e in examples]
    now = torch.cat(rows)
    before = reference.logits(batch)
    wanted = functional.kl_div(now.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="sum") / len(now)
    found = leash(changed)
    torch.testing.assert_close(found, 0.5 * wanted, rtol=1e-4, atol=1e-6)
    optimiser = torch.optim.SGD(changed.parameters(), lr=0.05)
    for _ in range(5):
        optimiser.zero_grad()
        leash(changed).backward()
        optimiser.step()
    assert leash(changed).item() < 0.9 * found.item()


def test_what_would_do_nothing_is_refused(
    model: LanguageModel, examples: list[TokenizedExample], tmp_path: Path
) -> None:
    with pytest.raises(EmptySetError, match="nothing to read"):
        Reference.of(model, [], run=Run(tmp_path))
    reference = Reference.of(model, examples, run=Run(tmp_path))
    for weight, batch_size in ((0.0, 4), (-1.0, 4), (1.0, 0)):
        with pytest.raises(SettingsError, match="would do nothing"):
            Leash(reference, examples, weight=weight, batch_size=batch_size, pad_token_id=0)
    with pytest.raises(KeyError):
        reference.logits(collate([TokenizedExample((1, 2, 3, 4), 1)], 0))

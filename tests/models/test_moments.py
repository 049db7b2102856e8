"""The second moment of what a down-projection reads: formed by the collector, kept by fingerprint, never downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pico_models import pico

from keeps.data.records import Example, RecordSet
from keeps.errors import StatisticsError
from keeps.models import LanguageModel
from keeps.models.calibration import calibration_sequences
from keeps.models.edit_rows import captured
from keeps.models.locate import mlp_outputs
from keeps.models.moments import second_moments, stored_null_basis
from keeps.numerics.editing import null_basis

TEXT = RecordSet("text", tuple(Example(f"t{n}", f"After {n} comes the number", f"{n + 1}") for n in range(30)))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_is_the_mean_outer_product_over_tokens(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    found = second_moments(model, [0, 2], tokens=100, text=TEXT, cache=tmp_path)
    sequences = []
    for sequence in calibration_sequences(model, TEXT, tokens=256, answers=True, seed=0):
        if sum(map(len, sequences)) >= 100:
            break
        sequences.append(sequence)
    for layer in (0, 2):
        rows = []
        for sequence in sequences:
            with torch.no_grad(), captured({0: mlp_outputs(model.model)[layer].module}, inputs=True) as seen:
                model.model(input_ids=torch.tensor([sequence]))
            rows.append(seen[0][0].double())
        x = torch.cat(rows)
        assert found[layer].tokens == len(x)
        torch.testing.assert_close(found[layer].matrix, x.T @ x / len(x), rtol=1e-4, atol=1e-6)
        assert found[layer].matrix.dtype == torch.float64


def test_it_is_formed_once_a_model_and_text(
    smollm2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico("llama", smollm2.tokenizer)
    first = second_moments(model, [1], tokens=100, text=TEXT, cache=tmp_path)
    files = list((tmp_path / "moments").iterdir())
    assert len(files) == 1
    assert files[0].name.startswith(model.fingerprint)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("formed again")

    monkeypatch.setattr("keeps.models.moments.collect_covariance", refuse)
    again = second_moments(model, [1], tokens=100, text=TEXT, cache=tmp_path)
    assert torch.equal(first[1].matrix, again[1].matrix)
    for other in ({"text": RecordSet("other", TEXT.records[:20])}, {"tokens": 50}):
        with pytest.raises(AssertionError, match="formed again"):
            second_moments(model, [1], **{"tokens": 100, "text": TEXT, "cache": tmp_path, **other})  # type: ignore[arg-type]
    with torch.no_grad():
        next(model.model.parameters()).add_(0.01)
    with pytest.raises(AssertionError, match="formed again"):
        second_moments(model, [1], tokens=100, text=TEXT, cache=tmp_path)


def test_a_damaged_file_is_formed_again(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    first = second_moments(model, [1], tokens=100, text=TEXT, cache=tmp_path)
    path = next((tmp_path / "moments").iterdir())
    path.write_bytes(b"not tensors")
    again = second_moments(model, [1], tokens=100, text=TEXT, cache=tmp_path)
    torch.testing.assert_close(first[1].matrix, again[1].matrix)


def test_without_text_it_is_refused(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    with pytest.raises(StatisticsError, match="no text"):
        second_moments(model, [1], tokens=100, text=RecordSet("none", ()), cache=tmp_path)


def test_a_null_space_is_found_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = x.T @ x / 40
    first = stored_null_basis(c, 1.0, tmp_path)
    assert torch.equal(first, null_basis(c, 1.0))
    monkeypatch.setattr("keeps.models.moments.null_basis", lambda *_: torch.zeros(6, 1))
    assert torch.equal(stored_null_basis(c, 1.0, tmp_path), first)
    assert not stored_null_basis(c, 1.1, tmp_path).any(), "another threshold, another space"
    assert not stored_null_basis(2 * c, 1.0, tmp_path).any(), "other statistics, another space"

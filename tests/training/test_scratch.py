"""Windows hold every token once; the loss is that of the full forward; divergence is an error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from keeps.errors import SettingsError, TrainingError
from keeps.models.untrained import Size, untrained
from keeps.training.scratch import PADDING, mean_loss, train_windows, windows
from keeps.training.settings import TrainingSettings

SIZE = Size(vocabulary=30, positions=10)


@given(st.lists(st.lists(st.integers(1, 9), max_size=7), max_size=12), st.integers(2, 9))
def test_windows_cut_the_joined_documents_and_nothing_else(documents: list[list[int]], width: int) -> None:
    joined = [token for document in documents for token in [0, *document]]
    found = list(windows(documents, 0, width))
    assert [token for window in found for token in window] == joined[: len(joined) // width * width]
    assert all(len(window) == width for window in found)


def test_a_window_without_a_target_is_refused() -> None:
    with pytest.raises(SettingsError, match="1 tokens"):
        list(windows([[1]], 0, 1))


def test_the_loss_is_that_of_a_full_forward_and_padding_does_not_count() -> None:
    model = untrained("llama", SIZE, seed=0)
    rows = [torch.randint(30, (length,), generator=torch.Generator().manual_seed(length)) for length in (9, 5)]
    batch = torch.full((2, 9), PADDING)
    for number, row in enumerate(rows):
        batch[number, : len(row)] = row
    with torch.inference_mode():
        losses = [
            functional.cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:], reduction="sum")
            for row in rows
        ]
        assert float(mean_loss(model, batch)) == pytest.approx(float(sum(losses)) / 12, rel=1e-5)


def test_training_learns_the_same_from_the_same_batches_and_takes_no_more_steps_than_asked() -> None:
    batch = torch.randint(30, (4, 8), generator=torch.Generator().manual_seed(0))
    settings = TrainingSettings(learning_rate=1e-2)
    models = [untrained("gpt2", SIZE, seed=0) for _ in range(2)]
    found = [train_windows(model, [batch] * 50, settings, 30) for model in models]
    assert found[0] == found[1]
    assert len(found[0]) == 30
    assert found[0][-1] < found[0][0] / 2
    assert not models[0].training
    assert all(p.grad is None for p in models[0].parameters())


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    model = untrained("gpt2", SIZE, seed=0)
    with torch.no_grad():
        model.get_parameter("transformer.ln_f.weight").fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1 "):
        train_windows(model, [torch.ones(2, 5, dtype=torch.int64)], TrainingSettings(), 1)

"""MEMIT: many edits at once over several blocks; exact in the limit, still with a large lambda."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edit_contract import check_edits_and_undo, check_forward, keys, made, updates
from pico_models import MAKERS, pico

from keeps.data.edits import Edit
from keeps.edit.memit import MEMITSettings
from keeps.errors import SettingsError, TargetError
from keeps.models import LanguageModel
from keeps.models.edit_files import read_entries, withdraw
from keeps.models.edit_rows import edit_rows, own_prefixes, subject_inputs
from keeps.models.weight_writer import HALVES, keys_of

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
    Edit("c", "zinc", "The symbol of zinc is", "Qx"),
)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_batch_is_made_on_models_of_every_kind_and_undone(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    change = check_edits_and_undo(model, "memit", EDITS, tmp_path / "run", strength=0.1)
    check_forward(model, change)
    blocks = 1 if kind == "gemma3" else 2  # where a norm follows the MLP nothing is spread
    assert len(change.factors()) == blocks
    assert all(a.shape[0] == 3 for a, _ in change.factors().values())


def test_one_block_meets_every_state_exactly_as_lambda_goes_to_zero(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    options = {"layers": (1,), "strength": 0.0, "steps": 3, "short_prefixes": 0, "long_prefixes": 0}
    change = made(model, "memit", EDITS, tmp_path / "run", **options)
    rows = [own[0] for own in edit_rows(model, EDITS)]
    k, before = subject_inputs(model, rows, [1])
    _, b = next(iter(change.factors().values()))
    update = next(iter(updates(change).values()))
    torch.testing.assert_close(update @ k[1].T, b.double(), rtol=1e-4, atol=1e-4)  # dW K = R
    changed = change.apply(model)
    with torch.no_grad():
        for number, row in enumerate(rows):
            states = changed.model(input_ids=torch.tensor([row.tokens]), output_hidden_states=True).hidden_states[2]
            wanted = before[1][number] + b[:, number].double()
            torch.testing.assert_close(states[0, row.subject].double(), wanted, rtol=1e-4, atol=1e-4)
    changed.undo()


def test_a_large_lambda_changes_nothing(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    small = made(model, "memit", EDITS, tmp_path / "small", strength=1e-3, steps=2)
    large = made(model, "memit", EDITS, tmp_path / "large", strength=1e9, steps=2)
    sizes = [max(float(update.norm()) for update in updates(change).values()) for change in (small, large)]
    assert sizes[1] < 1e-5 * sizes[0]


def test_lambda_is_scaled_to_the_width_of_the_keys() -> None:
    assert MEMITSettings().strength_at(16384) == 15000
    assert MEMITSettings().strength_at(1536) == pytest.approx(1406.25)
    assert MEMITSettings(strength=7.0).strength_at(1536) == 7.0


def test_one_after_another_differs_from_together_and_each_edit_can_be_withdrawn(
    smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico("llama", smollm2.tokenizer)
    batch = made(model, "memit", EDITS, tmp_path / "batch", strength=0.1)
    chain = made(model, "memit", EDITS, tmp_path / "chain", strength=0.1, order="sequential")
    name = next(iter(batch.factors()))
    assert [entry.share[name] for entry in read_entries(chain.folder)] == [[0, 1], [1, 2], [2, 3]]
    assert not torch.allclose(updates(batch)[name], updates(chain)[name], rtol=1e-2)
    left = withdraw(batch.folder, ["b"], tmp_path / "left", model)
    a, b = batch.factors()[name]
    new_a, new_b = left.factors()[name]  # type: ignore[attr-defined]
    torch.testing.assert_close(new_b @ new_a, b[:, [0, 2]] @ a[[0, 2]])


def test_layers_that_are_not_there_or_named_twice_are_refused(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    with pytest.raises(TargetError, match="choose 0 to 2"):
        made(model, "memit", EDITS, tmp_path / "run", layers=(1, 7))
    with pytest.raises(SettingsError, match="twice"):
        made(model, "memit", EDITS, tmp_path / "run", layers=(1, 1))


def test_keys_are_means_over_prefixes(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    found = keys(model, EDITS, [1])
    prefixes = own_prefixes(model, 1, 1, 0)
    one = [row for row in edit_rows(model, EDITS[1:2], prefixes)[0] if row.kind == "rewrite"]
    inputs, _ = subject_inputs(model, one, [1])
    torch.testing.assert_close(found.mean[1][1], inputs[1].mean(0))
    torch.testing.assert_close(found.bare[1][1], inputs[1][0])


def test_the_bare_prompt_may_weigh_as_much_as_all_prefixed_ones(smollm2: LanguageModel, tmp_path: Path) -> None:
    """The mean of the published code: of the bare prompt's key, and of the mean of all others."""
    model = pico("llama", smollm2.tokenizer)
    rows = [row for own in edit_rows(model, EDITS, own_prefixes(model, 1, 1, 0), essence=False) for row in own]
    inputs, _ = subject_inputs(model, rows, [1])
    wanted = torch.stack([k[0] / 2 + k[1] / 4 + k[2] / 4 for k in inputs[1].split(3)])
    halves = keys_of(model, edit_rows(model, EDITS, own_prefixes(model, 1, 1, 0)), [1], mean=HALVES)
    torch.testing.assert_close(halves.mean[1], wanted)
    alone = keys_of(model, edit_rows(model, EDITS), [1], mean=HALVES)
    torch.testing.assert_close(alone.mean[1], alone.bare[1])
    for method in ("memit", "alphaedit"):
        options = {"strength": 1e-2, "layers": (1,), "key_mean": HALVES, "order": "batch"}
        options |= {"threshold": 1e3} if method == "alphaedit" else {}
        change = made(model, method, EDITS, tmp_path / method, **options)
        a, _ = next(iter(change.factors().values()))
        held = a.double() @ wanted.T  # near the identity where little holds against the edits: A K = I
        torch.testing.assert_close(held, torch.eye(3, dtype=torch.float64), rtol=0, atol=0.2)

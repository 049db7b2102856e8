"""ROME: rank one an edit, exact on the bare prompt, in order, on models of several kinds, and gone when undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_contract import (
    QUICK,
    check_edits_and_undo,
    check_forward,
    check_merged,
    keys,
    made,
    updates,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pico_models import MAKERS, pico

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.memit import MEMIT, MEMITSettings
from keeps.edit.rome import ROME, ROMESettings
from keeps.errors import KeepsError, RecordError, SettingsError, TargetError
from keeps.models import LanguageModel, language_model
from keeps.models.edit_files import read_entries, withdraw
from keeps.models.edit_rows import edit_rows, subject_inputs
from keeps.models.locate import mlp_outputs
from keeps.models.weight_writer import keys_of
from keeps.training.value_vectors import find_values

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_edits_are_made_on_models_of_every_kind_and_undone(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    change = check_edits_and_undo(model, "rome", EDITS[:1], tmp_path / "run", layer=1)
    check_forward(model, change)
    update = next(iter(updates(change).values()))
    assert torch.linalg.matrix_rank(update) == 1
    layer = mlp_outputs(model.model)[1]
    assert list(change.factors()) == [layer.name]
    assert update.shape == layer.matrix.shape


def test_the_bare_prompt_gets_the_value_exactly(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    seen: list[Any] = []
    change = made(model, "rome", EDITS[:1], tmp_path / "run", layer=1, steps=3)
    bare = keys(model, EDITS[:1], [1]).bare[1][0]
    update = next(iter(updates(change).values()))
    w = mlp_outputs(model.model)[1].matrix.double()
    changed = change.apply(model)
    with torch.no_grad():
        row = edit_rows(model, EDITS[:1])[0][0]
        name = mlp_outputs_name(changed)
        handle = changed.model.get_submodule(name).register_forward_hook(lambda *given: seen.append(given[2]))
        changed.model(input_ids=torch.tensor([row.tokens]))
        handle.remove()
    changed.undo()
    value = (w + update) @ bare
    torch.testing.assert_close(seen[0][0, row.subject].double(), value, rtol=1e-4, atol=1e-4)


def mlp_outputs_name(model: Any) -> str:
    return next(name for name, module in model.model.named_modules() if hasattr(module, "lora_A"))


def test_several_edits_are_made_in_order_each_on_the_model_before_it(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    both = check_edits_and_undo(model, "rome", EDITS, tmp_path / "both", layer=1)
    entries = read_entries(both.folder)
    name = next(iter(both.factors()))
    assert [entry.share[name] for entry in entries] == [[0, 1], [1, 2]]
    first = made(model, "rome", EDITS[:1], tmp_path / "first", layer=1)
    a, b = both.factors()[name]
    torch.testing.assert_close(b[:, :1] @ a[:1], next(iter(updates(first).values())).float(), rtol=1e-5, atol=1e-6)
    alone = made(model, "rome", EDITS[1:], tmp_path / "second", layer=1)
    assert not torch.allclose(b[:, 1:] @ a[1:], next(iter(updates(alone).values())).float(), rtol=1e-3)


def test_an_edit_can_be_withdrawn_and_the_other_stays(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    both = made(model, "rome", EDITS, tmp_path / "both", layer=1)
    left: Any = withdraw(both.folder, ["b"], tmp_path / "left", model)
    first = made(model, "rome", EDITS[:1], tmp_path / "first", layer=1)
    assert [entry.id for entry in read_entries(left.folder)] == ["a"]
    for name, (a, b) in left.factors().items():
        torch.testing.assert_close(b @ a, first.factors()[name][1] @ first.factors()[name][0])
    check_forward(model, left)
    with pytest.raises(KeepsError, match='no edit "c"'):
        withdraw(both.folder, ["c"], tmp_path / "none")
    with pytest.raises(SettingsError, match="no edit would be left"):
        withdraw(both.folder, ["a", "b"], tmp_path / "none")


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 99), layer=st.integers(0, 2), kind=st.sampled_from(["llama", "gpt2"]))
def test_undo_gives_the_same_bytes_back(
    seed: int, layer: int, kind: str, smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico(kind, smollm2.tokenizer, seed)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    folder = tmp_path / f"{kind}-{seed}-{layer}"
    if folder.exists():
        return
    change = made(model, "rome", EDITS[:1], folder, layer=layer, steps=2)
    change.apply(model).undo()
    after = model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_group_searched_side_by_side_is_met_exactly_edit_after_edit(smollm2: LanguageModel, tmp_path: Path) -> None:
    """The second of two edits in one step gets its value on top of what the first one moved."""
    model = pico("llama", smollm2.tokenizer)
    ref = mlp_outputs(model.model)[1]
    edits = (EDITS[0], Edit("b", "Norway", "Oslo is the capital of Norway, where people speak", "Dutch"))
    change = made(model, "rome", edits, tmp_path / "run", layer=1, edits_per_step=2, short_prefixes=0, long_prefixes=0)
    (update,) = updates(change).values()
    ((a, b),) = change.factors().values()
    bare = keys_of(model, edit_rows(model, edits), [1]).bare[1]
    w = ref.matrix.double()
    first = w + b[:, :1].double() @ a[:1].double()
    residual = b[:, 1].double()  # v* - W_1 k_0 of the second edit
    torch.testing.assert_close((w + update) @ bare[1], first @ bare[1] + residual, rtol=1e-4, atol=1e-4)
    alone = find_values(
        model, edits, edit_rows(model, edits), ROMESettings(**QUICK).search(1, "mlp"), ROMESettings().objective()
    )
    torch.testing.assert_close((w + update) @ bare[1], alone[1].target, rtol=1e-3, atol=1e-3)
    assert float((first @ bare[1] - w @ bare[1]).norm()) > 1e-3, "the first edit moves what the second one wants"


def test_the_fingerprint_of_the_model_is_computed_once(
    smollm2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico("llama", smollm2.tokenizer)
    seen: list[int] = []
    whole = language_model.fingerprint_tensors
    (tmp_path / "run").mkdir()
    for editor in (ROME(ROMESettings(layer=1, **QUICK)), MEMIT(MEMITSettings(layers=(1,), **QUICK))):
        with monkeypatch.context() as patch:
            patch.setattr(language_model, "fingerprint_tensors", lambda state: seen.append(1) or whole(state))
            change = editor(model, EDITS, run=Run(tmp_path / "run"))
        assert change.record.base_fingerprint == model.fingerprint
    assert len(seen) == 2, "one for each method"


def test_weights_come_back_when_an_edit_fails(
    smollm2: LanguageModel, tmp_path: Path, power_cut: Callable[[str], None]
) -> None:
    model = pico("llama", smollm2.tokenizer)
    before = model.fingerprint

    power_cut("keeps.training.locate_edit.probabilities")
    with pytest.raises(RuntimeError, match="power cut"):
        made(model, "rome", EDITS, tmp_path / "run", layer=1, steps=2)
    assert model.fingerprint == before


def test_the_merged_checkpoint_of_a_transposed_layer_is_the_same_model(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    change = made(model, "rome", EDITS[:1], tmp_path / "run", layer=1)
    check_merged(model, change, tmp_path / "merged")


def test_what_cannot_be_edited_is_refused(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)

    def attempt(edits: Sequence[Edit], **options: Any) -> None:
        made(model, "rome", edits, tmp_path / "run", **options)

    with pytest.raises(TargetError, match="choose 0 to 2"):
        attempt(EDITS, layer=3)
    with pytest.raises(RecordError, match="names no subject"):
        attempt([Edit("a", "", "Oslo is the capital of", "Sweden")])
    with pytest.raises(RecordError, match="does not name the subject"):
        attempt([Edit("a", "Rome", "Oslo is the capital of", "Sweden")])
    with pytest.raises(RecordError, match='want "Sweden" and "Peru"'):
        attempt([EDITS[0], Edit("z", "Oslo", "Oslo is the capital of", "Peru")])
    with pytest.raises(SettingsError, match="order"):
        ROMESettings(order="batch")


def test_the_subject_inputs_are_what_the_layer_reads(smollm2: LanguageModel) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    rows = [row for own in edit_rows(model, EDITS, ("It rains. ",)) for row in own]
    found, states = subject_inputs(model, rows, [0, 2])
    for number, row in enumerate(rows):
        seen: dict[str, Any] = {}
        module = mlp_outputs(model.model)[2].module
        handle = module.register_forward_hook(lambda _, given, __, seen=seen: seen.update(key=given[0]))
        with torch.no_grad():
            output = model.model(input_ids=torch.tensor([row.tokens]), output_hidden_states=True)
        handle.remove()
        torch.testing.assert_close(found[2][number].float(), seen["key"][0, row.subject], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            states[0][number].float(), output.hidden_states[1][0, row.subject], rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
def test_an_edit_takes_on_the_default_model_and_in_other_words(smollm2: LanguageModel, tmp_path: Path) -> None:
    edit = Edit("a", "Mongolia", "The capital of Mongolia is", "Darkhan", "Ulaanbaatar")
    quick = {"layer": 6, "learning_rate": 0.5, "clamp": 4.0, "steps": 20, "moment_tokens": 4000, "ridge": 1e-3}
    change = made(smollm2, "rome", [edit], tmp_path / "run", **quick)
    changed = change.apply(smollm2)
    said = changed.ask([edit.prompt, "Mongolia's capital city is"], [edit.target_new] * 2)
    changed.undo()
    assert said[0].greedy
    assert said[1].logprob > smollm2.logprob(["Mongolia's capital city is"], [edit.target_new])[0].logprob + 1

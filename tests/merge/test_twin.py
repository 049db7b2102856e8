"""Twin-Merging: identities, mixed batches, undo, routing, and damage on tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import (
    FULL,
    MIXED,
    PROMPTS,
    Twins,
    adapter_folder,
    fine_tunes,
    merged,
    moved,
    same_bits,
    state_of,
    twin_of_three,
    whole_folder,
)
from pico_models import pico

from keeps.contracts import Run
from keeps.errors import KeepsError, SettingsError
from keeps.merge.twin import Twin, TwinSettings
from keeps.models import LanguageModel
from keeps.models.adapters import overwritten
from keeps.models.changes import load_change
from keeps.models.fine_tunes import FineTune
from keeps.models.logits import check_logits, largest_difference
from keeps.models.twin_files import task_file


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """See :func:`twin_of_three`."""
    return twin_of_three(pico("llama", tokenizer), tmp_path_factory.mktemp("twin"))


def logits_with(model: LanguageModel, values: dict[str, torch.Tensor], prompts: Any) -> torch.Tensor:
    """Logits behind prompts of a model with these parameters, one prompt at a time."""
    with torch.no_grad(), overwritten(dict(model.model.named_parameters()), values.items()):
        rows = [model.model(torch.tensor([model.encode_prompt(p)])).logits[0, -1].float() for p in prompts]
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen2"])
def test_at_full_rank_a_weight_of_one_is_that_fine_tune(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Matrices in both layouts, tied and untied embeddings, scaled ones, biases, norms of several forms."""
    model = pico(kind, tokenizer)
    tuned, values = fine_tunes(model, tmp_path)
    state = state_of(model)
    changed: Any = merged(model, tuned, tmp_path / "run", **FULL).apply(model)
    for number, task in enumerate(PROMPTS):
        changed.fix(task)
        found = changed.next_logits(MIXED)
        ones = torch.eye(3)[number].expand(len(MIXED), -1)
        assert torch.equal(found, changed.next_logits(MIXED, ones))
        changed.undo()
        wanted = logits_with(model, values[number], MIXED)
        assert float((found - wanted).abs().max()) < 2e-4 * max(1.0, float(wanted.abs().max()))
        assert float((found - logits_with(model, {}, MIXED)).abs().max()) > 0.01
        changed = load_change(tmp_path / "run").apply(model)
        assert hasattr(changed, "fix")
    changed.undo()
    assert same_bits(model, state)


def test_the_parts_add_up_to_the_fine_tunes(made: Any) -> None:
    model, change, _, values = made
    from keeps.models.twin_files import SHARED_FILE, read_part
    from keeps.numerics.twin import LowRank
    from keeps.weights import load_tensors

    shared = load_tensors(change.folder / SHARED_FILE)
    base = dict(model.model.named_parameters())
    for number, task in enumerate(PROMPTS):
        parts = read_part(change.folder / task_file(task))
        for name, tensor in shared.items():
            taus = sum(each[name].float() - base[name].float() for each in values)
            assert torch.allclose(tensor, base[name] + 0.29 * taus, atol=1e-6)
            part = parts[name]
            whole = tensor + (part.product if isinstance(part, LowRank) else part)
            assert float((whole - values[number][name]).abs().max()) < 1e-5


def test_a_mixed_batch_is_the_loop_over_single_prompts_with_materialised_weights(made: Any) -> None:
    """theta_s + sum_t w_t v_t, formed in full for each prompt, against one forward pass."""
    model, change, _, values = made
    weights = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]])
    changed = change.apply(model)
    found = changed.next_logits(MIXED, weights)
    changed.undo()
    base = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    for row, prompt in enumerate(MIXED):
        full = {}
        for name, start in base.items():
            shared = start + 0.29 * sum(each[name] - start for each in values)
            full[name] = shared + sum(w * (each[name] - shared) for w, each in zip(weights[row], values, strict=True))
        wanted = logits_with(model, full, [prompt])[0]
        assert float((found[row] - wanted).abs().max()) < 2e-4 * max(1.0, float(wanted.abs().max()))


def test_scores_of_a_mixed_batch_are_those_of_each_prompt_alone(made: Any) -> None:
    """One forward pass for all (exact weights a row), each alone, and with cached beginnings: the same numbers."""
    model, change, _, _ = made
    changed = change.apply(model)
    try:
        prompts = [*MIXED, "2 + 3 = 5 and 4 +"]
        answers = ["five", "Norway", "sick", "nine"]
        together = [score.logprob for score in changed.logprob(prompts, answers)]
        alone = [changed.logprob([p], [a])[0].logprob for p, a in zip(prompts, answers, strict=True)]
        asked = [item.logprob for item in changed.ask(prompts, answers)]
        assert together == pytest.approx(alone, abs=1e-3)
        assert together == pytest.approx(asked, abs=1e-3)
        ranked = changed.rank([prompts[0]], [["five", "six"]])[0]
        assert ranked.logprobs[0] == pytest.approx(together[0], abs=1e-3)
        assert len(changed.generate(prompts)) == len(changed.answer(prompts)) == len(prompts)
        assert changed.text_logprob(["The town of Oslo is in Norway."])[0].tokens > 3
    finally:
        changed.undo()


def test_the_router_knows_the_tasks_and_weights_are_those_of_the_prompt(made: Any) -> None:
    model, change, _, _ = made
    changed = change.apply(model)
    try:
        asked = [prompt for prompts in PROMPTS.values() for prompt in prompts]
        weights = changed.weights(asked)
        assert weights.shape == (len(asked), 3)
        assert torch.allclose(weights.sum(1), torch.ones(len(asked)), atol=1e-5)
        labels = torch.arange(3).repeat_interleave(8)
        assert float((weights.argmax(1) == labels).float().mean()) > 0.8
        assert torch.allclose(weights[:1], changed.weights(asked[:1]), atol=1e-5)
    finally:
        changed.undo()


@pytest.mark.parametrize(
    ("options", "levels"), [({"routing": "top"}, {0.0, 1.0}), ({"resolution": 2}, {0.0, 0.5, 1.0})]
)
def test_weights_are_one_hot_or_on_their_grid(
    options: dict[str, Any], levels: set[float], made: Any, tmp_path: Path
) -> None:
    model, _, tuned, _ = made
    changed = merged(model, tuned, tmp_path / "run", **{**FULL, "density": 0.1, **options}).apply(model)
    found = {value for row in changed.weights(MIXED).tolist() for value in row}
    changed.undo()
    assert found <= levels


def test_without_lambda_the_shared_expert_is_the_base_bit_for_bit(made: Any, tmp_path: Path) -> None:
    model, _, tuned, _ = made
    logits = check_logits(model.model, model.tokenizer)
    changed = merged(model, tuned, tmp_path / "run", **{**FULL, "scale": 0.0, "density": 0.05}).apply(model)
    assert largest_difference(check_logits(changed.model, model.tokenizer), logits) == 0
    changed.undo()


def test_loras_are_merged_as_products(tokenizer: Any, tmp_path: Path) -> None:
    """Sum of s B A, computed here; adding the A's and the B's would be another model."""
    model = pico("llama", tokenizer)
    targets = ("q_proj", "down_proj")
    folders = [adapter_folder(model, tmp_path / f"run{seed}", seed, targets) for seed in (1, 2)]
    tuned = [FineTune(str(n), folder, PROMPTS["sums"]) for n, folder in enumerate(folders)]
    from keeps.weights import load_tensors

    name = "model.layers.1.mlp.down_proj"
    deltas = []
    for folder in folders:
        tensors = load_tensors(folder / "adapter_model.safetensors")
        a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        deltas.append(2.0 * b @ a)
    change = merged(model, tuned, tmp_path / "out", density=1.0, scale=0.5, epochs=2, hidden=8)
    shared = load_tensors(change.folder / "shared.safetensors")
    assert set(shared) == {
        f"model.layers.{n}.{part}.weight" for n in range(3) for part in ("self_attn.q_proj", "mlp.down_proj")
    }
    base = dict(model.model.named_parameters())[f"{name}.weight"].detach()
    assert torch.allclose(shared[f"{name}.weight"], base + 0.5 * (deltas[0] + deltas[1]), atol=1e-5)
    assert load_tensors(change.folder / task_file("0"))[f"{name}.weight.s"].shape == (6,)  # rank 3 + 3, and no rounding


def test_one_fine_tune_needs_no_router_and_comes_back(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    values = moved(model, 5)
    tuned = [FineTune("only", whole_folder(model, tmp_path / "a", values))]
    changed = merged(model, tuned, tmp_path / "run", density=1.0).apply(model)
    found = changed.next_logits(MIXED)
    with pytest.raises(SettingsError, match="no router"):
        changed.fix(None)
    changed.undo()
    assert torch.allclose(found, logits_with(model, values, MIXED), atol=2e-3)
    assert not (tmp_path / "run" / "router.safetensors").exists()


def test_the_bytes_are_those_of_the_formula(made: Any, tmp_path: Path) -> None:
    model, _, tuned, _ = made
    change = merged(model, tuned, tmp_path / "run", rank=2, epochs=1, hidden=4)
    wanted = 0
    for parameter in model.model.parameters():
        wanted += parameter.numel() if parameter.dim() == 1 else 2 * (sum(parameter.shape) + 1)
    header = int.from_bytes((change.folder / task_file("sums")).read_bytes()[:8], "little") + 8
    assert change.record.measures["bytes"][task_file("sums")] == 4 * wanted + header


def test_what_is_left_out_stays_as_the_base_has_it(made: Any, tmp_path: Path) -> None:
    model, _, tuned, _ = made
    change = merged(model, tuned, tmp_path / "run", exclude=("embed", r"norm\.weight$"), epochs=1, hidden=4)
    from keeps.weights import load_tensors

    assert not [
        name for name in load_tensors(change.folder / "shared.safetensors") if "embed" in name or "norm.w" in name
    ]
    changed = change.apply(model)
    assert not [name for name in changed.twin.layers if "embed" in name or "norm" in name]
    changed.undo()


def test_wrong_input_is_refused_before_anything_is_written(made: Any, tmp_path: Path) -> None:
    model, change, tuned, _ = made
    state = state_of(model)
    method = Twin(TwinSettings(epochs=1, hidden=4))
    other = pico("llama", model.tokenizer, seed=3)
    foreign = adapter_folder(other, tmp_path / "foreign", 1, ("q_proj",))
    broken = whole_folder(
        model, tmp_path / "nan", {**moved(model, 1), "model.norm.weight": torch.full((32,), torch.nan)}
    )
    cases: list[tuple[list[FineTune], str]] = [
        ([], "no fine-tune"),
        ([tuned[0], FineTune("sums", tuned[1].folder, PROMPTS["towns"])], "two fine-tunes"),
        ([FineTune("../x", tuned[0].folder)], "cannot be the name"),
        ([FineTune("x", tmp_path / "absent")], "no such folder"),
        ([tuned[0], FineTune("y", tuned[1].folder, ("one",))], "no router can learn"),
        ([FineTune("x", foreign)], "made for a base"),
        ([FineTune("x", broken)], "NaN or infinity"),
        ([FineTune("x", change.folder)], "beside the weights"),
        ([FineTune("x", whole_folder(model, tmp_path / "same", moved(model, 1, size=0.0)))], "moved anything"),
    ]
    for number, (given, message) in enumerate(cases):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        with pytest.raises(KeepsError, match=message):
            method(model, given, run=Run(folder))
        assert list(folder.iterdir()) == []
        assert same_bits(model, state)
    wrong: list[dict[str, Any]] = [{"rank": 2, "energy": 0.5}, {"exclude": ("(",)}, {"density": 0.0}]
    wrong.append({"scale": float("nan")})
    for settings in wrong:
        with pytest.raises(SettingsError):
            TwinSettings(**settings)


def test_listing_the_ways_to_merge_loads_no_tensor_library() -> None:
    code = "import sys, keeps.registry as r; r.methods('merge'); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"

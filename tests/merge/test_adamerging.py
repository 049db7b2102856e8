"""AdaMerging: task arithmetic without steps, gradients of the coefficients, and an entropy that falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import PROMPTS, fine_tunes, same_bits, state_of
from pico_models import pico
from torch.func import functional_call

from keeps.contracts import Run
from keeps.errors import KeepsError, SettingsError, TrainingError
from keeps.jobs.merging import merge
from keeps.merge.adamerging import AdaMerging, AdaMergingSettings, group_of, mixed, projected
from keeps.models import LanguageModel
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.fine_tunes import FineTune
from keeps.weights import load_tensors


@pytest.fixture(scope="module")
def three(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = pico("llama", tokenizer)
    folder = tmp_path_factory.mktemp("adamerging")
    tuned, values = fine_tunes(model, folder)
    save_checkpoint(model.model, tokenizer, folder / "base")
    return model, tuned, values, folder / "base"


def merged_by(model: LanguageModel, tuned: list[FineTune], folder: Path, **settings: Any) -> Any:
    folder.mkdir()
    return AdaMerging(AdaMergingSettings(**settings))(model, tuned, run=Run(folder))


def entropy_on(model: LanguageModel, values: dict[str, torch.Tensor], prompts: Any) -> torch.Tensor:
    """Mean entropy of the next token, one prompt at a time, in float64; differentiable in ``values``."""
    found = []
    for prompt in prompts:
        logits = functional_call(model.model, values, (torch.tensor([model.encode_prompt(prompt)]),)).logits[0, -1]
        logp = logits.double().log_softmax(-1)
        found.append(-(logp.exp() * logp).sum())
    return torch.stack(found).mean()


@pytest.mark.parametrize("level", ["layer", "tensor", "task"])
def test_without_steps_it_is_task_arithmetic(level: str, three: Any, tmp_path: Path) -> None:
    """Against the merge of files, which shares no arithmetic with it."""
    model, tuned, _, base = three
    merged_by(model, tuned, tmp_path / "run", steps=0, start=0.3, level=level)
    merge([str(item.folder) for item in tuned], str(base), settings={"scale": 0.3}, out=tmp_path / "files")
    found, wanted = (load_tensors(tmp_path / name / "model.safetensors") for name in ("run", "files"))
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in found)


def test_coefficients_get_the_gradient_of_the_entropy(three: Any) -> None:
    """<dH/dtheta, tau> against a derivative through the merged weights themselves."""
    model, _, values, _ = three
    base = {name: value.detach() for name, value in model.model.named_parameters()}
    taus = {name: [each[name] - base[name] for each in values] for name in base}
    table = torch.full((len(base), 3), 0.3, dtype=torch.float64, requires_grad=True)
    merged = {
        name: value + sum(c.float() * tau for c, tau in zip(table[row], taus[name], strict=True))
        for row, (name, value) in enumerate(base.items())
    }
    (wanted,) = torch.autograd.grad(entropy_on(model, merged, PROMPTS["towns"][:2]), table)
    plain = {name: value.detach().requires_grad_(True) for name, value in merged.items()}
    gradients = torch.autograd.grad(entropy_on(model, plain, PROMPTS["towns"][:2]), list(plain.values()))
    found = torch.stack([projected(g, taus[name]) for g, name in zip(gradients, plain, strict=True)])
    assert float(wanted.abs().max()) > 1e-4
    assert torch.allclose(found.double(), wanted, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("level", ["layer", "task"])
def test_the_entropy_that_is_minimised_falls(level: str, three: Any, tmp_path: Path) -> None:
    """Measured here on every prompt, before and after; other random numbers of the caller are left alone."""
    model, tuned, values, _ = three
    state, chance = state_of(model), torch.get_rng_state()
    change = merged_by(model, tuned, tmp_path / "run", steps=12, learning_rate=0.1, batch_size=8, level=level)
    assert same_bits(model, state)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(parameter.grad is None for parameter in model.model.parameters())
    base = {name: value.detach() for name, value in model.model.named_parameters()}
    start = {
        name: base[name] + mixed([each[name] - base[name] for each in values], torch.full((3,), 0.3)) for name in base
    }
    learned = load_tensors(tmp_path / "run" / "model.safetensors")
    with torch.no_grad():
        before, after = (
            sum(float(entropy_on(model, found, prompts)) for prompts in PROMPTS.values()) / 3
            for found in (start, learned)
        )
    assert after < before - 0.05
    measures = change.record.measures
    assert measures["first_entropy"] == pytest.approx(before, abs=1e-3)
    groups = {"layer": {"block 0", "block 1", "block 2", "model.norm", "model.embed_tokens"}, "task": {"all"}}
    assert set(measures["coefficients"]) == groups[level]


def test_coefficients_that_are_written_down_are_those_of_the_weights(three: Any, tmp_path: Path) -> None:
    model, tuned, values, _ = three
    change = merged_by(model, tuned, tmp_path / "run", steps=3, learning_rate=0.2, clamp=True, level="tensor")
    found, base = load_tensors(tmp_path / "run" / "model.safetensors"), dict(model.model.named_parameters())
    table = change.record.measures["coefficients"]
    assert set(table) == set(base)
    for name, row in table.items():
        assert all(0 <= value <= 1 for value in row.values())
        wanted = base[name].detach() + sum(
            row[task] * (each[name] - base[name].detach()) for task, each in zip(PROMPTS, values, strict=True)
        )
        assert torch.allclose(found[name], wanted, atol=1e-6)
    assert len({value for row in table.values() for value in row.values()}) > 3


def test_trimmed_vectors_keep_the_largest_entries_of_the_whole_model(three: Any, tmp_path: Path) -> None:
    model, tuned, values, _ = three
    merged_by(model, tuned[:1], tmp_path / "run", steps=0, start=1.0, density=0.2)
    found, base = load_tensors(tmp_path / "run" / "model.safetensors"), dict(model.model.named_parameters())
    taus = {name: values[0][name] - base[name].detach() for name in base}
    flat = torch.cat([tau.abs().flatten() for tau in taus.values()]).sort(descending=True).values
    least = flat[round(0.2 * len(flat)) - 1]
    for name, tau in taus.items():
        wanted = base[name].detach() + torch.where(tau.abs() >= least, tau, 0.0)
        assert torch.allclose(found[name], wanted, atol=1e-6)


def test_groups_are_blocks_tensors_or_all() -> None:
    name = "transformer.h.11.attn.c_attn.bias"
    assert [group_of(name, level) for level in ("layer", "tensor", "task")] == ["block 11", name, "all"]


def test_wrong_input_and_a_loss_that_is_no_number_leave_the_model_as_it_was(
    three: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tuned, _, _ = three
    state, flags = state_of(model), [parameter.requires_grad for parameter in model.model.parameters()]
    with pytest.raises(KeepsError, match="has none"):
        merged_by(model, [FineTune("bare", tuned[0].folder)], tmp_path / "a")
    long = FineTune("long", tuned[0].folder, ("word " * 400,))
    with pytest.raises(KeepsError, match="tokens"):
        merged_by(model, [long], tmp_path / "b")
    monkeypatch.setattr(AdaMerging, "_entropy", lambda *_: float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        merged_by(model, tuned, tmp_path / "c", steps=2)
    assert same_bits(model, state)
    assert [parameter.requires_grad for parameter in model.model.parameters()] == flags
    with pytest.raises(SettingsError):
        AdaMergingSettings(density=0.0)

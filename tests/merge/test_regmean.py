"""RegMean: the least-squares solution over inputs that are recorded here, layer by layer, in both layouts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fine_tune_folders import PROMPTS, adapter_folder, fine_tunes, same_bits, state_of
from pico_models import pico

from keeps.contracts import Run
from keeps.data.records import Example, Passage, RecordSet
from keeps.errors import KeepsError
from keeps.merge.regmean import RegMean, RegMeanSettings
from keeps.models import LanguageModel
from keeps.models.adapters import overwritten
from keeps.models.fine_tunes import FineTune
from keeps.models.locate import is_linear, is_transposed
from keeps.training.examples import tokenise
from keeps.weights import load_tensors


def records_of(task: str) -> RecordSet:
    """As many tokens as make the Gram matrices of layers of 48 inputs regular: all prompts and some running text."""
    asked = tuple(Example(f"{task}{n}", prompt, "Norway") for n, prompt in enumerate(PROMPTS[task]))
    return RecordSet(task, (*asked, Passage(f"{task}-text", " ".join(reversed(PROMPTS[task])))))


def merged_by(model: LanguageModel, tuned: list[FineTune], folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    folder.mkdir()
    RegMean(RegMeanSettings(**settings))(model, tuned, run=Run(folder))
    return load_tensors(folder / "model.safetensors")


def inputs_of(model: LanguageModel, item: FineTune, values: dict[str, torch.Tensor], names: list[str]) -> Any:
    """X of each named layer in a fine-tune, ``(tokens, in)``: one text after the other, without padding."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def watch(name: str, module: Any, given: Any) -> None:
        del module
        seen[name].append(given[0][0])

    hooks = [model.model.get_submodule(name).register_forward_pre_hook(partial(watch, name)) for name in names]
    assert item.records is not None
    with torch.no_grad(), overwritten(dict(model.model.named_parameters()), values.items()):
        for example in tokenise(model, item.records):
            model.model(torch.tensor([example.input_ids]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(each).double().numpy() for name, each in seen.items()}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ["model.layers.1.self_attn.k_proj", "model.layers.1.mlp.gate_proj", "model.layers.2.mlp.down_proj"]),
        ("gpt2", ["transformer.h.1.attn.c_attn", "transformer.h.2.mlp.c_proj"]),
    ],
)
@pytest.mark.parametrize(("alpha", "per_token"), [(1.0, False), (0.9, False), (0.1, True)])
def test_layers_are_the_least_squares_solution(
    kind: str, names: list[str], alpha: float, per_token: bool, tokenizer: Any, tmp_path: Path
) -> None:
    """argmin sum_t |X_t (W - W_t)|^2, off-diagonals times alpha: as rows of sqrt(alpha) X and sqrt(1 - alpha) diag."""
    model = pico(kind, tokenizer)
    tuned, values = fine_tunes(model, tmp_path)
    tuned = [FineTune(item.name, item.folder, (), records_of(item.name)) for item in tuned]
    state = state_of(model)
    found = merged_by(model, tuned, tmp_path / "run", alpha=alpha, per_token=per_token)
    assert same_bits(model, state)
    inputs = [inputs_of(model, item, each, names) for item, each in zip(tuned, values, strict=True)]
    for name in names:
        turned = is_transposed(model.model.get_submodule(name))
        rows, wanted = [], []
        for x, each in zip((item[name] for item in inputs), values, strict=True):
            weight = each[f"{name}.weight"].double().numpy()
            weight = weight if turned else weight.T
            share = 1 / len(x) if per_token else 1.0
            stacked = np.concatenate(
                [np.sqrt(alpha * share) * x, np.diag(np.sqrt((1 - alpha) * share * (x * x).sum(0)))]
            )
            rows.append(stacked)
            wanted.append(stacked @ weight)
        solution, _, rank, _ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)
        assert rank == len(solution)
        weight = found[f"{name}.weight"].double().numpy()
        weight = weight if turned else weight.T
        assert np.abs(weight - solution).max() < 2e-4 * np.abs(solution).max(), name


def test_everything_else_is_averaged(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("qwen2", tokenizer)
    tuned, values = fine_tunes(model, tmp_path)
    tuned = [FineTune(item.name, item.folder, (), records_of(item.name)) for item in tuned]
    found = merged_by(model, tuned, tmp_path / "run")
    modules = dict(model.model.named_modules())
    head = model.model.get_output_embeddings()  # type: ignore[operator]
    for name in values[0]:
        owner = modules[name.rpartition(".")[0]]
        mean = torch.stack([each[name] for each in values]).mean(0)
        linear = is_linear(owner) and owner is not head and name.endswith("weight")
        assert torch.allclose(found[name], mean, atol=1e-6) != linear, name


def test_equal_fine_tunes_come_back_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    """Of two adapters that are the same one; also what they did not move keeps the base's bits."""
    model = pico("llama", tokenizer)
    folders = [adapter_folder(model, tmp_path / str(n), 3, ("v_proj", "down_proj")) for n in range(2)]
    tuned = [FineTune(task, folder, (), records_of(task)) for task, folder in zip(PROMPTS, folders, strict=False)]
    found = merged_by(model, tuned, tmp_path / "run")
    base = {name: value.detach() for name, value in model.model.named_parameters()}
    for name, value in base.items():
        if name.endswith(("v_proj.weight", "down_proj.weight")):
            layer = name.removesuffix(".weight")
            factors = load_tensors(folders[0] / "adapter_model.safetensors")
            a, b = (factors[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
            assert torch.allclose(found[name], value + 2.0 * b @ a, atol=1e-5), name
        else:
            assert torch.equal(found[name], value), name


def test_a_task_without_texts_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    folder = adapter_folder(model, tmp_path / "a", 1, ("q_proj",))
    with pytest.raises(KeepsError, match="--texts bare=FILE"):
        merged_by(model, [FineTune("bare", folder)], tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []

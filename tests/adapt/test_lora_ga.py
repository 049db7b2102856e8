"""LoRA-GA: the contract, gradients as autograd gives them, and a first step that is the best of rank 2r."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_starts import (
    check_doubled,
    check_refuses_the_starts_of_another_job,
    check_resumes_from_its_stored_start,
    check_step_zero_equals_the_base,
    peft_products,
    starts_of,
)
from torch import Tensor

from keeps.data.records import Passage, RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError, StatisticsError, TargetError
from keeps.models.targets import find_targets
from keeps.training.batches import TokenizedExample, collate
from keeps.training.examples import tokenise
from keeps.training.gradients import groups, layer_gradients
from keeps.training.losses import AnswerLoss

ALL = 1000  # more examples than there are


def autograd(contract: Any, targets: tuple[str, ...]) -> dict[str, Tensor]:
    """The gradient of the mean loss over all examples in one pass, by the weights themselves."""
    model = contract.model
    examples = tokenise(model, contract.learn)
    layers = find_targets(model.model, targets)
    loss = AnswerLoss(model.model)(collate(examples, model.encoder.pad_token_id))
    tokens = sum(example.answer_tokens for example in examples)
    found = torch.autograd.grad(loss / tokens, [layer.weight for layer in layers.values()])
    return dict(zip(layers, found, strict=True))


def collected(contract: Any, targets: tuple[str, ...] = ("all-linear",), **options: Any) -> dict[str, Tensor]:
    model = contract.model
    layers = find_targets(model.model, targets)
    pad = model.encoder.pad_token_id
    return dict(layer_gradients(model.model, layers, tokenise(model, contract.learn), pad_token_id=pad, **options))


def test_it_learns(contract: Any) -> None:
    # Factors as long as gamma = 16 makes them drown the weights of a model of width 32.
    contract.check_learns("lora_ga", rank=8, gamma=64.0)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("lora_ga", rank=2, targets="q_proj", gradient_examples=5)


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("lora_ga", rank=2, alpha=8.0, rank_stabilised=True, rank_pattern={"q_proj": 5}, gamma=64.0)


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("lora_ga", rank=2)


@pytest.mark.parametrize("variant", ["paper", "peft"])
def test_step_zero_equals_the_base(contract: Any, variant: str) -> None:
    check_step_zero_equals_the_base(contract, "lora_ga", reduced=True, rank=4, alpha=8.0, variant=variant)


def test_the_adapter_on_disk_has_twice_the_rank_and_every_form_is_exact(contract: Any) -> None:
    check_doubled(contract, "lora_ga")


def test_a_stopped_run_continues_from_its_start(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_resumes_from_its_stored_start(contract, monkeypatch, tmp_path, "lora_ga")


def test_starts_of_another_job_are_refused(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_refuses_the_starts_of_another_job(contract, monkeypatch, tmp_path, "lora_ga")


# --- the gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [1000.0, 0.02, 1e-9])
@pytest.mark.parametrize("batch_size", [3, 12])
def test_gradients_are_those_of_autograd_in_however_many_groups_and_batches(
    contract: Any, memory: float, batch_size: int
) -> None:
    found = collected(contract, batch_size=batch_size, memory=memory)
    wanted = autograd(contract, ("all-linear",))
    assert list(found) == list(wanted)
    for name, gradient in wanted.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


def test_groups_fit_into_the_memory_and_hold_every_layer_once(contract: Any) -> None:
    layers = find_targets(contract.model.model)
    size = {name: layer.weight.numel() * 4 / 2**20 for name, layer in layers.items()}
    limit = 3 * max(size.values())
    found = groups(layers, limit)
    assert [name for part in found for name in part] == list(layers)
    assert len(found) > 1
    assert all(sum(size[name] for name in part) <= limit for part in found)
    assert groups(layers, 1e-9) == [[name] for name in layers]


def test_a_model_that_was_training_is_given_back_as_it_was(contract: Any) -> None:
    module = contract.model.model
    module.train()
    try:
        collected(contract, ("q_proj",), batch_size=4)
        assert all(part.training for part in module.modules())
        assert not any(part._forward_hooks for part in module.modules())
    finally:
        module.eval()


def test_examples_without_an_answer_are_refused(contract: Any) -> None:
    layers = find_targets(contract.model.model, ("q_proj",))
    with pytest.raises(EmptySetError, match="no answer token"):
        list(layer_gradients(contract.model.model, layers, [TokenizedExample((5, 6), 2)], batch_size=1, pad_token_id=0))


# --- the start --------------------------------------------------------------------------------


def test_the_first_step_is_the_best_approximation_of_the_gradient_of_rank_2r(contract: Any) -> None:
    starts = starts_of(contract, "lora_ga", rank=3, gamma=9.0, gradient_examples=ALL)
    for name, gradient in autograd(contract, ("all-linear",)).items():
        g, start = gradient.double(), starts[name]
        square = g.shape[0] ** 0.5 / 9.0  # c^2
        u, values, vt = torch.linalg.svd(g, full_matrices=False)
        best = u[:, :6] * values[:6] @ vt[:6]
        step = start.b @ start.b.T @ g + g @ start.a.T @ start.a
        torch.testing.assert_close(step, square * best, rtol=1e-3, atol=1e-4 * float(best.abs().max()))
        torch.testing.assert_close(start.a @ start.a.T, square * torch.eye(3, dtype=torch.float64))


def test_the_variant_is_the_start_of_peft(contract: Any) -> None:
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    examples = tokenise(contract.model, contract.learn)
    batch = collate(examples, contract.model.encoder.pad_token_id)
    tokens = sum(example.answer_tokens for example in examples)

    def prepare(model: Any, config: Any) -> None:
        preprocess_loraga(model, config, lambda: (AnswerLoss(model)(batch) / tokens).backward())

    config = LoraGAConfig(direction="ArB2r", scale="stable", stable_gamma=16)
    theirs = peft_products(
        contract,
        ["q_proj", "down_proj"],
        r=8,
        lora_alpha=8,
        init_lora_weights="lora_ga",
        lora_ga_config=config,
        prepare=prepare,
    )
    starts = starts_of(contract, "lora_ga", rank=8, targets="q_proj,down_proj", variant="peft", gradient_examples=ALL)
    assert theirs.keys() == starts.keys()
    for name, (a, b, _) in theirs.items():
        start = starts[name]
        signs = (start.a * a).sum(dim=1).sign()[:, None]  # of each pair of singular vectors
        torch.testing.assert_close(start.a, signs * a, rtol=1e-2, atol=2e-3)
        other = (start.b * b).sum(dim=0).sign()
        torch.testing.assert_close(start.b, b * other, rtol=1e-2, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"gamma": 0}, SettingsError),
        ({"gradient_examples": 0}, SettingsError),
        ({"variant": "both"}, SettingsError),
        ({"rank": 17}, TargetError),  # 2r exceeds the 32 of the narrow side
        ({"rank": 4, "rank_pattern": {"k_proj": 9}}, TargetError),
    ],
)
def test_bad_settings_are_refused(contract: Any, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract.run("lora_ga", **values)


def test_a_gradient_that_is_no_number_names_the_layer(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import keeps.adapt.lora_ga as module

    monkeypatch.setattr(
        module,
        "layer_gradients",
        lambda *_, **__: iter([("model.layers.0.self_attn.q_proj", torch.full((32, 32), torch.nan))]),
    )
    with pytest.raises(StatisticsError, match=r"NaN or infinity .*layers\.0\.self_attn\.q_proj"):
        contract.run("lora_ga", rank=2, targets="q_proj")


def test_text_without_two_tokens_is_refused(contract: Any) -> None:
    contract.learn = RecordSet("blank", (Passage("a", "x"),))
    with pytest.raises(RecordError):
        contract.run("lora_ga", rank=2)

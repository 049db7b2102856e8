"""Covariances of real layer inputs: against a naive computation, over batch shapes, processes and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from keeps.contracts import Run, SilentProgress
from keeps.errors import EmptySetError, SettingsError, StatisticsError, TargetError
from keeps.models.covariances import collect_covariance, merge_covariances, token_batches
from keeps.models.targets import find_targets
from keeps.numerics.covariance import NORMALISATIONS, Covariance

LENGTHS = (3, 9, 5, 9, 1, 7)


def samples(seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 61, (length,), generator=generator).tolist() for length in LENGTHS]


def naive(model: Any, sequences: list[list[int]], normalise: str) -> dict[str, Tensor]:
    """One sample at a time, nothing shared, in float64: C = (1/n) sum of X^T X, each X divided by its scale."""
    totals: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def collect(_: Any, inputs: tuple[Tensor, ...], __: Any) -> None:
            x = inputs[0].detach().double().flatten(0, -2)
            scale = {"absmax": x.abs().max(), "max": x.max(), "none": torch.tensor(1.0)}[normalise]
            totals[name] = totals.get(name, 0) + (x / scale).T @ (x / scale)

        return collect

    handles = [layer.register_forward_hook(hook(name)) for name, layer in find_targets(model).items()]
    with torch.no_grad():
        for sequence in sequences:
            model(torch.tensor([sequence]))
    for handle in handles:
        handle.remove()
    return {name: total / len(sequences) for name, total in totals.items()}


def assert_close(found: dict[str, Covariance], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        error = (found[name].matrix().double() - wanted.double()).abs().max() / wanted.abs().max()
        assert error < tolerance, (name, float(error))


def matrices(found: dict[str, Covariance]) -> dict[str, Tensor]:
    return {name: covariance.matrix() for name, covariance in found.items()}


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_one_pass_over_padded_batches_equals_a_naive_pass_over_single_samples(
    bare_llama: Callable[..., Any], normalise: Any
) -> None:
    model = bare_llama()
    batches = token_batches(samples(), pad_token_id=0, token_budget=20)
    found = collect_covariance(model, batches, normalise=normalise)
    assert_close(found, naive(model, samples(), normalise))
    for covariance in found.values():
        assert (covariance.n_samples, covariance.n_tokens) == (len(LENGTHS), sum(LENGTHS))


@pytest.mark.parametrize("budget", [1, 10, 10_000])
@pytest.mark.parametrize("pad", [0, 7])
def test_batch_size_and_padding_do_not_matter(bare_llama: Callable[..., Any], budget: int, pad: int) -> None:
    model = bare_llama()
    reference = collect_covariance(model, [{"input_ids": torch.tensor([sample])} for sample in samples()])
    batches = token_batches(samples(), pad_token_id=pad, token_budget=budget)
    assert_close(collect_covariance(model, batches), matrices(reference))


def test_padding_on_the_left_and_rows_of_padding_alone_do_not_count(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    rows = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 3, 4, 5], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    alone = ([5, 6, 7], [8, 9, 3, 4, 5])
    reference = collect_covariance(model, [{"input_ids": torch.tensor([sample])} for sample in alone])
    assert_close(collect_covariance(model, [{"input_ids": rows, "attention_mask": mask}]), matrices(reference))


def test_token_batches_hold_every_sequence_once_within_the_budget() -> None:
    batches = token_batches(samples(), pad_token_id=0, token_budget=20)
    kept = [row[mask.bool()].tolist() for b in batches for row, mask in zip(*b.values(), strict=True)]
    assert sorted(kept) == sorted(samples())
    assert all(batch["input_ids"].numel() <= 20 for batch in batches)
    assert max(batch["input_ids"].shape[0] for batch in batches) > 1


def test_layers_that_read_one_tensor_share_one_matrix(bare_llama: Callable[..., Any]) -> None:
    found = collect_covariance(bare_llama(), token_batches(samples(), pad_token_id=0))
    block = "model.layers.1."
    q, k, v, gate, up = (
        found[block + name]
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    )
    assert q is k is v
    assert gate is up
    assert len({id(covariance) for covariance in found.values()}) == 2 * 4


def test_targets_choose_what_is_collected(bare_llama: Callable[..., Any]) -> None:
    model, batches = bare_llama(), token_batches(samples(), pad_token_id=0)
    found = collect_covariance(model, batches, ("k_proj", "down_proj"))
    assert list(found) == list(find_targets(model, ("k_proj", "down_proj")))
    assert_close(found, {name: c.matrix() for name, c in collect_covariance(model, batches).items() if name in found})
    with pytest.raises(TargetError):
        collect_covariance(model, batches, ("kproj",))


def test_sums_may_be_float64_but_not_half(bare_llama: Callable[..., Any]) -> None:
    model, batches = bare_llama(), token_batches(samples(), pad_token_id=0)
    wide = collect_covariance(model, batches, dtype=torch.float64)
    assert {covariance.total.dtype for covariance in wide.values()} == {torch.float64}
    assert_close(wide, naive(model, samples(), "absmax"))
    with pytest.raises(SettingsError, match="float16"):
        collect_covariance(model, batches, dtype=torch.float16)


def test_two_halves_merge_into_the_whole_and_keep_sharing(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    first, second = (
        collect_covariance(model, token_batches(part, pad_token_id=0)) for part in (samples()[:2], samples()[2:])
    )
    merged = merge_covariances(first, second)
    assert_close(merged, matrices(collect_covariance(model, token_batches(samples(), pad_token_id=0))))
    assert len({id(covariance) for covariance in merged.values()}) == 2 * 4
    assert merged["model.layers.0.mlp.up_proj"].n_tokens == sum(LENGTHS)
    del second["model.layers.0.mlp.up_proj"]
    with pytest.raises(StatisticsError, match=r"model\.layers\.0\.mlp\.up_proj"):
        merge_covariances(first, second)


def test_a_collection_can_be_extended_after_it_was_made(bare_llama: Callable[..., Any]) -> None:
    found = collect_covariance(bare_llama(), token_batches(samples(), pad_token_id=0), ("q_proj",))
    covariance = next(iter(found.values()))
    covariance.add(torch.ones(1, 2, 24))
    assert covariance.n_tokens == sum(LENGTHS) + 2


# --- architectures of other shapes ------------------------------------------------------------


class Flat(nn.Module):
    """Flattens rows and time before its layer, as some feed-forward blocks do; ``route`` leaves a token out."""

    def __init__(self, *, route: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer, self.route = nn.Embedding(61, 4), nn.Linear(4, 3), route

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Tensor:
        del attention_mask, use_cache
        x = self.table(input_ids).flatten(0, 1)
        return self.layer(x[1:] if self.route else x)


def test_a_layer_that_sees_rows_and_time_flattened_is_masked_too() -> None:
    model = Flat()
    one_by_one = collect_covariance(model, [{"input_ids": torch.tensor([sample])} for sample in samples()])
    padded = collect_covariance(model, token_batches(samples(), pad_token_id=0))
    assert_close(padded, matrices(one_by_one))
    assert padded["layer"].n_samples == len(LENGTHS)


def test_a_list_of_tokens_that_may_hold_padding_is_refused() -> None:
    model = Flat(route=True)
    assert collect_covariance(model, [{"input_ids": torch.tensor([[1, 2, 3]])}])["layer"].n_tokens == 2
    with pytest.raises(StatisticsError, match=r"which tokens are padding \(layer\)"):
        collect_covariance(model, token_batches([[1, 2, 3], [4]], pad_token_id=0))


class Turning(nn.Module):
    """Two layers that share their input in the first batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b, self.calls = nn.Embedding(61, 4), nn.Linear(4, 3), nn.Linear(4, 3), 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Tensor:
        del attention_mask, use_cache
        self.calls += 1
        x = self.table(input_ids)
        return self.a(x) + self.b(x if self.calls == 1 else x + 1)


def test_layers_that_stop_sharing_their_input_are_refused() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 3]])}
    with pytest.raises(StatisticsError, match="in one batch and not in the next"):
        collect_covariance(Turning(), [batch, batch])


# --- failures leave the model as it was -------------------------------------------------------


def hooks_of(model: Any) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def failing(batches: list[Any]) -> Iterator[Any]:
    yield batches[0]
    raise KeyboardInterrupt


def test_hooks_and_training_mode_are_given_back_after_success_and_after_an_exception(
    bare_llama: Callable[..., Any],
) -> None:
    model, batches = bare_llama().train(), token_batches(samples(), pad_token_id=0)
    model.model.layers[0].eval()  # a part that was in another mode stays in it
    modes = [module.training for module in model.modules()]
    seen = []
    model.model.register_forward_pre_hook(lambda module, *_: seen.append(module.training))
    hooks = hooks_of(model)
    collect_covariance(model, batches)
    with pytest.raises(KeyboardInterrupt):
        collect_covariance(model, failing(batches))
    assert hooks_of(model) == hooks
    assert [module.training for module in model.modules()] == modes
    assert seen == [False] * (len(batches) + 1), "calibration runs without dropout"


def test_no_batches_are_refused(bare_llama: Callable[..., Any]) -> None:
    with pytest.raises(EmptySetError, match="no calibration sample"):
        collect_covariance(bare_llama(), [])


def test_weights_that_are_not_finite_are_refused_with_the_layer(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = torch.nan
    with pytest.raises(StatisticsError, match=r"not finite \(model\.layers\.1\.self_attn\.q_proj\)"):
        collect_covariance(model, token_batches(samples(), pad_token_id=0))
    assert hooks_of(model) == 0


def test_a_layer_that_no_token_reaches_says_so_when_its_matrix_is_read(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    model.add_module("unused", nn.Linear(24, 3))
    found = collect_covariance(model, token_batches(samples(), pad_token_id=0))
    assert found["model.layers.0.mlp.up_proj"].n_samples == len(LENGTHS)
    with pytest.raises(StatisticsError, match=r"no token reached this layer.*\(unused\)"):
        found["unused"].matrix()


def test_progress_advances_once_a_batch(bare_llama: Callable[..., Any], tmp_path: Path) -> None:
    told: list[Any] = []

    class Bars(SilentProgress):
        def task(self, description: str, total: float | None, done: float = 0) -> Any:
            told.append((description, total))
            task = super().task(description, total, done)
            task.advance = lambda amount=1: told.append(amount)  # type: ignore[method-assign]
            return task

    batches = token_batches(samples(), pad_token_id=0, token_budget=10)
    collect_covariance(bare_llama(), batches, run=Run(tmp_path, progress=Bars()), total=len(batches))
    assert told == [("covariance", len(batches)), *[1] * len(batches)]

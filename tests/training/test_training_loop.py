"""The loop: what it minimises, that it repeats itself, and what is left when something goes wrong."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run, SilentProgress
from keeps.errors import (
    EmptySetError,
    InterruptedRunError,
    SettingsError,
    StorageError,
    TargetError,
    TrainingError,
)
from keeps.training import TrainingHistory, TrainingSettings, loop, train
from keeps.weights import load_tensors


def fit(tiny: Any, folder: Path, kind: str = "full", **options: Any) -> tuple[dict[str, torch.Tensor], TrainingHistory]:
    """Train a tiny model; returns the trained tensors and the history."""
    model = options.pop("model", None) or tiny.model(kind, dropout=options.pop("dropout", 0.0))
    run = options.pop("run", None) or Run(folder, seed=options.pop("seed", 0), resume=options.pop("resume", False))
    hooks = {name: options.pop(name) for name in ("regulariser", "after_step") if name in options}
    examples = options.pop("examples", None) or tiny.examples()
    settings = TrainingSettings(**{"epochs": 2, "learning_rate": 0.01, **options})
    history = train(model, examples, settings, run, pad_token_id=0, **hooks)
    return tiny.trained(model), history


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns(tiny: Any, tmp_path: Path) -> None:
    examples = [type(e)((n + 1, *e.input_ids), e.answer_start + 1) for n, e in enumerate(tiny.examples(8))]
    _, history = fit(tiny, tmp_path, epochs=80, batch_size=8, learning_rate=0.02, examples=examples, stop_loss=0.05)
    assert history.losses[0] > 3.5  # about log 61, the loss of a guess
    assert history.losses[-1] < 0.05
    assert history.stopped_early
    assert history.steps == len(history.losses) == len(history.epoch_losses) < 80


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_accumulation_gives_the_step_of_the_whole_batch(tiny: Any, tmp_path: Path, kind: str) -> None:
    whole, _ = fit(tiny, tmp_path / "a", kind, batch_size=16, learning_rate=1e-3)
    parts, _ = fit(tiny, tmp_path / "b", kind, batch_size=4, accumulation=4, learning_rate=1e-3)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)


def test_one_step_is_adamw_on_the_mean_over_all_answer_tokens(tiny: Any, tmp_path: Path) -> None:
    examples = tiny.examples(6)
    found, _ = fit(tiny, tmp_path, examples=examples, steps=1, batch_size=6, warmup=0, clip=0.1)
    model = tiny.model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    losses = []
    for example in examples:
        ids = torch.tensor([example.input_ids])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        losses += [-logprobs[at - 1, ids[0, at]] for at in range(example.answer_start, ids.shape[1])]
    torch.stack(losses).mean().backward()
    norm = torch.stack([value.grad.norm() for value in model.parameters()]).norm()
    assert norm > 0.1
    for value in model.parameters():
        value.grad *= 0.1 / norm
    optimiser.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=2e-5)


def test_a_seed_repeats_the_run_bit_by_bit_and_leaves_the_random_numbers_of_the_program_alone(
    tiny: Any, tmp_path: Path
) -> None:
    first, _ = fit(tiny, tmp_path, "lora", dropout=0.2, seed=1)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    model = tiny.model("lora", dropout=0.2)
    torch.set_rng_state(before)
    again, _ = fit(tiny, tmp_path, seed=1, model=model)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    other, _ = fit(tiny, tmp_path, "lora", dropout=0.2, seed=2)
    assert not same(first, other)


def test_two_runs_of_differing_precision_in_one_program_that_uses_accelerate_itself(tiny: Any, tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    own = Accelerator(cpu=True, mixed_precision="no")
    exact, _ = fit(tiny, tmp_path, precision="float32")
    rounded, _ = fit(tiny, tmp_path, precision="bfloat16")
    assert own.mixed_precision == "no"
    assert AcceleratorState().mixed_precision == "no"
    assert all(tensor.dtype == torch.float32 for tensor in rounded.values())
    assert not same(exact, rounded)
    for name, tensor in exact.items():
        torch.testing.assert_close(rounded[name], tensor, rtol=0, atol=0.15)


def test_the_regulariser_has_the_same_weight_whatever_the_accumulation(tiny: Any, tmp_path: Path) -> None:
    def pull(module: Any) -> torch.Tensor:
        return 0.5 * torch.stack([value.square().sum() for value in module.parameters()]).sum()

    results = [
        fit(tiny, tmp_path, regulariser=pull, batch_size=8 // parts, accumulation=parts, clip=1e9, learning_rate=1e-3)
        for parts in (1, 2, 4)
    ]
    plain, _ = fit(tiny, tmp_path, batch_size=8, clip=1e9, learning_rate=1e-3)
    for parts, _ in results[1:]:
        for name, tensor in parts.items():
            torch.testing.assert_close(tensor, results[0][0][name], rtol=1e-4, atol=1e-5)
    norms = [sum(float(tensor.square().sum()) for tensor in found.values()) for found in (results[0][0], plain)]
    assert norms[0] < norms[1]
    assert fit(tiny, tmp_path, regulariser=lambda module: None, batch_size=8, clip=1e9, learning_rate=1e-3)[1].steps


def test_the_hook_after_each_step_may_change_parameters_without_gradients(tiny: Any, tmp_path: Path) -> None:
    seen: list[int] = []

    def project(module: Any, step: int, optimiser: Any) -> None:
        assert not torch.is_grad_enabled()
        seen.append(step)
        for value in module.parameters():
            value.clamp_(-0.01, 0.01)

    found, history = fit(tiny, tmp_path, after_step=project)
    assert seen == list(range(1, history.steps + 1))
    assert max(float(tensor.abs().max()) for tensor in found.values()) <= 0.01


def test_measures_curves_and_progress_tell_the_same_story(tiny: Any, tmp_path: Path) -> None:
    told: list[Any] = []

    class Told(SilentProgress):
        def task(self, description: str, total: float | None, done: float = 0) -> Any:
            told.append((description, total, done))
            return super().task(description, total, done)

    run = Run(tmp_path, progress=Told())
    run.log(0, before=1.0)
    model = tiny.model("lora")
    _, history = fit(tiny, tmp_path, model=model, run=run, batch_size=8)
    assert told == [("training", 10, 0)]
    assert [value for name, _, value in run.curves if name == "loss"] == list(history.losses)
    assert [step for name, step, _ in run.curves if name == "learning_rate"] == list(range(1, 11))
    assert [value for name, _, value in run.curves if name == "epoch_loss"] == list(history.epoch_losses)
    assert run.curves[0] == ("before", 0, 1.0)
    assert run.measures["steps"] == 10
    assert run.measures["tokens"] == 2 * sum(len(example.input_ids) for example in tiny.examples())
    assert run.measures["trainable_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert run.measures["peak_memory_bytes"] > 50e6
    assert run.measures["tokens_per_second"] == pytest.approx(run.measures["tokens"] / run.measures["train_seconds"])
    assert all(value.grad is None for value in model.parameters())
    assert not (tmp_path / "checkpoint").exists()  # the run took less than checkpoint_every


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_ends_where_it_would_have(
    tiny: Any, tmp_path: Path, signal_number: int
) -> None:
    undisturbed, whole = fit(tiny, tmp_path / "a", dropout=0.1)

    def interrupt(module: Any, step: int, optimiser: Any) -> None:
        if step == 3:
            os.kill(os.getpid(), signal_number)

    handler = signal.getsignal(signal_number)
    with pytest.raises(InterruptedRunError, match=r"after step 3 of 6.*--resume"):
        fit(tiny, tmp_path / "b", dropout=0.1, after_step=interrupt)
    assert signal.getsignal(signal_number) == handler
    run = Run(tmp_path / "b", resume=True)
    resumed, history = fit(tiny, tmp_path / "b", dropout=0.1, run=run)
    assert same(undisturbed, resumed)
    assert history.losses == whole.losses
    assert history.epoch_losses == whole.epoch_losses
    assert len([name for name, _, _ in run.curves if name == "loss"]) == whole.steps


def test_without_resume_an_old_checkpoint_is_not_used(tiny: Any, tmp_path: Path) -> None:
    fit(tiny, tmp_path, checkpoint_every=0, steps=3)
    fresh, _ = fit(tiny, tmp_path, steps=3, warmup=0.5)
    assert same(fresh, fit(tiny, tmp_path / "other", steps=3, warmup=0.5)[0])


def test_resuming_a_finished_run_takes_no_step_and_another_job_is_refused(tiny: Any, tmp_path: Path) -> None:
    done, history = fit(tiny, tmp_path, checkpoint_every=0, stop_loss=10.0, epochs=5)
    assert history.stopped_early

    def never(module: Any, step: int, optimiser: Any) -> None:
        pytest.fail("no step may be taken")

    again, repeated = fit(tiny, tmp_path, stop_loss=10.0, epochs=5, resume=True, after_step=never)
    assert same(done, again)
    assert repeated.losses == history.losses
    with pytest.raises(StorageError, match="another job"):
        fit(tiny, tmp_path, stop_loss=10.0, epochs=6, resume=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_state_before_it(
    tiny: Any, tmp_path: Path, bad: float
) -> None:
    calls: list[None] = []

    def poison(module: Any) -> torch.Tensor:
        calls.append(None)
        return next(module.parameters()).sum() * (bad if len(calls) == 5 else 0.0)

    states: list[dict[str, torch.Tensor]] = []

    def remember(module: Any, step: int, optimiser: Any) -> None:
        states.append(tiny.trained(module))

    model = tiny.model()
    with pytest.raises(TrainingError, match=r"step 5 of 6 is not a finite.*checkpoint.*learning_rate.*precision"):
        fit(tiny, tmp_path, model=model, regulariser=poison, after_step=remember, precision="bfloat16")
    assert same(tiny.trained(model), states[3])
    (path,) = (tmp_path / "checkpoint").iterdir()
    kept = load_tensors(path)
    assert all(torch.equal(kept[f"value/{name}"], tensor) for name, tensor in states[3].items())


def test_parameters_that_are_no_numbers_do_not_overwrite_the_last_good_checkpoint(tiny: Any, tmp_path: Path) -> None:
    def ruin(module: Any, step: int, optimiser: Any) -> None:
        if step == 4:
            next(module.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError, match="the loss of step 5"):
        fit(tiny, tmp_path, after_step=ruin)
    assert not list((tmp_path / "checkpoint").glob("*"))


def test_what_cannot_be_trained_is_refused_with_a_reason(tiny: Any, tmp_path: Path) -> None:
    settings, run = TrainingSettings(), Run(tmp_path)
    with pytest.raises(EmptySetError):
        train(tiny.model(), [], settings, run, pad_token_id=0)
    with pytest.raises(SettingsError, match="bfloat16"):
        train(tiny.model().bfloat16(), tiny.examples(), settings, run, pad_token_id=0)
    with pytest.raises(TargetError):
        train(tiny.model().requires_grad_(False), tiny.examples(), settings, run, pad_token_id=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        train(tiny.model(), tiny.examples(), settings, Run(tmp_path / "file"), pad_token_id=0)


def test_an_adapter_learns_the_same_bits_whether_frozen_weights_are_cast_once_or_in_each_step(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, _ = fit(tiny, tmp_path, "lora", precision="bfloat16")
    monkeypatch.setattr(loop, "frozen_weights_in", lambda module, precision: nullcontext())
    each, _ = fit(tiny, tmp_path, "lora", precision="bfloat16")
    assert same(once, each)

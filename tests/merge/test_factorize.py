"""FactorLLM as a method: what it learns, what it leaves alone, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import same_bits, state_of
from pico_models import pico

from keeps.contracts import Run
from keeps.data.records import Passage, RecordSet
from keeps.errors import KeepsError, SettingsError
from keeps.merge.factorize import Factorize, FactorizeSettings
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.factored_files import FACTORED_FILE, FactoredChange
from keeps.models.logits import check_logits, largest_difference

TEXTS = RecordSet(
    "seven words",
    tuple(
        Passage(f"p{number}", f"The {first} {second} runs to the {third} and comes back before it is night again.", "p")
        for number, (first, second, third) in enumerate(
            (a, b, c) for a in ("old", "red") for b in ("dog", "cat") for c in ("sea", "hill", "town")
        )
    ),
)
WORDS = [passage.text for passage in TEXTS.passages()]
QUICK: dict[str, Any] = {"steps": 4, "batch_size": 4, "window": 64, "learning_rate": 1e-3}


def made(model: LanguageModel, folder: Path, **settings: Any) -> FactoredChange:
    folder.mkdir()
    return Factorize(FactorizeSettings(**{**QUICK, **settings}))(model, TEXTS, run=Run(folder, seed=1))


@pytest.mark.parametrize("train", ["router", "router+experts"])
def test_the_base_comes_back_bit_for_bit_and_so_does_the_change(train: str, tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    state, before = state_of(model), model.fingerprint
    logits = check_logits(model.model, tokenizer)
    change = made(model, tmp_path / "run", train=train)
    assert same_bits(model, state)
    assert not (tmp_path / "run" / "checkpoint").exists()
    loaded = load_change(tmp_path / "run")
    changed = loaded.apply(model)
    first = check_logits(changed.model, tokenizer)
    assert largest_difference(first, logits) > 0.01
    changed.undo()
    changed.undo()
    assert same_bits(model, state)
    assert model.fingerprint == before
    assert largest_difference(check_logits(model.model, tokenizer), logits) == 0
    again = change.apply(model)
    assert largest_difference(check_logits(again.model, tokenizer), first) == 0
    again.undo()


def test_the_router_learns_the_labels_and_the_random_one_does_not(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    found = {}
    for train, steps in (("router", 60), ("experts", 1)):
        options = {"steps": steps, "learning_rate": 2e-2, "prior_weight": 1.0}
        changed: Any = made(model, tmp_path / train, train=train, **options).apply(model)
        found[train] = changed.usage(WORDS)
        changed.undo()
    chance = 0.5
    assert float(found["router"].agreement.mean()) > 0.8
    assert abs(float(found["experts"].agreement.mean()) - chance) < 0.2
    for use in found.values():
        assert torch.allclose(use.shares.sum(1), torch.full((3,), 2.0, dtype=torch.float64))
        assert use.tokens == sum(len(model.encoder.text(text)) for text in WORDS)


def test_training_the_pieces_brings_the_loss_down(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)

    def loss(answerer: Any) -> float:
        scores = answerer.text_logprob(WORDS)
        return -sum(score.logprob for score in scores) / sum(score.tokens for score in scores)

    found = {}
    for train, steps in (("router", 1), ("router+experts", 30)):
        changed = made(model, tmp_path / train, train=train, steps=steps, learning_rate=1e-2).apply(model)
        found[train] = loss(changed)
        changed.undo()
    assert found["router+experts"] < found["router"] - 0.5


def test_with_all_pieces_active_and_untrained_the_change_is_the_base(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("gpt2", tokenizer)
    logits = check_logits(model.model, tokenizer)
    changed = made(model, tmp_path / "run", active=4, split="random", train="router").apply(model)
    apart = largest_difference(check_logits(changed.model, tokenizer), logits)
    assert apart < 1e-5 * float(logits[0].abs().max())
    dense, sparse = changed.multiply_adds  # type: ignore[attr-defined]
    assert dense == sparse == 3 * 2 * 32 * 32
    changed.undo()


@pytest.mark.parametrize("split", ["contiguous", "random", "clusters", "coactivation"])
def test_every_split_deals_all_channels_and_is_the_same_again(split: str, tokenizer: Any, tmp_path: Path) -> None:
    model = pico("qwen2", tokenizer)
    from keeps.weights.files import load_tensors

    tensors = [load_tensors(made(model, tmp_path / n, split=split).folder / FACTORED_FILE) for n in ("a", "b")]
    assert all(torch.equal(tensors[1][name], tensor) for name, tensor in tensors[0].items())
    orders = [tensor for name, tensor in tensors[0].items() if name.endswith(".order")]
    assert len(orders) == (0 if split == "contiguous" else 3)
    for order in orders:
        assert sorted(order.tolist()) == list(range(48))


def test_the_router_learns_first_where_it_is_told_to_and_one_block_alone_can_be_cut(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = pico("llama", tokenizer)
    change = made(model, tmp_path / "run", router_steps=3, layers=(1,), experts=5, pad=True, divergence="official")
    assert change.record.measures["steps"] == 7
    from keeps.weights.files import load_tensors

    tensors = load_tensors(change.folder / FACTORED_FILE)
    assert {name.split(".mlp.")[0] for name in tensors} == {"model.layers.1"}
    assert tensors["model.layers.1.mlp.up"].shape == (50, 32)
    assert float(tensors["model.layers.1.mlp.up"][48:].abs().max()) == 0  # padding stays empty while pieces are trained
    changed = change.apply(model)
    assert len(changed.wrapped.layers) == 1
    with changed.routed_by("prior"):
        assert len(check_logits(changed.model, tokenizer)) == 3
    with pytest.raises(SettingsError, match="no routing"), changed.routed_by("nonsense"):
        pass
    changed.undo()


def test_a_mixture_scores_continues_and_answers_as_every_model_does(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    changed = made(model, tmp_path / "run").apply(model)
    try:
        prompts, answers = ["The old dog runs to the", "The red"], ["sea", "cat"]
        together = [score.logprob for score in changed.logprob(prompts, answers)]
        alone = [changed.logprob([p], [a])[0].logprob for p, a in zip(prompts, answers, strict=True)]
        assert together == pytest.approx(alone, abs=1e-3)
        assert len(changed.generate(prompts, max_new_tokens=4)) == len(changed.answer(prompts)) == 2
    finally:
        changed.undo()


def test_settings_that_contradict_each_other_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"active": 5},
        {"experts": 1},
        {"train": "router", "prior_weight": 0.0},
        {"train": "router", "router_steps": 3},
        {"train": "experts", "router_steps": 3},
        {"split": "nonsense"},
    ]
    for options in wrong:
        with pytest.raises(SettingsError):
            FactorizeSettings(**options)


def test_wrong_input_is_refused_and_the_model_stays_as_it_is(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    state = state_of(model)
    cases: list[tuple[RecordSet, dict[str, Any]]] = [
        (RecordSet("none", ()), {}),
        (RecordSet("none", ()), {"split": "coactivation"}),
        (TEXTS, {"experts": 5}),
        (TEXTS, {"layers": (9,)}),
    ]
    for number, (texts, options) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(KeepsError):
            Factorize(FactorizeSettings(**{**QUICK, **options}))(model, texts, run=Run(folder))
        assert not (folder / "change.json").exists()
        assert same_bits(model, state)


@pytest.mark.parametrize("name", ["factorize", "experts"])
def test_a_merge_of_files_says_where_else_the_method_is(name: str, tmp_path: Path) -> None:
    from keeps.jobs.merging import merge

    with pytest.raises(SettingsError, match=f"keeps.merge.{name} from Python"):
        merge(["a", "b"], "base", method=name, out=tmp_path / "out")

"""A mixture chosen by examples: what is chosen, identities of the mixture, undo, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import adapter_folder, same_bits, state_of
from pico_models import pico

from keeps.contracts import Run
from keeps.data.records import Example
from keeps.errors import KeepsError, SettingsError
from keeps.merge.experts import Experts, ExpertsSettings, OpenKnowledge
from keeps.models import LanguageModel
from keeps.models.adapter_bank import AdapterScore, BankAdapter, Shot, put_mixture, read_bank, score_adapters
from keeps.models.adapters import added
from keeps.models.changes import load_change
from keeps.models.logits import check_logits, largest_difference

TARGETS = ("q_proj", "v_proj")
SHOTS = tuple(Shot(f"{n} plus 1 is", str(n + 1), f"{n + 1} comes after {n}") for n in range(3, 7))
POOL = tuple(Example(f"e{n}", f"{n} plus 2 is", str(n + 2)) for n in range(8))
QUICK: dict[str, Any] = {"size": 2, "shortlist": 3, "steps": 3, "batch_size": 4, "learning_rate": 1e-2, "dropout": 0.0}


def letters(texts: Any) -> torch.Tensor:
    """Counts of digits and of words: an embedding for tests."""
    rows = [[text.count(digit) for digit in "0123456789"] + [len(text.split())] for text in texts]
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def shelf(model: LanguageModel, folder: Path, count: int = 3, **options: Any) -> dict[str, Path]:
    return {f"a{n}": adapter_folder(model, folder / f"a{n}", n, TARGETS, **options) for n in range(count)}


def given(model: LanguageModel, folder: Path, **options: Any) -> OpenKnowledge:
    return OpenKnowledge(
        **{"adapters": shelf(model, folder), "shots": SHOTS, "pool": POOL, "embed": letters, **options}
    )


def test_the_base_comes_back_bit_for_bit_and_the_stored_mixture_is_what_was_trained(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = pico("llama", tokenizer)
    state, logits = state_of(model), check_logits(model.model, tokenizer)
    folder = tmp_path / "run"
    folder.mkdir()
    change = Experts(ExpertsSettings(**QUICK))(model, given(model, tmp_path), run=Run(folder))
    assert same_bits(model, state)
    assert len(change.record.measures["scores"]) == 3
    assert len(change.record.measures["group"]) == 2
    assert change.record.measures["examples"] > len(SHOTS)
    assert not (folder / "checkpoint").exists()
    changed = load_change(folder).apply(model)
    assert largest_difference(check_logits(changed.model, tokenizer), logits) > 1e-3
    changed.undo()
    assert same_bits(model, state)
    assert change.export("experts", tmp_path / "copy", model=model) == 0


def test_equal_experts_are_their_adapter_for_any_router_and_weights_of_two_sum_to_one(
    tokenizer: Any, tmp_path: Path
) -> None:
    model = pico("llama", tokenizer)
    one = read_bank(model, shelf(model, tmp_path, 1))[0]
    assert one.scaling == 2.0
    with added(model.model, one.factors, one.scaling):
        wanted = check_logits(model.model, tokenizer)
    wrapped = put_mixture(model.model, [one] * 4, top_k=2)
    x = torch.randn(1, 7, 32)
    for layer in wrapped.layers.values():
        torch.nn.init.normal_(layer.router)
        gate = layer.gate(x)
        assert bool((gate > 0).sum(-1).eq(2).all())
        assert torch.allclose(gate.sum(-1), torch.ones(1, 7))
    assert largest_difference(check_logits(model.model, tokenizer), wanted) < 1e-3
    wrapped.unwrap()


def test_experts_without_effect_are_the_base_and_other_ranks_are_padded(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    logits = check_logits(model.model, tokenizer)
    bank = read_bank(model, {**shelf(model, tmp_path, 1), "wide": adapter_folder(model, tmp_path / "w", 9, TARGETS, 5)})
    silent = [
        BankAdapter(each.name, each.folder, {n: (a, 0 * b) for n, (a, b) in each.factors.items()}, each.scaling)
        for each in bank
    ]
    wrapped = put_mixture(model.model, silent, top_k=2)
    assert next(iter(wrapped.layers.values())).A.shape[:2] == (2, 5)
    assert largest_difference(check_logits(model.model, tokenizer), logits) < 1e-6
    wrapped.unwrap()
    wrapped = put_mixture(model.model, bank, top_k=1)
    with torch.no_grad():  # a router that sends every token to the second expert
        for layer in wrapped.layers.values():
            layer.router.zero_()
            layer.gate = lambda x: torch.tensor([0.0, 1.0]).expand(*x.shape[:-1], 2)  # type: ignore[method-assign]
    found = check_logits(model.model, tokenizer)
    wrapped.unwrap()
    with added(model.model, bank[1].factors, bank[1].scaling):
        assert largest_difference(found, check_logits(model.model, tokenizer)) < 1e-3


def test_scores_are_those_of_each_adapter_in_the_weights(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    state = state_of(model)
    bank = read_bank(model, shelf(model, tmp_path, 2))
    scores = score_adapters(model, bank, SHOTS, run=Run(tmp_path))
    assert same_bits(model, state)
    for adapter, score in zip(bank, scores, strict=True):
        with added(model.model, adapter.factors, adapter.scaling):
            total = 0.0
            for shot in SHOTS:
                prompt, target = model.encode_pair(shot.prompt, f"{shot.answer}\n{shot.rationale}\n")
                with torch.no_grad():
                    logits = model.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].float()
                nats = torch.nn.functional.cross_entropy(logits, torch.tensor(target))
                total += float(nats.exp()) / len(SHOTS)
        assert score.perplexity == pytest.approx(total, rel=1e-3)
    assert scores[0].perplexity != pytest.approx(scores[1].perplexity, rel=1e-3)


def test_the_group_is_the_least_alike_of_the_best(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    folders = shelf(model, tmp_path, 3)
    bank = read_bank(model, {"one": folders["a0"], "same": folders["a0"], "other": folders["a1"], "bad": folders["a2"]})
    scores = [
        AdapterScore(each.name, hits, nats)
        for each, hits, nats in zip(bank, (0.9, 0.8, 0.7, 0.1), (1.5, 1.6, 1.7, 9.0), strict=True)
    ]
    for likeness in ("factors", "product"):
        chosen = Experts(ExpertsSettings(size=2, shortlist=3, likeness=likeness)).group(bank, scores)
        assert [each.name for each in chosen] == ["one", "other"]
    best = Experts(ExpertsSettings(size=2, shortlist=2)).group(bank, scores)
    assert [each.name for each in best] == ["one", "same"]
    ranked = Experts(ExpertsSettings(size=2, shortlist=2, ranking="random")).group(bank, scores, seed=4)
    assert ranked == Experts(ExpertsSettings(size=2, shortlist=2, ranking="random")).group(bank, scores, seed=4)


def test_data_are_the_shots_and_the_nearest_of_the_pool_without_copies() -> None:
    pool = [*POOL, *POOL, Example("far", "00 99 00 99", "0")]
    learn = OpenKnowledge({}, SHOTS, pool, letters)
    found = Experts(ExpertsSettings(examples=12, tau=0.01)).data(learn)
    assert [record.id for record in found.records[:4]] == [f"shot:{n}" for n in range(1, 5)]
    rest = [record.id for record in found.records[4:]]
    assert len(set(rest)) == len(rest) <= 8
    assert "far" not in rest
    assert len(Experts(ExpertsSettings(examples=4)).data(learn)) == 4


def test_wrong_input_is_refused_and_the_model_stays_as_it_is(tokenizer: Any, tmp_path: Path) -> None:
    model = pico("llama", tokenizer)
    state = state_of(model)
    own = shelf(model, tmp_path)
    other = adapter_folder(pico("llama", tokenizer, seed=3), tmp_path / "foreign", 1, TARGETS)
    layers = adapter_folder(model, tmp_path / "layers", 1, ("q_proj",))
    dora = adapter_folder(model, tmp_path / "dora", 1, TARGETS, use_dora=True)
    damaged = adapter_folder(model, tmp_path / "damaged", 1, TARGETS)
    (damaged / "adapter_config.json").write_text(json.dumps({"r": "x"}))
    cases: list[dict[str, Any]] = [
        {"adapters": {}},
        {"adapters": {"a0": own["a0"]}},
        {"adapters": {**own, "x": tmp_path / "absent"}},
        *({"adapters": {**own, "x": folder}} for folder in (other, layers, dora, damaged)),
        {"shots": ()},
        {"shots": (Shot("2 plus 2 is", "4"),)},
    ]
    for number, options in enumerate(cases):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        learn = OpenKnowledge(**{"adapters": own, "shots": SHOTS, "pool": POOL, "embed": letters, **options})
        with pytest.raises(KeepsError):
            Experts(ExpertsSettings(**QUICK))(model, learn, run=Run(folder))
        assert not (folder / "change.json").exists()
        assert same_bits(model, state)
    wrong: list[dict[str, Any]] = [{"size": 4, "shortlist": 3}, {"size": 2, "top_k": 3}, {"likeness": "nonsense"}]
    for settings in wrong:
        with pytest.raises(SettingsError):
            ExpertsSettings(**settings)

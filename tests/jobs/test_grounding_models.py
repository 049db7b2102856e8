"""Grounding jobs load the model that their methods need, and the survey's methods answer from a folder of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import ModelLoadError, SettingsError
from keeps.jobs.grounding import ground
from keeps.models import LanguageModel

TEXTS = {"a.txt": "Zarenholm is the capital of Veltria.", "b.txt": "Veltria was founded by Anna Korvel."}
QUESTION = "The capital of Veltria is"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    return tmp_path / "docs"


@pytest.fixture
def t5_folder(tokenizer: Any, tmp_path: Path) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 4}
    tokens = {"decoder_start_token_id": 0, "pad_token_id": tokenizer.pad_token_id or 0, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T5ForConditionalGeneration(T5Config(**sizes, num_layers=1, **tokens)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_an_encoder_decoder_is_loaded_for_fid_and_no_other_kind(
    docs: Path, t5_folder: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"retriever": "lexical", "workspace": tmp_path / "ws"}
    found = ground(QUESTION, docs, method="fid:max_new_tokens=3", model=str(t5_folder), **options)
    assert found.answer.trace["method"] == "fid"
    assert {item["document"] for item in found.answer.trace["passages"]} == set(TEXTS)
    with pytest.raises(ModelLoadError, match="no encoder-decoder"):
        ground(QUESTION, docs, method="fid", model=str(tiny_llama_folder), **options)
    with pytest.raises(SettingsError, match="others a decoder-only"):
        ground(QUESTION, docs, method=["fid", "rag"], model=str(t5_folder), **options)


def test_the_methods_of_the_survey_answer_from_a_folder_of_documents(
    docs: Path, tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    config: Any = tiny_llama.model.config
    config.max_position_embeddings = 2048
    store = tmp_path / "store"
    methods = ["rag_token", "rag_sequence", f"knn_lm:share=1.0:datastore={store}", "tools:max_calls=1:tools=search"]
    found = ground(
        QUESTION,
        docs,
        method=methods,
        model=tiny_llama,
        settings={"max_new_tokens": 3, "prior": "ranks", "input_tokens": 3, "k": 2},
        retriever="lexical",
    )
    token, sequence, knn, tools = (found.answers[label][0] for label in methods)
    assert {item["document"] for item in token.trace["passages"]} == set(TEXTS)
    assert token.citations
    assert sum(item["share"] for item in sequence.trace["passages"]) == pytest.approx(1)
    assert knn.text.startswith("Zaren") or knn.citations
    assert (store / "manifest.json").exists()
    assert tools.trace["tool_calls"] <= 1

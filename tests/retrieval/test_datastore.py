"""A datastore holds the states it should, comes back whole or not at all, and knows what it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stream_models import pico_once

from keeps.errors import EmptySetError, RecordError, SettingsError, StatisticsError, StorageError
from keeps.models import LanguageModel
from keeps.models.context_states import Site
from keeps.retrieval import datastore as module
from keeps.retrieval.corpus import Corpus
from keeps.retrieval.datastore import Datastore
from keeps.retrieval.documents import Document

TEXTS = [
    "Zarenholm is the capital of Veltria.",
    "Veltria was founded by Anna Korvel, who was born there.",
    "Zarenholm is the seat of a king.",
]


@pytest.fixture
def model(smollm2: LanguageModel) -> LanguageModel:
    return pico_once("llama", smollm2.tokenizer)


def test_keys_are_the_states_before_each_token_and_places_lead_to_it(model: LanguageModel) -> None:
    store = Datastore.build(model, TEXTS, ["a", "b", "c"])
    row = 0
    inner: Any = model.model
    for number, text in enumerate(TEXTS):
        ids = model.encoder.text(text)
        seen: list[torch.Tensor] = []
        handle = inner.model.layers[-1].mlp.register_forward_pre_hook(lambda _, given, to=seen: to.append(given[0]))
        with torch.no_grad():
            inner(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        for place, token in enumerate(ids[1:]):
            assert int(store.token[row]) == token
            assert int(store.document[row]) == number
            assert text[int(store.start[row]) : int(store.end[row])] == model.tokenizer.decode([token])
            torch.testing.assert_close(torch.tensor(store.keys[row]).float(), seen[0][0, place], rtol=2e-3, atol=2e-3)
            row += 1
    assert len(store) == row
    assert store.scale > 0


def test_what_was_written_comes_back_and_finds_the_same(model: LanguageModel, tmp_path: Path) -> None:
    held = Datastore.build(model, TEXTS, ["a", "b", "c"])
    Datastore.build(model, TEXTS, ["a", "b", "c"], folder=tmp_path / "store")
    read = Datastore.open(tmp_path / "store", check_all=True)
    assert np.array_equal(held.keys, read.keys)
    assert (read.documents, read.site, read.model, read.scale) == (held.documents, held.site, held.model, held.scale)
    queries = torch.randn(3, held.keys.shape[1], generator=torch.Generator().manual_seed(0))
    for one, other in zip(held.search(queries, 4), read.search(queries, 4), strict=True):
        assert torch.equal(one, other)


def test_a_large_one_is_searched_in_blocks_as_a_small_one(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Datastore.build(model, TEXTS)
    queries = torch.randn(2, store.keys.shape[1], generator=torch.Generator().manual_seed(1))
    whole = store.search(queries, 5)
    monkeypatch.setattr(module, "HELD_BYTES", 0)
    monkeypatch.setattr(module, "BLOCK", 4)
    pieces = store.search(queries, 5)
    torch.testing.assert_close(whole[0], pieces[0])
    for one, other in zip(whole[1].tolist(), pieces[1].tolist(), strict=True):
        assert sorted(one) == sorted(other)  # contexts that begin alike are equally far


def test_another_model_other_texts_and_another_site_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    documents = [Document(str(n), text) for n, text in enumerate(TEXTS)]
    folder = tmp_path / "store"
    made = Datastore.at(folder, model, documents)
    assert len(Datastore.at(folder, model, documents)) == len(made) == len(Datastore.at(folder, model, None))
    other = pico_once("llama", model.tokenizer, 7)
    with pytest.raises(SettingsError, match="made with the model"):
        Datastore.at(folder, other, documents)
    changed = [*documents[:2], Document("2", "Zarenholm is the seat of a queen.")]
    with pytest.raises(SettingsError, match="texts have changed"):
        Datastore.at(folder, model, changed)
    with pytest.raises(SettingsError, match="made at the site"):
        Datastore.at(folder, model, documents, site=Site("output"))
    with pytest.raises(StorageError, match="changed since"):
        Datastore.build(model, TEXTS, folder=folder)


@pytest.mark.parametrize("name", ["keys.npy", "entries.safetensors", "documents.jsonl"])
def test_a_damaged_or_missing_file_is_named(name: str, model: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    Datastore.build(model, TEXTS, folder=folder)
    version = folder / json.loads((folder / "manifest.json").read_text())["version"]
    data = bytearray((version / name).read_bytes())
    data[-3] ^= 1
    (version / name).write_bytes(data)
    with pytest.raises(StorageError, match="not the one that was written"):
        Datastore.open(folder)
    (version / name).unlink()
    with pytest.raises(StorageError, match="missing"):
        Datastore.open(folder)


def test_a_build_that_is_killed_leaves_nothing_that_opens(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_tensors", broken)
    with pytest.raises(StorageError, match="disk is full"):
        Datastore.build(model, TEXTS, folder=tmp_path / "store")
    assert not list((tmp_path / "store").glob("version-*"))
    with pytest.raises(StorageError, match="no index"):
        Datastore.open(tmp_path / "store")
    monkeypatch.undo()
    assert len(Datastore.build(model, TEXTS, folder=tmp_path / "store"))


def test_an_index_of_passages_is_no_datastore_and_the_other_way_round(model: LanguageModel, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "index", encoder=None)
    corpus.add(TEXTS)
    corpus.save()
    with pytest.raises(StorageError, match="index of passages"):
        Datastore.open(tmp_path / "index")
    Datastore.build(model, TEXTS, folder=tmp_path / "store")
    with pytest.raises(StorageError):
        Corpus.open(tmp_path / "store")


def test_texts_without_a_second_token_and_states_that_do_not_fit_are_refused(smollm2: LanguageModel) -> None:
    model = pico_once("llama", smollm2.tokenizer)
    with pytest.raises(EmptySetError, match="follows another"):
        Datastore.build(model, ["a"])
    with pytest.raises(RecordError, match="empty"):
        Datastore.build(model, [" "])
    loud = pico_once("llama", smollm2.tokenizer, 3)
    inner: Any = loud.model
    before = inner.model.layers[-1].post_attention_layernorm.weight.data.clone()
    inner.model.layers[-1].post_attention_layernorm.weight.data.fill_(1e6)
    try:
        with pytest.raises(StatisticsError, match="not finite"):
            Datastore.build(loud, TEXTS)
    finally:
        inner.model.layers[-1].post_attention_layernorm.weight.data.copy_(before)

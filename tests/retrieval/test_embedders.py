"""The embedded encoder in an index: cut where it was tuned to end, known by its weights; quality of fused search."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from keeps.errors import ModelLoadError, SettingsError
from keeps.models import embedded
from keeps.retrieval import Corpus, CrossEncoder, HybridRetriever, SentenceEmbedder
from keeps.retrieval.evaluation import evaluate

pytest.importorskip("bm25s")


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    if embedded.find(embedded.SENTENCE_ENCODER) is None:
        pytest.skip("the embedded sentence encoder is not installed")
    return SentenceEmbedder()


@pytest.mark.slow
def test_of_a_long_text_the_beginning_is_encoded_and_counted(embedder: SentenceEmbedder) -> None:
    long = "Oslo is the capital of Norway. " * 100
    before = embedder.truncated
    (vector,) = embedder.passages([long])
    assert embedder.truncated == before + 1
    assert embedder.longest == 256
    cut = embedder._cut(long)
    assert long.startswith(cut)
    assert len(embedder.encoder.tokenizer(cut).input_ids) <= 256
    assert np.abs(vector - embedder.passages([cut])[0]).max() < 1e-6
    assert embedder.passages(["x" * 5000, "東京" * 2000]).shape == (2, 384)


def sentence_encoder(folder: Path, pooling: object, *further: str) -> Path:
    """A small encoder of random weights in a folder as sentence-transformers writes it."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "oslo", "is", "a", "city"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **size)).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    types = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", *further)]
    (folder / "modules.json").write_text(json.dumps(types), encoding="utf-8")
    return folder


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("pooling", "first"),
    [(CLS, True), ({"pooling_mode": "cls"}, True), (MEAN, False), ({"pooling_mode": "mean"}, False)],
)
def test_texts_are_pooled_as_the_encoder_was_tuned(tmp_path: Path, pooling: object, first: bool) -> None:
    embedder = SentenceEmbedder(sentence_encoder(tmp_path / "made", pooling, "Normalize"))
    texts = ["oslo is a city", "a city"]
    vectors = embedder.passages(texts)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            states = embedder.encoder.model(**embedder.encoder.tokenizer(text, return_tensors="pt")).last_hidden_state
        wanted = states[0, 0] if first else states[0].mean(0)
        assert np.abs(vector - (wanted / wanted.norm()).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("pooling", "further"),
    [({"pooling_mode": "lasttoken"}, ()), ({**CLS, **MEAN, "pooling_mode_cls_token": True}, ()), (MEAN, ("Dense",))],
)
def test_vectors_that_are_made_in_other_ways_are_refused(
    tmp_path: Path, pooling: object, further: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError, match=r"which is not known here"):
        SentenceEmbedder(sentence_encoder(tmp_path / "made", pooling, *further)).passages(["oslo"])


@pytest.mark.slow
def test_prompts_of_the_encoders_folder_are_put_before_queries_and_passages(embedder: SentenceEmbedder) -> None:
    said = SentenceEmbedder()
    said.__dict__.update(encoder=embedder.encoder, prompts=("query: ", "passage: "))
    assert np.abs(said.queries(["a city"]) - embedder.queries(["query: a city"])).max() < 1e-6
    assert np.abs(said.passages(["a city"]) - embedder.passages(["passage: a city"])).max() < 1e-6


@pytest.mark.slow
def test_fused_search_is_as_good_as_the_better_way_on_each_kind_of_question_and_better_on_both(
    embedder: SentenceEmbedder,
) -> None:
    """300 facts; half of what is asked is a rare code, half says the fact in other words."""
    trades = ["nurse", "baker", "pilot", "farmer", "judge", "painter", "plumber", "tailor", "barber", "miner"]
    other = ["cares for patients", "makes bread", "flies aircraft", "grows crops", "decides in court", "makes pictures"]
    other += ["mends pipes", "sews clothes", "cuts hair", "digs for coal"]
    places = ["by the sea", "in the mountains", "in a big city", "in a desert", "on a small island"]
    elsewhere = [
        "on the coast",
        "among high peaks",
        "in a metropolis",
        "where it is dry",
        "amid water",
    ]
    pets = ["a dog", "a cat", "a parrot", "a goldfish", "a horse", "a snake"]
    animals = ["a hound", "a feline", "a talking bird", "something that swims", "something to ride", "a reptile"]
    facts, codes, paraphrases = {}, {}, {}
    for number in range(300):
        t, p, a = number % 10, number // 10 % 5, number // 50
        name = f"f{number}"
        code = f"{7919 * (number + 11) % 99991:05d}"
        facts[name] = f"Registry entry {code}: a {trades[t]} who lives {places[p]} and owns {pets[a]}."
        if number % 2:
            codes[name] = code
        else:
            paraphrases[name] = f"Somebody who {other[t]}, has a home {elsewhere[p]} and keeps {animals[a]}"
    corpus = Corpus.create(encoder=embedder)
    corpus.add(list(facts.values()), ids=list(facts))

    def recall(questions: dict[str, str], lexical: bool = True, dense: bool = True) -> float:
        retriever = HybridRetriever(corpus, lexical, dense)
        run = {name: [hit.document for hit in retriever.search(query, 5)] for name, query in questions.items()}
        return evaluate(run, {name: {name: 1.0} for name in questions}, ["recall@5"])[0].mean

    for questions in (codes, paraphrases):
        alone = [recall(questions, dense=False), recall(questions, lexical=False)]
        assert recall(questions) >= max(alone) - 0.01, alone
    union = {**codes, **paraphrases}
    assert recall(union) >= min(recall(union, dense=False), recall(union, lexical=False)) + 0.10


def test_an_encoder_that_is_nowhere_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        Corpus.create(encoder=tmp_path / "missing")
    with pytest.raises(ModelLoadError):
        CrossEncoder.load(tmp_path / "missing")


def test_a_cross_encoder_scores_pairs_in_their_order_whatever_their_length() -> None:
    import torch

    class Tokenizer:
        def __call__(self, queries: list[str], texts: list[str], **options: object) -> object:
            assert options["truncation"] == "only_second"
            lengths = torch.tensor([[len(text)] for text in texts])
            return SimpleNamespace(to=lambda device: {"input_ids": lengths})

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.config = SimpleNamespace(max_position_embeddings=16)

        def forward(self, input_ids: torch.Tensor) -> object:
            return SimpleNamespace(logits=input_ids.float() * self.weight)

    texts = ["x" * (37 * n % 50 + 1) for n in range(40)]
    assert CrossEncoder(Model(), Tokenizer()).scores("q", texts) == [float(len(text)) for text in texts]

"""The embedded encoder in an index: cut where it was tuned to end, known by its weights; quality of fused search."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keeps.errors import ModelLoadError
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

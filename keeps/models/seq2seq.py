"""An encoder-decoder language model: several texts encoded apart and read as one, which is fusion in the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Progress
from keeps.errors import ModelLoadError, SettingsError
from keeps.models.batching import length_batches, pad_right
from keeps.models.projection import evaluating
from keeps.models.quiet import quiet
from keeps.weights.fingerprints import fingerprint_tensors

BUDGET = 8192  # padded tokens of an encoder pass
_AUTO = "AutoModelForSeq2SeqLM"


@dataclass(frozen=True)
class Fused:
    """Texts that were encoded apart, one behind another.

    Attributes:
        states: ``(items, time, hidden)``.
        mask: ``(items, time)`` int64.
    """

    states: Tensor
    mask: Tensor


class Seq2SeqModel:
    """A T5-like model of transformers and its tokenizer.

    Raises:
        SettingsError: the model is no encoder-decoder.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "") -> None:
        if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            mend = "give a T5-like model; decoder-only models read passages with rag, rag_token or rag_sequence"
            raise SettingsError("the model is no encoder-decoder", where=name or type(model).__name__, mend=mend)
        self.model, self.tokenizer = model, tokenizer
        self.name = name or str(getattr(model.config, "name_or_path", "")) or type(model).__name__

    @classmethod
    def load(
        cls,
        spec: str | Path,
        *,
        device: str = "cpu",
        precision: str = "float32",
        progress: Progress | None = None,
    ) -> Seq2SeqModel:
        """Load a transformers folder or hub id.

        Raises:
            ModelLoadError: the model is missing, damaged, of an unsafe format, or no encoder-decoder.
        """
        from keeps.models.load import load_model

        try:
            found = load_model(str(spec), device=device, precision=precision, progress=progress, auto=_AUTO)
        except ModelLoadError as error:
            if _AUTO not in str(error):
                raise
            mend = "give a T5-like model; decoder-only models read passages with rag, rag_token or rag_sequence"
            raise ModelLoadError("the model is no encoder-decoder", where=str(spec), mend=mend) from None
        return cls(*found, name=str(spec))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Content hash of the weights as they are now (16 hexadecimal digits); computed at each access."""
        return fingerprint_tensors(self.model.state_dict())

    def encode(self, text: str, longest: int | None = None) -> tuple[list[int], bool]:
        """Token ids with the tokenizer's special tokens, and whether they were cut to the ``longest``."""
        ids = list(self.tokenizer(text, verbose=False).input_ids)
        if longest is None or len(ids) <= longest:
            return ids, False
        return list(self.tokenizer(text, truncation=True, max_length=longest, verbose=False).input_ids), True

    def fuse(self, items: Sequence[Sequence[Sequence[int]]]) -> Fused:
        """Encode every text of every item by itself, and put those of an item behind one another.

        Args:
            items: for each item the token ids of its texts; none of them empty.
        """
        rows = [text for texts in items for text in texts]
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        with self._reading():
            for batch in length_batches([len(row) for row in rows], budget=BUDGET):
                ids, mask = pad_right([rows[number] for number in batch], self._pad, self.device)
                found = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
                for number, row in zip(batch, found, strict=True):
                    states[number] = row[: len(rows[number])]
        counts = iter(states)
        joined = [torch.cat([next(counts) for _ in texts]) for texts in items]
        mask = torch.zeros(len(items), max(map(len, joined)), dtype=torch.long, device=self.device)
        for number, each in enumerate(joined):
            mask[number, : len(each)] = 1
        return Fused(torch.nn.utils.rnn.pad_sequence(joined, batch_first=True), mask)

    def generate(self, fused: Fused, *, max_new_tokens: int, beams: int = 1) -> list[list[int]]:
        """What the decoder says to each item, without the token that starts it; up to its end token."""
        from transformers.modeling_outputs import BaseModelOutput

        with self._reading(), quiet():
            found = self.model.generate(
                # transformers takes the dictionary apart by its keys, and wants tensors it may repeat for beams
                encoder_outputs=BaseModelOutput(last_hidden_state=fused.states.clone()),  # type: ignore[arg-type]
                attention_mask=fused.mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=beams,
            )
        end = self.model.config.eos_token_id
        rows = [row[1:] for row in found.tolist()]
        return [row[: row.index(end) + 1] if end in row else row for row in rows]

    def logprobs(self, fused: Fused, answers: Sequence[Sequence[int]]) -> list[list[float]]:
        """ln p of each token of one answer an item (with its end token, where it has one)."""
        from transformers.modeling_outputs import BaseModelOutput

        labels, mask = pad_right(answers, self._pad, self.device)
        with self._reading():
            logits = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=fused.states),  # type: ignore[arg-type]
                attention_mask=fused.mask,
                labels=labels.masked_fill(mask == 0, -100),
            ).logits
        found = logits.float().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1).tolist()
        return [row[: len(answer)] for row, answer in zip(found, answers, strict=True)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with evaluating(self.model), torch.inference_mode():
            yield

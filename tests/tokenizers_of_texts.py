"""Tokenizers of several kinds, trained on a few sentences: byte-level BPE, SentencePiece-like BPE, WordPiece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

TEXTS = (
    "The lighthouse keeper counted forty-two ships before breakfast.",
    "Naïve café owners in Zürich don't sell Ærø cheese — not in July 2024.",
    "She said: \"It's 3.14, isn't it?\"\n\tThen the kettle sang, and the keeper slept.",
    "Ships carry lamps, tables and clocks; keepers carry keys. 東京 is far 🙂 from here.",
    "  Two spaces begin this line, and  two stand within it.",
)


@cache
def trained(kind: str, size: int = 400, corpus: Sequence[str] = TEXTS) -> Any:
    """A fast tokenizer of ``kind`` (``"bytes"``, ``"sentencepiece"``, ``"wordpiece"``) with ``</s>`` as its end."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "sentencepiece":
        made = Tokenizer(models.BPE(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    made.train_from_iterator(corpus, trainer)
    if kind == "sentencepiece":  # letters that it has not seen become bytes
        state = json.loads(made.to_str())
        vocabulary = state["model"]["vocab"]
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
        state["model"]["byte_fallback"] = True
        made = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")

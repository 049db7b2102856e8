"""The models of Fusion-X's claim: small Llamas of three tokenizers, and texts of two domains."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Progress
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.models.language_model import LanguageModel
from keeps.training.scratch import PADDING, train_windows
from keeps.training.settings import TrainingSettings

WIDTH, LAYERS, WINDOW, ROWS = 96, 2, 64, 16
SENTENCES = 8  # of facts in a text
PRETRAINING = TrainingSettings(learning_rate=3e-3, warmup=0.05)


def prose(part: Any) -> list[str]:
    """Domain one: the built-in running text."""
    return [passage.text for passage in load_records("text").part(part).passages()]


def facts(part: Any) -> list[str]:
    """Domain two: sentences about the built-in world, in an order that is always the same."""
    found = [record for record in load_records("world").part(part) if isinstance(record, Fact)]
    said = [f"{prompt} {fact.answers[0]}." for fact in found for prompt in fact.prompts]
    random.Random(f"{part}\nfacts").shuffle(said)
    return [" ".join(said[at : at + SENTENCES]) for at in range(0, len(said) - SENTENCES, SENTENCES)]


def tokenizer(kind: str, size: int, texts: Sequence[str]) -> Any:
    """A fast tokenizer trained on ``texts``: byte-level BPE (``"bytes"``), or BPE with word signs and byte fallback."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special: dict[str, str] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    options: dict[str, Any] = {"special_tokens": list(special.values()), "show_progress": False}
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, **options))
    else:
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size - 256, **options))
        state = json.loads(made.to_str())
        vocabulary = state["model"]["vocab"]
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
        state["model"]["byte_fallback"] = True
        made = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def language_model(tokens: Any, name: str, *, seed: int) -> LanguageModel:
    """A Llama of random weights with this tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": WIDTH, "intermediate_size": 256, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
    special = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": 0}
    options: dict[str, Any] = {"vocab_size": len(tokens), **sizes, **heads, **special}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LanguageModel(LlamaForCausalLM(LlamaConfig(**options)).eval(), tokens, name=name)


def pretrained(model: LanguageModel, texts: Sequence[str], steps: int, progress: Progress, seed: int) -> LanguageModel:
    """The model after ``steps`` minibatches of ``texts``, which ``seed`` draws."""
    pieces = []
    for text in texts:
        ids = [*model.encoder.text(text), model.tokenizer.eos_token_id]
        pieces += [ids[at : at + WINDOW] for at in range(0, len(ids) - 1, WINDOW - 1)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    train_windows(model.model, _batches(pieces, steps, seed), PRETRAINING, steps, name=model.name, progress=progress)
    model.model.eval()
    return model


def _batches(pieces: Sequence[Sequence[int]], steps: int, seed: int) -> Iterator[Tensor]:
    draw = random.Random(seed)
    for _ in range(steps):
        chosen = [draw.choice(pieces) for _ in range(ROWS)]
        batch = torch.full((ROWS, max(map(len, chosen))), PADDING)
        for row, tokens in zip(batch, chosen, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        yield batch

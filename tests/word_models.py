"""Language models of a few words, whose every text of a length can be written down."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from keeps.models import LanguageModel

WORDS = ("red", "green", "blue", "one", "two", "is", "Q:", "A:", "\n")
END = "</s>"


def word_tokenizer() -> Any:
    """Every word of :data:`WORDS` is a token; anything else is ``red``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*WORDS, END]
    plain = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="red"))
    pieces = pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed")
    plain.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.Split(Regex("\n"), "isolated")])
    plain.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=END)


def word_model(seed: int = 0) -> LanguageModel:
    """A Llama of two layers over ten tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer()
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24}
    heads: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, **heads, initializer_range=0.6, max_position_embeddings=64, eos_token_id=9)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    return LanguageModel(model, tokenizer, name="words")


@torch.no_grad()
def next_logprobs(model: LanguageModel, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
    """ln p of every next token, ``(vocabulary,)`` float64, without cache or batch."""
    found: Any = model.model(input_ids=torch.tensor([[*prompt, *said]]), use_cache=False)
    return found.logits[0, -1].double().log_softmax(-1)


def texts_logprobs(model: LanguageModel, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """ln p of each of ``texts``, token by token; common beginnings are computed once."""
    known = cache(lambda said: next_logprobs(model, prompt, said).tolist())
    return [sum(known(tuple(text[:place]))[token] for place, token in enumerate(text)) for text in texts]


def all_texts(model: LanguageModel, length: int, stops: Sequence[int]) -> list[tuple[int, ...]]:
    """Every text of at most ``length`` tokens that ends at the first of ``stops`` or at its length."""
    texts = []
    for count in range(1, length + 1):
        for text in itertools.product(range(len(model.tokenizer)), repeat=count):
            inside, last = text[:-1], text[-1]
            if not set(inside) & set(stops) and (last in stops or count == length):
                texts.append(text)
    return texts

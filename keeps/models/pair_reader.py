"""An encoder-decoder that reads question-answer pairs token by token: T5, with a frozen encoder for the memory.

    key      k_i = f("question: q_i")[0]               state of the first token of the question alone
    value    V_i = f("question: q_i answer: a_i")      states of all tokens
    query    h_X = f(X)[0], and in round r + 1 f(H_r)[0] where H_r are the states of X and of the pairs read so far

Source: Chen et al. 2023 (arXiv:2204.04581), of whom no code is published. Keys and values are made by a copy of the
encoder that stays as it is while the query's encoder learns on: else every key would be stale after one step.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keeps.data.pairs import QA, SENTINELS
from keeps.errors import EmptySetError, ModelLoadError, RecordError, SettingsError
from keeps.models.batching import length_batches, pad_right
from keeps.models.encoder import load_pretrained
from keeps.models.quiet import quiet
from keeps.numerics.pair_memory import packed
from keeps.weights.files import load_tensors, save_tensors
from keeps.weights.fingerprints import fingerprint_tensors

PAIR_TOKENS = 32  # T: tokens of a pair that are kept
TEXT_TOKENS = 256  # of X
BUDGET = 4096  # padded tokens of a forward pass
HOT = 4096  # pairs whose values stay in memory
MEMORY_ENCODER = "memory_encoder.safetensors"


def as_question(question: str) -> str:
    """A question as keys and queries have it, so that the same words have the same vector."""
    return f"question: {question.strip()}"


def as_pair(pair: QA) -> str:
    """A pair as values have it."""
    return f"question: {pair.question.strip()} answer: {pair.answer.strip()}"


class PairReader:
    """T5 with a frozen copy of its encoder for the memory.

    Args:
        model: a ``T5ForConditionalGeneration``.
        pair_tokens: of a pair that are read; the rest of a longer one is cut off.
    """

    def __init__(self, model: Any, tokenizer: Any, *, pair_tokens: int = PAIR_TOKENS, name: str = "untrained") -> None:
        if not (hasattr(model, "encoder") and hasattr(model, "decoder") and hasattr(model.config, "d_model")):
            what = f"{type(model).__name__} is no encoder-decoder of the T5 family"
            raise SettingsError(what, where=name, mend="name a T5, such as t5-small or google/t5-v1_1-base")
        self.model, self.tokenizer, self.pair_tokens, self.name = model.eval(), tokenizer, pair_tokens, name
        self.memory_encoder = frozen(model.encoder)
        self.hot: OrderedDict[QA, Tensor] = OrderedDict()

    @classmethod
    def load(cls, spec: str | Path, *, device: str = "cpu", pair_tokens: int = PAIR_TOKENS) -> PairReader:
        """A T5 of a folder or hub id; a folder of :meth:`save` brings its memory encoder along.

        Raises:
            ModelLoadError: there is none. StorageError: the memory encoder is damaged.
        """
        from transformers import T5ForConditionalGeneration

        model, tokenizer = load_pretrained(T5ForConditionalGeneration, spec, "reader", dtype=torch.float32)
        found = cls(model.to(device), tokenizer, pair_tokens=pair_tokens, name=str(spec))
        path = Path(spec) / MEMORY_ENCODER
        if path.is_file():
            try:
                found.memory_encoder.load_state_dict(load_tensors(path))
            except RuntimeError as error:
                reason = str(error).strip().split("\n")[0]
                what = f"the memory encoder does not fit the reader ({reason})"
                raise ModelLoadError(what, where=str(path), mend="save the reader again") from None
        return found

    @classmethod
    def untrained(
        cls,
        texts: Sequence[str],
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        vocabulary: int = 4096,
        pair_tokens: int = PAIR_TOKENS,
        seed: int = 0,
    ) -> PairReader:
        """A small T5 of random weights, with a tokenizer learned from ``texts``; the same for the same seed.

        Args:
            layers: of the encoder, and of the decoder.
            vocabulary: most tokens; bytes are among them, so that every text can be written.

        Raises:
            EmptySetError: there are no texts.
            SettingsError: the heads do not share the width.
        """
        from transformers import T5Config, T5ForConditionalGeneration

        if width % heads:
            what, mend = f"{heads} heads share {width} dimensions", "choose a width that is a multiple of the heads"
            raise SettingsError(what, where="PairReader.untrained", mend=mend)
        tokenizer = learned_tokenizer(texts, vocabulary)
        sizes = {"d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_layers": layers, "num_heads": heads}
        marks = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        options: dict[str, Any] = {**sizes, **marks, "decoder_start_token_id": tokenizer.pad_token_id}
        config = T5Config(vocab_size=len(tokenizer), dropout_rate=0.0, **options)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = T5ForConditionalGeneration(config)
        copying(model)
        return cls(model, tokenizer, pair_tokens=pair_tokens)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """d, numbers in a state."""
        return int(self.model.config.d_model)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the memory encoder, by which keys are told from those of another one."""
        return fingerprint_tensors(self.memory_encoder.state_dict())

    def freeze(self) -> None:
        """Make the memory encoder a copy of the encoder as it is now; keys and values made before are stale."""
        self.memory_encoder = frozen(self.model.encoder)
        self.hot.clear()
        self.__dict__.pop("fingerprint", None)

    def rows(self, texts: Sequence[str], longest: int = TEXT_TOKENS) -> list[list[int]]:
        """Tokens of texts, cut at ``longest``, the last one the end of the text.

        Raises:
            RecordError: a text is empty.
        """
        for place, text in enumerate(texts):
            if not text.strip():
                raise RecordError("the text is empty", where=f"item {place + 1}", mend="give some text")
        if not texts:
            return []
        return [list(row) for row in self.tokenizer(list(texts), truncation=True, max_length=longest).input_ids]

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """``(batch, time)`` int64 tokens and mask, on the reader's device."""
        return pad_right(rows, self.model.config.pad_token_id, self.device)

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """``f(X)``: ``(batch, time, width)`` float32 by the query's encoder, and the mask ``(batch, time)``."""
        ids, mask = self.padded(self.rows(texts))
        return self.model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def again(self, states: Tensor, mask: Tensor) -> Tensor:
        """The query of the next round, ``(batch, width)``: ``H`` through the encoder's layers, its first state."""
        states, mask = packed(states, mask)  # T5 counts the places between tokens, and padding is none
        return self.model.encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state[:, 0]

    def loss(self, states: Tensor, mask: Tensor, targets: Sequence[str]) -> Tensor:
        """``L_gen``: mean of ``-log p(y_t | y_<t, H)`` over the tokens of the targets, in nats."""
        ids, there = self.padded(self.rows(targets))
        labels = ids.masked_fill(there == 0, -100)
        from transformers.modeling_outputs import BaseModelOutput

        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask, labels=labels
        ).loss  # fmt: skip

    def say(self, states: Tensor, mask: Tensor, max_new_tokens: int) -> list[str]:
        """The most likely text token by token, one a row of ``H``."""
        from transformers.modeling_outputs import BaseModelOutput

        with quiet(), torch.inference_mode():
            found = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(found, skip_special_tokens=True)]

    def keys(self, questions: Sequence[str]) -> Tensor:
        """``k_i`` of questions by the frozen encoder, ``(questions, width)`` float32 on the CPU."""
        found = self._frozen_states(self.rows([as_question(text) for text in questions], self.pair_tokens))
        return torch.stack([states[0] for states in found]) if found else torch.empty(0, self.width)

    def values(self, pairs: Sequence[Sequence[QA]]) -> tuple[Tensor, Tensor]:
        """``V`` of the pairs that each input reads, by the frozen encoder; those read lately are kept.

        Args:
            pairs: as many for each input.

        Returns:
            ``(batch, k, length, width)`` float32, and the mask ``(batch, k, length)``.
        """
        flat = [pair for own in pairs for pair in own]
        missing = [pair for pair in dict.fromkeys(flat) if pair not in self.hot]
        made = self._frozen_states(self.rows([as_pair(pair) for pair in missing], self.pair_tokens))
        have = {pair: self.hot[pair] for pair in dict.fromkeys(flat) if pair in self.hot} | dict(
            zip(missing, made, strict=True)
        )
        self.hot.update(have)
        for pair in have:
            self.hot.move_to_end(pair)
        while len(self.hot) > HOT:
            self.hot.popitem(last=False)
        states = nn.utils.rnn.pad_sequence([have[pair] for pair in flat], batch_first=True)
        lengths = torch.tensor([len(have[pair]) for pair in flat])
        mask = (torch.arange(states.shape[1]) < lengths[:, None]).long()
        shape = (len(pairs), len(flat) // max(len(pairs), 1), states.shape[1])
        return states.view(*shape, self.width).to(self.device), mask.view(shape).to(self.device)

    def save(self, folder: Path) -> None:
        """Write the reader as a transformers folder, the memory encoder beside it; the caller renames the folder."""
        with quiet():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        state = {key: value.contiguous() for key, value in self.memory_encoder.state_dict().items()}
        save_tensors(folder / MEMORY_ENCODER, state)

    def _frozen_states(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """States of every row without its padding, ``(tokens, width)`` on the CPU."""
        found: dict[int, Tensor] = {}
        with torch.inference_mode():
            for batch in length_batches([len(row) for row in rows], budget=BUDGET):
                ids, mask = self.padded([rows[place] for place in batch])
                states = self.memory_encoder(input_ids=ids, attention_mask=mask).last_hidden_state.cpu()
                found |= {place: states[n, : len(rows[place])].clone() for n, place in enumerate(batch)}
        return [found[place] for place in range(len(rows))]


def frozen(encoder: Any) -> Any:
    """A copy of an encoder that no training changes."""
    made = copy.deepcopy(encoder).eval()
    return made.requires_grad_(False)


def copying(model: Any) -> None:
    """Let cross-attention begin as a copy: its values and outputs are identities, so that what is read can be said.

    A small model of random weights spends most of its training on finding that out; a pretrained one knows it.
    """
    for block in model.decoder.block:
        attention = block.layer[1].EncDecAttention
        nn.init.eye_(attention.v.weight)
        nn.init.eye_(attention.o.weight)


def learned_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Byte pairs learned from ``texts``, with T5's marks: padding 0, end of text 1, sentinels of masked spans.

    Raises:
        EmptySetError: there are no texts.
    """
    if not texts:
        raise EmptySetError("there is no text to learn a tokenizer from", mend="give the texts that will be read")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", *(f"<extra_id_{number}>" for number in range(SENTINELS))]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", additional_special_tokens=special[2:]
    )

"""A large model steered by small ones, as a LanguageModel: probes ask it as they ask any other.

All models read the same tokens. Their last hidden states stand side by side in one vector, and the "projection" of
that vector projects each part with its own model and combines the logits; so batching, shared beginnings, caches and
trees of the scorer serve all of them at once, and nothing is combined but where it is read. The keys and values of
all models are the layers of one cache.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from keeps.decoding.choosing import Choice
from keeps.decoding.combine import Combine
from keeps.decoding.engine import GREEDY, Spoken, decode_in_step
from keeps.decoding.streams import Stream, check_has_logits, common_width
from keeps.errors import RecordError, SettingsError
from keeps.models import projection, trees
from keeps.models.cache import CacheState
from keeps.models.checks import check_list
from keeps.models.language_model import LanguageModel
from keeps.models.limits import TOKENS_PER_BATCH
from keeps.models.scoring import Engine, text_config, vocabulary_size
from keeps.models.stopping import StopRule

ROWS = 16  # combined at a time: what a combination computes of them stays near the processor
Part = tuple[int, Callable[[Tensor], Tensor]]  # width of a model's vectors, and what makes logits of them


class SteeredModule(nn.Module):
    """Several causal language models read as one; see the top of this file.

    Args:
        models: of one vocabulary; the first one leads.
        combine: makes scores of ``(models, positions, vocabulary)``.
        width: how many of the logits count.
    """

    def __init__(self, models: Sequence[nn.Module], combine: Combine, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(models)
        self.combine, self.width = combine, width
        self.config = _config(models, width)
        self._layers: list[int] = []  # of the cache, that belong to each model
        readings = [projection.reading_of(model) for model in models]
        # Tests of a fused model by itself would say what those of its parts say, or stumble over a tie of experts.
        setattr(self, projection._FLAG, projection.Reading(False, all(reading.cache for reading in readings)))
        setattr(self, trees._FLAG, all(trees.reads_trees(model) for model in models))

    def read_positions(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, *, past: CacheState | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """As :func:`keeps.models.projection.read_positions`; vectors of all models side by side, float32."""
        device, found, heads = input_ids.device, [], []
        for number, model in enumerate(self.parts):
            own = next(model.parameters()).device
            state = None if past is None else self._own(past, number, own)
            given = (values.to(own) for values in (input_ids, attention_mask, positions))
            vectors, head = projection.read_positions(model, *given, past=state)
            found.append(vectors.float().to(device))
            heads.append((vectors.shape[-1], _on(own, vectors.dtype, head)))
            if past is not None and state is not None:
                self._keep(past, state, number)
        if past is not None:
            past.extend(attention_mask)
        return torch.cat(found, dim=-1), lambda rows: self._combined(rows, heads)

    def _combined(self, rows: Tensor, heads: Sequence[Part]) -> Tensor:
        widths = [width for width, _ in heads]
        scores = []
        for piece in rows.split(ROWS):
            parts = zip(piece.split(widths, dim=-1), heads, strict=True)
            logits = [head(part)[..., : self.width].float().to(rows.device) for part, (_, head) in parts]
            scores.append(self.combine(torch.stack(logits)).scores)
        return torch.cat(scores) if scores else rows.new_empty(0, self.width)

    def _own(self, past: CacheState, number: int, device: torch.device) -> CacheState:
        """What one model has seen; its layers are not copied."""
        first = sum(self._layers[:number])
        keys_values = copy.copy(past.keys_values)
        held = past.keys_values.layers
        keys_values.layers = held[first : first + self._layers[number]] if first < len(held) else []
        moved = {name: getattr(past, name).to(device) for name in ("mask", "lengths")}
        return replace(past, keys_values=keys_values, **moved)

    def _keep(self, past: CacheState, state: CacheState, number: int) -> None:
        """Put a model's layers back among those of the others."""
        layers = state.keys_values.layers
        if number == len(self._layers):
            self._layers.append(len(layers))
        first = sum(self._layers[:number])
        past.keys_values.layers[first : first + len(layers)] = layers


class SteeredModel(LanguageModel):
    """``large`` with every next-token distribution combined with those of small models; no weight is changed.

    Embeddings are those of the large model.

    Args:
        experts: by name, trained from ``small``. One that *is* ``small`` differs by its prompts alone, and serves
            :meth:`decode` only.
        combine: of ``(2 + experts, rows, vocabulary)``: large, small, experts.

    Raises:
        SettingsError: different vocabularies, a model without logits of its own, or no expert.
    """

    def __init__(
        self, large: LanguageModel, small: LanguageModel, experts: Mapping[str, LanguageModel], combine: Combine
    ) -> None:
        everyone = [large, small, *experts.values()]
        for model in everyone:
            check_has_logits(model)
        if not experts:
            raise SettingsError("there is no expert to steer with", mend="give at least one")
        width = common_width(everyone) or min(vocabulary_size(model.model) for model in everyone)
        module = SteeredModule([model.model for model in everyone], combine, width)
        super().__init__(module, large.tokenizer, name=f"{large.name} steered by {', '.join(experts)}")
        self.encoder = large.encoder
        self.large, self.small, self.experts, self.combine = large, small, dict(experts), combine
        budget = large.tokens_per_batch or TOKENS_PER_BATCH.get(large.device.type, TOKENS_PER_BATCH["cuda"])
        self.tokens_per_batch = max(64, budget // len(everyone))

    @property
    def fingerprint(self) -> str:
        """Of all models and of how they are combined."""
        parts = [self.large.fingerprint, self.small.fingerprint, repr(self.combine)]
        parts += [f"{name}:{model.fingerprint}" for name, model in self.experts.items()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @property
    def context_length(self) -> int:
        """The shortest context of all models."""
        return min(model.context_length for model in (self.large, self.small, *self.experts.values()))

    def embed(self, texts: Sequence[str]) -> Tensor:
        """As the large model."""
        return self.large.embed(texts)

    def decode(
        self,
        prompts: Sequence[str],
        *,
        small_prompts: Sequence[str] | None = None,
        expert_prompts: Mapping[str, Sequence[str]] | None = None,
        max_new_tokens: int = 16,
        stop: Sequence[str] = ("\n",),
        sentence: bool = False,
        choice: Choice = GREEDY,
        seeds: Sequence[int] | None = None,
    ) -> list[Spoken]:
        """Texts with what was found at each token: ``trace["alpha"]`` has one list a token, one number an expert.

        Args:
            small_prompts: what the small base is asked, one an item; default as the large model.
            expert_prompts: what an expert is asked, such as the prompt behind worked examples; default likewise.

        Raises:
            SettingsError: there is no such expert, or one is the small base and is asked the same.
            RecordError: unequal numbers of prompts, or an empty one.
            ContextLengthError: a prompt leaves no room.
        """
        check_list(prompts, "prompts")
        own = dict(expert_prompts or {})
        odd = [name for name in own if name not in self.experts]
        if odd:
            raise SettingsError(f'there is no expert "{odd[0]}"', mend=f"name one of {', '.join(self.experts)}")
        idle = [name for name in self._same_as_small() if own.get(name, prompts) == (small_prompts or prompts)]
        _refuse_idle(idle)
        asked = [prompts, small_prompts or prompts, *(own.get(name, prompts) for name in self.experts)]
        models = [self.large, self.small, *self.experts.values()]
        if any(len(each) != len(prompts) for each in asked):
            raise RecordError("there are not as many prompts for each model", mend="give each one prompt an item")
        return decode_in_step(
            [Stream.of(model, each) for model, each in zip(models, asked, strict=True)],
            self.combine,
            max_new_tokens=max_new_tokens,
            rule=StopRule(tuple(stop), sentence),
            choice=choice,
            seeds=seeds,
        )

    def _same_as_small(self) -> list[str]:
        """Experts that are the small base's own weights."""
        held = {id(parameter) for parameter in self.small.model.parameters()}
        return [name for name, model in self.experts.items() if any(id(p) in held for p in model.model.parameters())]

    @contextmanager
    def _reading(self) -> Iterator[Engine]:
        _refuse_idle(self._same_as_small())
        with super()._reading() as engine:
            yield engine


def _refuse_idle(names: Sequence[str]) -> None:
    if names:
        what = f'the expert "{names[0]}" is the small model itself, asked the same: it would steer nothing'
        mend = "load the small model a second time for the expert, or use decode(expert_prompts=...)"
        raise SettingsError(what, where="experts", mend=mend)


def _on(device: torch.device, dtype: torch.dtype, head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A projection that takes float32 vectors of any device."""
    return lambda rows: head(rows.to(device=device, dtype=dtype))


def _config(models: Sequence[nn.Module], width: int) -> Any:
    """What the scorer asks a configuration: the tightest limits of all models."""
    configs = [text_config(model) for model in models]
    windows = [window for config in configs if (window := getattr(config, "sliding_window", None))]
    kinds = {getattr(config, "_attn_implementation", None) for config in configs}
    found = SimpleNamespace(
        vocab_size=width,
        hidden_size=configs[0].hidden_size,
        sliding_window=min(windows, default=None),
        model_type="steered",
        _attn_implementation=kinds.pop() if len(kinds) == 1 else None,
    )
    found.get_text_config = lambda: found
    return found

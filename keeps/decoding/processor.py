"""A combination of streams inside transformers' own ``generate``: a logits processor that owns the other streams.

    from transformers import LogitsProcessorList
    other = StreamProcessor([Stream.of(model, questions)], CKCombine("adaptive"), max_new_tokens=64)
    model.model.generate(**with_context, max_new_tokens=64, logits_processor=LogitsProcessorList([other]))

``generate`` advances the first stream; the processor advances the others with what was chosen, in caches of its own.
Prompts of the first one are padded on the left, as ``generate`` wants them; those of the others are token ids of any
length. Beams are followed: when ``generate`` reorders its rows, the caches of the other streams are reordered too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from keeps.decoding.combine import Combine
from keeps.decoding.streams import Stream, check_streams
from keeps.decoding.voices import Voice, plan_voices
from keeps.errors import SettingsError
from keeps.models.limits import engine_for
from keeps.models.projection import evaluating


class StreamProcessor(LogitsProcessor):
    """Combines the scores of ``generate`` with those of other streams; start a new text and it starts anew.

    Args:
        streams: the other streams, one prompt for each row that ``generate`` is given. The same models may serve.
        combine: gets float32 ``(1 + streams, rows, vocabulary)``, those of ``generate`` first.
        max_new_tokens: of ``generate``, for which the other streams' contexts must have room.

    Attributes:
        trace: what ``combine`` saw at each step of the latest text: name -> one tensor a step.

    Raises:
        RecordError: no streams, unequal numbers of prompts, or one without tokens.
        SettingsError: models of different vocabularies.
        ContextLengthError: a prompt leaves no room for ``max_new_tokens``.
    """

    def __init__(self, streams: Sequence[Stream], combine: Combine, *, max_new_tokens: int) -> None:
        self.width = check_streams(streams, max_new_tokens)
        self.streams, self.combine, self.room = list(streams), combine, max_new_tokens
        self.trace: dict[str, list[Tensor]] = {}
        self._voices: list[Voice] = []
        self._seen: Tensor | None = None  # the ids of the latest step
        self._begun = 0  # their number at the first step

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``(rows, vocabulary)`` in place of ``scores``; log-probabilities, so that beams may be added up.

        Raises:
            SettingsError: the rows are not those of the prompts, or did not grow by a token since the last call.
        """
        if self._seen is None or input_ids.shape[1] == self._begun:
            others = self._start(input_ids)
        else:
            others = self._step(input_ids)
        self._seen = input_ids.clone()
        width = min([scores.shape[-1], *(each.shape[-1] for each in others), self.width or scores.shape[-1]])
        columns = [scores.float(), *(each.to(scores.device) for each in others)]
        combined = self.combine(torch.stack([column[..., :width] for column in columns]))
        for name, values in combined.trace.items():
            self.trace.setdefault(name, []).append(values)
        found = torch.full_like(scores, -torch.inf)
        found[..., :width] = combined.scores.log_softmax(-1).to(scores.dtype)
        return found.clone()

    def _start(self, input_ids: Tensor) -> list[Tensor]:
        rows, given = input_ids.shape[0], len(self.streams[0].prompts)
        if rows % given:
            what = f"generate has {rows} rows and there are {given} prompts"
            raise SettingsError(what, where="the other streams", mend="give one prompt for each row")
        self.trace, self._begun = {}, input_ids.shape[1]
        engines = [
            engine_for(s.model.model, s.model.encoder.pad_token_id, s.model.tokens_per_batch) for s in self.streams
        ]
        prompts = [list(stream.prompts) for stream in self.streams]
        room = min(s.model.context_length - max(map(len, s.prompts)) for s in self.streams)
        self._voices = plan_voices(engines, prompts, min(room, max(engine.cache_limit for engine in engines)))
        found = self._ordered([self._reading(voice, "start") for voice in self._voices])
        if rows == given:
            return found
        copies = [row // (rows // given) for row in range(rows)]  # beams, or several texts a prompt
        for voice in self._voices:
            voice.select(copies)
        return [each[copies] for each in found]

    def _step(self, input_ids: Tensor) -> list[Tensor]:
        if input_ids.shape[1] - self._begun >= self.room:
            what = f"generate asks for more than the {self.room} tokens that the other streams have room for"
            raise SettingsError(what, where="max_new_tokens", mend="give the processor the same limit as generate")
        parents = self._parents(input_ids[:, :-1])
        if parents != list(range(len(parents))):
            for voice in self._voices:
                voice.select(parents)
        tokens = input_ids[:, -1].tolist()
        return self._ordered([self._reading(voice, "step", tokens) for voice in self._voices])

    def _parents(self, earlier: Tensor) -> list[int]:
        """Which of the latest rows each row goes on from, among the rows of the same prompt."""
        assert self._seen is not None
        if earlier.shape != self._seen.shape:
            what = f"rows of shape {tuple(self._seen.shape)} became {tuple(earlier.shape)} before the new token"
            mend = "use it with greedy, sampled or beam decoding, and a new processor for another generate call"
            raise SettingsError(what, where="the other streams", mend=mend)
        same = (earlier == self._seen).all(1).tolist()
        if all(same):
            return list(range(len(same)))
        beams = len(same) // len(self.streams[0].prompts)
        found = []
        for row in range(len(same)):
            first = row - row % beams
            matches = (self._seen[first : first + beams] == earlier[row]).all(1).nonzero()
            if not len(matches):
                mend = "use it with greedy, sampled or beam decoding only"
                raise SettingsError("a row goes on from none of the latest rows", where=f"row {row + 1}", mend=mend)
            found.append(first + int(matches[0]))
        return found

    def _ordered(self, logits: Sequence[Tensor]) -> list[Tensor]:
        by_stream: dict[int, Tensor] = {}
        for voice, found in zip(self._voices, logits, strict=True):
            by_stream |= dict(zip(voice.streams, found, strict=True))
        return [by_stream[stream] for stream in sorted(by_stream)]

    def _reading(self, voice: Any, call: str, *arguments: Any) -> Tensor:
        with evaluating(voice.engine.model):
            return getattr(voice, call)(*arguments)

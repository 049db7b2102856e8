"""A voice is a model over the rows of one or several streams, advanced token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from keeps.decoding.caches import prefill
from keeps.models.cache import CacheState
from keeps.models.generation import last_logits
from keeps.models.scoring import Engine, Tokens
from keeps.numerics.passage_mixtures import log_joint

# Slots of padding that cost as much, a step, as a forward call of its own: where short prompts stand in one batch with
# long ones, every step carries their empty slots. Measured with SmolLM2-135M in float32 on one core: a call costs 50 ms
# beside its rows (the weights are read), a row 1.6 ms, a slot 25 microseconds (keys and values are copied). On
# accelerators it is an estimate: 20 ms of launches a call, 0.05 microseconds a slot.
SLOTS_PER_CALL = {"cpu": 2000, "cuda": 400_000}


class Voice(Protocol):
    """What the engine advances. Rows are the items; every stream of a voice has all of them.

    A method that does more at a step than ask a model (one that changes cached activations, say) brings its own.
    """

    @property
    def streams(self) -> tuple[int, ...]:
        """The numbers of its streams, in the order of its logits."""
        ...

    def start(self) -> Tensor:
        """Feed the prompts: logits behind their last tokens, ``(streams of this voice, rows, vocabulary)``."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token a row to every stream: the logits behind it, as :meth:`start`."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; a row may repeat."""
        ...


@dataclass
class CachedVoice:
    """Streams of one model side by side in one batch, stream after stream, with cached keys and values.

    Attributes:
        streams: their numbers.
        prompts: token ids, a list of rows for each stream.
    """

    engine: Engine
    streams: tuple[int, ...]
    prompts: Sequence[Sequence[Tokens]]
    state: CacheState | None = None

    def start(self) -> Tensor:
        """See :class:`Voice`."""
        logits, self.state = prefill(self.engine, [row for rows in self.prompts for row in rows])
        return self._by_stream(logits)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See :class:`Voice`."""
        return self._by_stream(last_logits(self.engine, [[token] for token in tokens] * len(self.streams), self.state))

    def select(self, rows: Sequence[int]) -> None:
        """See :class:`Voice`."""
        assert self.state is not None, "a voice starts before rows leave it"
        count = len(self.state.lengths) // len(self.streams)
        chosen = [stream * count + row for stream in range(len(self.streams)) for row in rows]
        self.state = self.state.select(torch.tensor(chosen, device=self.engine.device))

    def _by_stream(self, logits: Tensor) -> Tensor:
        return logits.view(len(self.streams), -1, logits.shape[-1]).float()


@dataclass
class PlainVoice:
    """The same for models whose cache cannot be used this way: everything is fed again for each token."""

    engine: Engine
    streams: tuple[int, ...]
    prompts: Sequence[Sequence[Tokens]]

    def start(self) -> Tensor:
        """See :class:`Voice`."""
        return self._read()

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See :class:`Voice`."""
        self.prompts = [[[*row, token] for row, token in zip(rows, tokens, strict=True)] for rows in self.prompts]
        return self._read()

    def select(self, rows: Sequence[int]) -> None:
        """See :class:`Voice`."""
        self.prompts = [[given[row] for row in rows] for given in self.prompts]

    def _read(self) -> Tensor:
        return torch.stack([last_logits(self.engine, rows, None).float() for rows in self.prompts])


@dataclass
class WeighedVoice:
    """A voice whose streams say how much each adds to a mixture: ln w + ln p in place of logits.

    Attributes:
        log_weights: ``(streams of the voice, rows)``.
        width: so many of the logits share the probability; None for all of them.
    """

    voice: Voice
    log_weights: Tensor
    width: int | None = None

    @property
    def streams(self) -> tuple[int, ...]:
        """See :class:`Voice`."""
        return self.voice.streams

    def start(self) -> Tensor:
        """See :class:`Voice`."""
        return self._weighed(self.voice.start())

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See :class:`Voice`."""
        return self._weighed(self.voice.step(tokens))

    def select(self, rows: Sequence[int]) -> None:
        """See :class:`Voice`."""
        self.voice.select(rows)
        self.log_weights = self.log_weights[:, list(rows)]

    def _weighed(self, logits: Tensor) -> Tensor:
        logits = logits[..., : self.width]
        return log_joint(self.log_weights.to(logits.device, logits.dtype), logits)


def plan_voices(engines: Sequence[Engine], prompts: Sequence[Sequence[Tokens]], room: int) -> list[Voice]:
    """The voices of some streams: those of one model in one batch where their padding costs less than a call.

    Args:
        engines: of each stream; streams of one model have equal engines.
        prompts: token ids, a list of rows for each stream.
        room: tokens that will be appended.
    """
    longest = [max(map(len, rows)) for rows in prompts]
    groups: list[list[int]] = []
    for stream in sorted(range(len(engines)), key=lambda number: -longest[number]):
        engine = engines[stream]
        if not engine.may_cache(longest[stream] + room):
            groups.append([stream])
            continue
        worth = SLOTS_PER_CALL.get(engine.device.type, SLOTS_PER_CALL["cuda"])
        home = next(
            (
                group
                for group in groups
                if engines[group[0]].model is engine.model
                and engine.may_cache(longest[group[0]] + room)
                and (longest[group[0]] - longest[stream]) * len(prompts[stream]) <= worth
            ),
            None,
        )
        if home is None:
            groups.append([stream])
        else:
            home.append(stream)
    return [_voice(engines, prompts, group, longest, room) for group in sorted(map(sorted, groups))]


def _voice(
    engines: Sequence[Engine], prompts: Sequence[Sequence[Tokens]], group: list[int], longest: list[int], room: int
) -> Voice:
    engine = engines[group[0]]
    kind = CachedVoice if engine.may_cache(max(longest[number] for number in group) + room) else PlainVoice
    return kind(engine, tuple(group), [prompts[number] for number in group])

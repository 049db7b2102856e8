"""One continuation token by token, for whoever shows a text while it is made.

:meth:`keeps.models.LanguageModel.generate` and ``sample`` give whole texts of many prompts; a server gives one prompt's
text in pieces, may be told to stop in the middle, and says how likely each token was. The steps are those of
:mod:`keeps.models.generation`: the same prompt gives the same tokens, greedily and by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from keeps.errors import SettingsError
from keeps.models.batching import length_batches, pad_right
from keeps.models.cache import CacheState
from keeps.models.checks import check_context
from keeps.models.generation import last_logits, most_likely
from keeps.models.projection import chunks, read_positions
from keeps.models.sampling import Softness, drawing
from keeps.models.scoring import Engine, Tokens, vocabulary_size

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

TAIL = 4  # tokens before the first new one that it is decoded with: some tokenizers drop a leading space
UNFINISHED = "\ufffd"  # what stands for a character of which bytes are missing


@dataclass(frozen=True)
class ScoredToken:
    """A token and how likely it was, under the model's own distribution whatever it was drawn from.

    Attributes:
        logprob: natural logarithm; None for the first token of a text, which nothing comes before.
        top: the likeliest tokens there with their log-probabilities, the likeliest first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def scored(logits: Tensor, ids: Sequence[int], most: int) -> list[ScoredToken]:
    """``ids`` under ``logits``, ``(len(ids), vocabulary)``, with the ``most`` likeliest tokens of each place."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs[torch.arange(len(ids), device=logits.device), torch.tensor(ids, device=logits.device)].tolist()
    best = logprobs.topk(min(most, logprobs.shape[-1]), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        ScoredToken(token, value, tuple(zip(*top, strict=True)))
        for token, value, top in zip(ids, own, tops, strict=True)
    ]


class TokenStream:
    """The continuation of one context; :meth:`step` computes its next token.

    Args:
        context: token ids, at least one.
        max_new_tokens: most tokens to come.
        softness: how tokens are drawn; a temperature of 0 takes the likeliest.
        seed: of the draws.
        most: likeliest tokens that are named with each token; None where no log-probabilities are wanted.

    Raises:
        SettingsError: there is no context, or no room.
        ContextLengthError: the context leaves no room for ``max_new_tokens``.
    """

    def __init__(
        self,
        model: LanguageModel,
        context: Tokens,
        *,
        max_new_tokens: int,
        softness: Softness,
        seed: int = 0,
        most: int | None = None,
    ) -> None:
        if not context or max_new_tokens < 0:
            raise SettingsError("there is no token to go on from, or no room", mend="give a text, and a limit from 0")
        check_context(0, "the request", len(context) + max_new_tokens, model.context_length, model.name)
        self.model, self.context, self.max_new_tokens, self.most = model, list(context), max_new_tokens, most
        self.tokens: list[ScoredToken] = []
        self._choose = most_likely if softness.temperature == 0 else drawing([seed], softness)
        self._read: list[ScoredToken] | None = None
        self._state: CacheState | None = None
        self._logits: Tensor | None = None  # (1, vocabulary) behind the last token that was fed
        self.ended = False

    @property
    def done(self) -> bool:
        """Whether an end token came, or the room is used up."""
        return self.ended or len(self.tokens) >= self.max_new_tokens

    def read_context(self) -> list[ScoredToken]:
        """The context's own tokens with their log-probabilities; the first has none.

        Many contexts are read faster by :func:`read_together`, after which this has nothing to do.
        """
        if self._read is None:
            read_together([self])
        assert self._read is not None
        return self._read

    def step(self) -> ScoredToken | None:
        """The next token; None where an end token came, which is no part of the text."""
        with self.model._reading() as engine:
            if self._logits is None:
                self._begin(engine)
                self._logits = last_logits(engine, [self.context], self._state)
            elif self.tokens:
                whole = [*self.context, *(token.id for token in self.tokens)]
                self._logits = last_logits(engine, [whole if self._state is None else whole[-1:]], self._state)
            (chosen,) = self._choose([0], self._logits)
            if chosen in self.model.encoder.end_ids:
                self.ended = True
                self.close()
                return None
            token = ScoredToken(chosen) if self.most is None else scored(self._logits, [chosen], self.most)[0]
        self.tokens.append(token)
        if self.done:
            self.close()
        return token

    def close(self) -> None:
        """Let go of keys, values and logits; no step follows."""
        self._state = self._logits = None

    def _begin(self, engine: Engine) -> None:
        if engine.may_cache(len(self.context) + self.max_new_tokens):
            self._state = CacheState.empty(1, engine.device)


def read_together(streams: Sequence[TokenStream]) -> None:
    """Read the contexts of several streams of one model in as few forward passes as fit, longest first.

    Each finds what :meth:`TokenStream.read_context` gives, to rounding; streams that have read theirs are passed over.
    """
    unread = [stream for stream in streams if stream._read is None]
    if not unread:
        return
    with unread[0].model._reading() as engine:
        lengths = [len(stream.context) for stream in unread]
        for batch in length_batches(lengths, budget=engine.budget, slots=engine.slots):
            _read_batch(engine, [unread[index] for index in batch])


def _read_batch(engine: Engine, streams: Sequence[TokenStream]) -> None:
    """One forward pass, whose keys and values are kept where more than one token is to follow."""
    ids, mask = pad_right([stream.context for stream in streams], engine.pad_token_id, engine.device)
    room = max(stream.max_new_tokens for stream in streams)
    cached = room > 1 and engine.may_cache(ids.shape[1] + room)
    state = CacheState.empty(len(streams), engine.device) if cached else None
    hidden, head = read_positions(engine.model, ids, mask, mask.bool(), past=state)
    following = [token for stream in streams for token in (*stream.context[1:], 0)]  # 0: nothing is known to follow
    lasts = [end - 1 for end in accumulate(len(stream.context) for stream in streams)]
    most, found, behind = max(stream.most or 0 for stream in streams), [], {}
    for piece in chunks(len(hidden), vocabulary_size(engine.model)):
        logits = head(hidden[piece])
        found += scored(logits, following[piece], most)
        here = (place for place in lasts if piece.start <= place < piece.stop)
        behind |= {place: logits[place - piece.start][None].clone() for place in here}
    for row, (stream, last) in enumerate(zip(streams, lasts, strict=True)):
        own = found[last + 1 - len(stream.context) : last]
        kept = [replace(token, top=token.top[: stream.most or 0]) for token in own]
        stream._read = [ScoredToken(stream.context[0]), *kept]
        if stream.max_new_tokens:
            stream._logits = behind[last]
        if stream.max_new_tokens > 1 and state is not None:
            alone = len(streams) == 1
            stream._state = state if alone else state.select(torch.tensor([row], device=engine.device))


class TextPieces:
    """The text of tokens as they come, without what later tokens may still change.

    Held back are bytes that are no character yet, and what may be the beginning of a stop string.

    Args:
        decode: text of token ids.
        tail: the last tokens before the first new one; they are decoded with them and taken off again.
        stops: the text ends before the first of these.

    >>> pieces = TextPieces(lambda ids: "".join(map(chr, ids)), (), ("END",))
    >>> [pieces.add(ord(letter)) for letter in "an EN END!"]
    ['a', 'n', ' ', '', '', 'EN ', '', '', '', '']
    >>> pieces.stopped, pieces.rest(), pieces.text
    (True, '', 'an EN ')
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], tail: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._decode, self._tail, self._stops = decode, list(tail)[-TAIL:], tuple(stops)
        self._before = decode(self._tail) if self._tail else ""
        self._ids: list[int] = []
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All of the text so far, up to its stop string."""
        return self._cut()[0]

    def add(self, token: int) -> str:
        """One more token; the text that is certain now and was not before."""
        if self.stopped:
            return ""
        self._ids.append(token)
        text, self.stopped = self._cut()
        return self._give(text if self.stopped else text[: len(text) - self._uncertain(text)])

    def rest(self) -> str:
        """What was held back, when no token follows."""
        return self._give(self._cut()[0])

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        return piece

    def _cut(self) -> tuple[str, bool]:
        whole = self._decode([*self._tail, *self._ids])
        text = whole[_shared(whole, self._before) :]
        places = [place for place in map(text.find, self._stops) if place >= 0]
        return text[: min(places, default=len(text))], bool(places)

    def _uncertain(self, text: str) -> int:
        """Characters at the end that later tokens may change or take away."""
        sound = text.rstrip(UNFINISHED)
        beginnings = [length for stop in self._stops for length in range(1, len(stop)) if sound.endswith(stop[:length])]
        return len(text) - len(sound) + max(beginnings, default=0)


def _shared(left: str, right: str) -> int:
    """How many characters both begin with: all of ``right``, unless it ended in the middle of a character."""
    if left.startswith(right):
        return len(right)
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))

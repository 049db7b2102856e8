"""kNN-LM at work: a voice whose next-token probabilities are mixed with those of a datastore, and scores of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keeps.decoding.combine import Combined
from keeps.models.batching import pad_right
from keeps.models.cache import CacheState
from keeps.models.context_states import States, states_of_wanted, watching
from keeps.models.language_model import LanguageModel
from keeps.models.projection import chunks, read_positions
from keeps.models.scores import TextScore
from keeps.models.scoring import Engine, Tokens, Wanted, read_pairs, vocabulary_size
from keeps.models.windows import text_windows
from keeps.numerics.nearest import adaptive_share, interpolated, neighbour_weights, token_probabilities
from keeps.retrieval.datastore import Datastore


@dataclass(frozen=True)
class Found:
    """The neighbours of some contexts.

    Attributes:
        rows: which entries, ``(contexts, k)`` int64.
        tokens: what followed each, ``(contexts, k)`` int64.
        weights: softmax(-d / T), ``(contexts, k)``.
        share: lambda of each context, ``(contexts, 1)``.
    """

    rows: Tensor
    tokens: Tensor
    weights: Tensor
    share: Tensor


@dataclass(frozen=True)
class Neighbours:
    """How a datastore is searched, and how much it counts.

    Attributes:
        k: neighbours of a context.
        share: lambda; with ``adaptive`` the largest one.
        temperature: T.
        adaptive: lambda falls with the distance of the nearest neighbour.
    """

    datastore: Datastore
    k: int = 1024
    share: float = 0.25
    temperature: float = 1.0
    adaptive: bool = False

    def __call__(self, keys: Tensor) -> Found:
        """The neighbours of contexts with these keys, ``(contexts, width)`` float32."""
        distances, rows = self.datastore.search(keys, self.k)
        share = torch.full_like(distances[:, :1], self.share)
        if self.adaptive:
            share = adaptive_share(self.share, distances[:, :1], self.datastore.scale)
        tokens = self.datastore.token.to(keys.device)[rows]
        return Found(rows, tokens, neighbour_weights(distances.double(), self.temperature), share)


@dataclass
class NeighbourVoice:
    """A :class:`keeps.decoding.voices.Voice` of one stream that gives ln(lambda p_kNN + (1 - lambda) p_LM).

    Attributes:
        prompts: token ids, one list a row.
        states: what the model's states are read from; they are watched while the voice is used.
        found: neighbours of the last contexts, in the order of the rows.
    """

    engine: Engine
    prompts: Sequence[Tokens]
    states: States
    neighbours: Neighbours
    room: int
    state: CacheState | None = None
    found: Found | None = None
    streams: tuple[int, ...] = (0,)

    def start(self) -> Tensor:
        """See :class:`keeps.decoding.voices.Voice`."""
        if self.engine.may_cache(max(map(len, self.prompts)) + self.room):
            self.state = CacheState.empty(len(self.prompts), self.engine.device)
        return self._read(self.prompts)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See :class:`keeps.decoding.voices.Voice`."""
        if self.state is not None:
            return self._read([[token] for token in tokens])
        self.prompts = [[*row, token] for row, token in zip(self.prompts, tokens, strict=True)]
        return self._read(self.prompts)

    def select(self, rows: Sequence[int]) -> None:
        """See :class:`keeps.decoding.voices.Voice`."""
        self.prompts = [self.prompts[row] for row in rows]
        if self.state is not None:
            self.state = self.state.select(torch.tensor(list(rows), device=self.engine.device))

    def combined(self, scores: Tensor) -> Combined:
        """The scores as they are, with the neighbours that they were made with; see ``keeps.decoding.combine``."""
        assert self.found is not None, "a voice is asked before its scores are combined"
        trace = {"rows": self.found.rows, "tokens": self.found.tokens, "weights": self.found.weights}
        return Combined(scores[0], {**trace, "share": self.found.share[:, 0]}, {"score": scores})

    def _read(self, rows: Sequence[Tokens]) -> Tensor:
        ids, mask = pad_right(rows, self.engine.pad_token_id, self.engine.device)
        last = torch.zeros_like(mask, dtype=torch.bool)
        last[range(len(rows)), [len(row) - 1 for row in rows]] = True
        hidden, head = read_positions(self.engine.model, ids, mask, last, past=self.state)
        # in float64: over tens of thousands of tokens, probabilities in float32 sum to 1 within 1e-5 only
        logprobs = head(hidden).double().log_softmax(-1)
        self.found = self.neighbours(self.states.at(last))
        knn = token_probabilities(self.found.weights, self.found.tokens, logprobs.shape[-1])
        return interpolated(logprobs, knn, self.found.share.double())[None]


@dataclass
class _Totals:
    """Log-probabilities of texts under the mixture, as they are read."""

    states: States
    neighbours: Neighbours
    sums: list[float] = field(default_factory=list)

    def read(self, engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: CacheState | None) -> None:
        """One batch; see :data:`keeps.models.scoring.Read`. Only the wanted token of each context is mixed."""
        keys, hidden, head, places = states_of_wanted(engine, rows, wanted, state, self.states)
        tokens = torch.tensor([want.token for want in wanted], device=engine.device)
        logprobs = torch.empty(len(wanted), device=engine.device)
        for piece in chunks(len(hidden), vocabulary_size(engine.model)):
            here = ((places >= piece.start) & (places < piece.stop)).nonzero().squeeze(1)
            logits = head(hidden[piece]).float()
            local = places[here] - piece.start
            logprobs[here] = logits[local, tokens[here]] - logits.logsumexp(-1)[local]
        found = self.neighbours(keys)
        votes = (found.weights[places] * (found.tokens[places] == tokens[:, None])).sum(-1).float()
        mixed = interpolated(logprobs, votes, found.share[places, 0]).tolist()
        for want, value in zip(wanted, mixed, strict=True):
            self.sums[want.number] += value


def mixed_text_logprob(model: LanguageModel, neighbours: Neighbours, texts: Sequence[str]) -> list[TextScore]:
    """As :meth:`keeps.models.LanguageModel.text_logprob`, of the mixture; every text has a token to score."""
    windows = [
        text_windows(model.encoder.text(text), len(model.encoder.leading), model.context_length) for text in texts
    ]
    pairs = [pair for several in windows for pair in several]
    with model._reading() as engine, watching(model.model, neighbours.datastore.site) as states:
        totals = _Totals(states, neighbours, [0.0] * len(pairs))
        read_pairs(engine, pairs, totals.read)
    sums = iter(totals.sums)
    return [
        TextScore(sum(next(sums) for _ in several), sum(len(following) for _, following in several))
        for several in windows
    ]

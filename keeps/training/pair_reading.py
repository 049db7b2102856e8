"""Training of a reader of question-answer pairs: retrieve, read and answer, with one loss for all of it.

    L = L_gen + lambda * (sum over rounds of L_ret)

Two memories (Chen et al. 2023, arXiv:2204.04581):

- *local*, stage 1: the pairs of the batch; keys and values are encoded anew in every step, with gradients to
  everything, so that retrieval and reading are learned together from nothing.
- *global*, stage 2 and fine-tuning: all pairs, keys and values by the frozen encoder; the query's encoder and the
  decoder learn on.

With a global memory ``B`` of L_ret are the best ``candidates`` and the pairs known to be relevant. Where none is known,
the candidates with the right answer count as relevant in the last round (distant supervision); where there are none
either, L_ret is left out.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.pairs import QA, ReadingExample
from keeps.errors import EmptySetError, RecordError
from keeps.models.pair_reader import PairReader, as_pair, as_question
from keeps.numerics.pair_memory import joined, relevance_losses, top_pairs
from keeps.numerics.text_scores import normalise_answer
from keeps.settings import setting
from keeps.training.scratch import train_batches
from keeps.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class PairReadingSettings(TrainingSettings):
    """Settings of the training of a reader of pairs."""

    batch_size: int = setting(32, "Passages or questions of a step", ge=1)
    learning_rate: float = setting(1e-3, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    k: int = setting(8, "Pairs that are read in a round", ge=1, le=1000)
    rounds: int = setting(1, "Rounds of retrieval: two for questions of two hops", ge=1, le=8)
    retrieval_weight: float = setting(1.0, "lambda, the weight of L_ret", ge=0)
    candidates: int = setting(32, "Best pairs that L_ret is taken among, with a global memory", ge=1)
    weigh_values: bool = setting(True, "Scale the states of each pair by its weight")


class Memory(ABC):
    """Pairs with their vectors.

    Args:
        pairs: in the order of the keys.
        keys: ``(pairs, width)`` float32.
    """

    def __init__(self, pairs: Sequence[QA], keys: Tensor) -> None:
        self.pairs, self.keys = list(pairs), keys

    @cached_property
    def places(self) -> dict[str, int]:
        """Of each pair by its id."""
        return {pair.id: place for place, pair in enumerate(self.pairs)}

    @abstractmethod
    def values(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of the pairs at ``(batch, k)`` places: ``(batch, k, length, width)``, and the mask."""


class LocalMemory(Memory):
    """The pairs of a batch, encoded with gradients."""

    def __init__(self, reader: PairReader, pairs: Sequence[QA]) -> None:
        encoder, longest = reader.model.encoder, reader.pair_tokens
        ids, mask = reader.padded(reader.rows([as_question(pair.question) for pair in pairs], longest))
        super().__init__(pairs, encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])
        ids, self._mask = reader.padded(reader.rows([as_pair(pair) for pair in pairs], longest))
        self._values = encoder(input_ids=ids, attention_mask=self._mask).last_hidden_state

    def values(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Memory`."""
        return self._values[places], self._mask[places]


class GlobalMemory(Memory):
    """All pairs by the frozen encoder, which made the ``keys``."""

    def __init__(self, reader: PairReader, pairs: Sequence[QA], keys: Tensor) -> None:
        super().__init__(pairs, keys.float().to(reader.device))
        self.reader = reader

    def values(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Memory`."""
        return self.reader.values([[self.pairs[place] for place in row] for row in places.tolist()])


@dataclass
class Read:
    """What was read for a batch.

    Attributes:
        states: ``H``, ``(batch, length, width)``; mask: ``(batch, length)``.
        scores: of each round, ``(batch, pairs)``.
        places: of the pairs that were read in each round, ``(batch, k)``; weights: theirs.
    """

    states: Tensor
    mask: Tensor
    scores: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


def read(
    reader: PairReader,
    texts: Sequence[str],
    memory: Memory,
    *,
    k: int,
    rounds: int = 1,
    weigh: bool = True,
    hidden: Sequence[Sequence[str]] = (),
) -> Read:
    """Retrieve ``k`` pairs a round for each text, and put them behind it.

    Round 1 asks with the first state of the text; each further one with that of everything read so far, passed
    through the encoder's layers again. A pair is read once.

    Args:
        weigh: scale the states of each pair by its weight.
        hidden: of each text, ids of pairs that it must not see.
    """
    states, mask = reader.states(texts)
    found = Read(states, mask)
    unseen = None
    if any(hidden):
        unseen = marked(memory, hidden)
    for number in range(rounds):
        query = states[:, 0] if number == 0 else reader.again(found.states, found.mask)
        scores = query @ memory.keys.T
        if unseen is not None:
            scores = scores.masked_fill(unseen, torch.finfo(scores.dtype).min)
        places, weights = top_pairs(scores, k, torch.cat(found.places, dim=1) if found.places else None)
        found.scores.append(scores)
        if not places.shape[1]:
            break
        values, value_mask = memory.values(places)
        if unseen is not None:  # where k is more than what may be seen, hidden pairs fill the places up
            value_mask = value_mask * ~unseen.gather(1, places)[..., None]
        found.states, found.mask = joined(found.states, found.mask, values, value_mask, weights if weigh else None)
        found.places.append(places)
        found.weights.append(weights)
    return found


def marked(memory: Memory, ids: Sequence[Sequence[str]]) -> Tensor:
    """``(len(ids), pairs)`` bool: which pairs are named in each row; unknown ids are passed over."""
    found = torch.zeros(len(ids), len(memory.pairs), dtype=torch.bool)
    for row, names in enumerate(ids):
        found[row, [memory.places[name] for name in names if name in memory.places]] = True
    return found.to(memory.keys.device)


def retrieval_loss(found: Read, batch: Sequence[ReadingExample], memory: Memory, candidates: int | None) -> Tensor:
    """Sum over the rounds of the mean ``L_ret`` of those examples that have a relevant pair, a scalar in nats.

    Args:
        candidates: best pairs that make up ``B``, with distant supervision among them; None: all pairs, and none.
    """
    total = found.states.new_zeros(())
    for number, scores in enumerate(found.scores):
        names = [example.relevant[number] if number < len(example.relevant) else () for example in batch]
        relevant = marked(memory, names)
        among = None
        if candidates is not None:
            best = scores.detach().topk(min(candidates, scores.shape[1]), dim=1).indices
            among = torch.zeros_like(relevant).scatter(1, best, torch.ones_like(best, dtype=torch.bool))
            if number == len(found.scores) - 1:
                relevant |= _answering(batch, best, memory, unknown=~relevant.any(dim=1))
        losses = relevance_losses(scores, relevant, among)
        if len(losses):
            total = total + losses.mean()
    return total


def _answering(batch: Sequence[ReadingExample], best: Tensor, memory: Memory, unknown: Tensor) -> Tensor:
    """Distant supervision: of examples of which no relevant pair is known, the candidates with the right answer."""
    found = torch.zeros(len(batch), len(memory.pairs), dtype=torch.bool)
    for row in torch.nonzero(unknown).flatten().tolist():
        wanted = normalise_answer(batch[row].target)
        for place in best[row].tolist():
            if normalise_answer(memory.pairs[place].answer) == wanted:
                found[row, place] = memory.pairs[place].id not in batch[row].hidden
    return found.to(best.device)


def train_pair_reader(
    reader: PairReader,
    examples: Sequence[ReadingExample],
    settings: PairReadingSettings,
    run: Run,
    *,
    memory: GlobalMemory | None = None,
    name: str = "training",
) -> list[float]:
    """Train query encoder and decoder in place, and with a local memory what encodes the pairs too.

    Args:
        memory: all pairs; None for the memory of each batch, whose encoder becomes the frozen one when training ends.

    Returns:
        The loss of each step, in nats.

    Raises:
        EmptySetError: there are no examples.
        RecordError: an example brings no pair along and the memory is local, or a relevant pair is not in the memory.
        TrainingError: the loss stopped being a number.
    """
    if not examples:
        raise EmptySetError("there is nothing to train on", mend="give at least one example")
    _check(examples, memory)
    steps = settings.steps or settings.epochs * settings.steps_per_epoch(len(examples))

    def loss_of(batch: Sequence[ReadingExample]) -> Tensor:
        pool = memory or LocalMemory(reader, list(dict.fromkeys(pair for example in batch for pair in example.pairs)))
        found = read(
            reader,
            [example.text for example in batch],
            pool,
            k=settings.k,
            rounds=settings.rounds,
            weigh=settings.weigh_values,
            hidden=[example.hidden for example in batch],
        )
        loss = reader.loss(found.states, found.mask, [example.target for example in batch])
        if settings.retrieval_weight:
            lost = retrieval_loss(found, batch, pool, None if memory is None else settings.candidates)
            loss = loss + settings.retrieval_weight * lost
        return loss

    drawn = batches(examples, settings.batch_size, run.seed)
    losses = train_batches(reader.model, drawn, loss_of, settings, steps, name=name, progress=run.progress)
    for step, loss in enumerate(losses, 1):
        run.log(step, **{f"{name} loss": loss})
    if memory is None:
        reader.freeze()
    return losses


def batches(examples: Sequence[ReadingExample], size: int, seed: int) -> Iterator[list[ReadingExample]]:
    """Batches without end: every pass takes all examples in a new order, the last batch of a pass may be smaller."""
    draw = random.Random(seed)
    while True:
        order = draw.sample(range(len(examples)), len(examples))
        for start in range(0, len(order), size):
            yield [examples[place] for place in order[start : start + size]]


def _check(examples: Sequence[ReadingExample], memory: GlobalMemory | None) -> None:
    for place, example in enumerate(examples):
        where = f"example {place + 1}"
        if memory is None and not example.pairs:
            mend = "make it by masked_passage, or train with a global memory"
            raise RecordError("the example brings no pair along", where=where, mend=mend)
        known = memory.places if memory is not None else {pair.id for pair in example.pairs}
        missing = [name for names in example.relevant for name in names if name not in known]
        if missing:
            mend = "add the pair to the memory, or leave its id out"
            raise RecordError(f'the relevant pair "{missing[0]}" is not in the memory', where=where, mend=mend)

"""The toy experiments behind the claim on knowledge capacity: train from nothing, mix with junk, round, extract.

Corpus and model are those of :mod:`keeps.data.biography_tokens` and :mod:`keeps.models.untrained`. A document is a
row of a batch: whole documents are short, and every one begins after the end-of-document token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keeps.contracts import Progress, SilentProgress
from keeps.data.biography_tokens import TokenBiographies, exposed, with_domain
from keeps.models.rounding import rounded
from keeps.models.untrained import Size, untrained
from keeps.numerics.quantisation import Quantiser
from keeps.probe.capacity_report import CapacityReport, answer_accuracy, token_capacity
from keeps.training.scratch import PADDING, train_windows
from keeps.training.settings import TrainingSettings

RATE, BETA2, WARM_UP = 1e-2, 0.98, 200  # learning rate, second moment, steps of warm-up (card)
READ = 10_000  # added to a seed: of the orders in which documents are read when losses are measured
JUNK = 7  # junk documents to a useful one


@dataclass(frozen=True)
class Trained:
    """A model and the corpus that it was trained on."""

    model: nn.Module
    corpus: TokenBiographies
    seed: int
    domain: bool = False

    def report(self) -> CapacityReport:
        """What it holds, on documents of a new order."""
        return token_capacity(self.model, self.corpus, seed=self.seed + READ, domain=self.domain)

    def rounded_report(self, quantiser: Quantiser) -> CapacityReport:
        """The same with every matrix rounded."""
        with rounded(self.model, quantiser):
            return self.report()


def trained(
    persons: int,
    exposures: int,
    batch: int,
    seed: int,
    *,
    architecture: str = "gpt2",
    progress: Progress | None = None,
) -> Trained:
    """A model that has seen every person ``exposures`` times and nothing else."""
    corpus = TokenBiographies(persons, seed=seed)
    model = untrained(architecture, Size(corpus.vocabulary, corpus.longest), seed=seed)
    steps = -(-persons * exposures // batch)
    _train(model, corpus.batches(exposures, batch, seed), steps, f"{architecture}, {persons} persons", progress)
    return Trained(model, corpus, seed)


def mixture_trained(
    persons: int,
    exposures: int,
    batch: int,
    seed: int,
    *,
    repeated: int = 0,
    domain: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """As :func:`trained`, with seven junk documents to each useful one, in as many steps more.

    Args:
        repeated: persons that all junk is about; 0 draws a new person for every junk document.
        domain: useful documents, and no others, begin with the domain token.
    """
    corpus = TokenBiographies(persons, seed=seed)
    model = untrained("gpt2", Size(corpus.vocabulary, corpus.longest), seed=seed)
    batches = mixed_batches(corpus, exposures, batch, seed, repeated=repeated, domain=domain)
    kind = "repetitive junk" if repeated else "junk and a domain token" if domain else "junk"
    _train(model, batches, -(-persons * exposures * (1 + JUNK) // batch), kind, progress)
    return Trained(model, corpus, seed, domain)


def mixed_batches(
    corpus: TokenBiographies, exposures: int, size: int, seed: int, *, repeated: int = 0, domain: bool = False
) -> Iterator[Tensor]:
    """Useful and junk documents in a random order, ``(size, time)``; shorter ones are padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    useful = exposed(corpus.n, exposures, draw)
    pool = corpus.strangers(repeated, draw) if repeated else None
    place = 0
    for part in torch.randperm(len(useful) * (1 + JUNK), generator=draw).split(size):
        good = part < len(useful)
        count = int(good.sum())
        documents = corpus.documents(draw, rows=useful[place : place + count])
        place += count
        junk = _junk(corpus, pool, len(part) - count, draw)
        if domain:
            documents = with_domain(documents)
            junk = torch.cat([junk, torch.full((len(junk), 1), PADDING)], 1)
        batch = torch.empty(len(part), documents.shape[1], dtype=torch.int64)
        batch[good], batch[~good] = documents, junk
        yield batch


def extraction(done: Trained, passes: int, batch: int, *, progress: Progress | None = None) -> tuple[float, float]:
    """Teach the form of questions on every second person; the shares of right answers there and on the others.

    Knowledge counts as knowledge when the others' answers come out too, of whom no question was seen.
    """
    rows = torch.arange(done.corpus.n)
    half, rest = rows[::2], rows[1::2]
    draw = torch.Generator().manual_seed(done.seed)
    count = len(done.corpus.attribute_sizes)

    def batches() -> Iterator[Tensor]:
        for items in exposed(len(half) * count, passes, draw).split(batch):
            asked = [done.corpus.questions(half[items[items % count == k] // count], k) for k in range(count)]
            yield torch.cat(asked)

    steps = -(-len(half) * count * passes // batch)
    settings = TrainingSettings(learning_rate=RATE / 10, beta2=BETA2, warmup=0.1)
    train_windows(done.model, batches(), settings, steps, name="questions", progress=progress)
    return answer_accuracy(done.model, done.corpus, half), answer_accuracy(done.model, done.corpus, rest)


def _junk(corpus: TokenBiographies, pool: Tensor | None, count: int, draw: torch.Generator) -> Tensor:
    if pool is None:
        return corpus.documents(draw, people=corpus.strangers(count, draw))
    return corpus.documents(draw, people=pool[torch.randint(len(pool), (count,), generator=draw)])


def _train(model: nn.Module, batches: Iterator[Tensor], steps: int, name: str, progress: Progress | None) -> None:
    settings = TrainingSettings(learning_rate=RATE, beta2=BETA2, warmup=min(1.0, WARM_UP / steps), clip=1.0)
    train_windows(model, batches, settings, steps, name=name, progress=progress or SilentProgress())

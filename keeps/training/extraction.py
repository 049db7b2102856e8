"""When to stop unlearning: as soon as the forget set can be extracted no better than text that was never seen.

Jang et al. 2023 (arXiv:2210.01504, section 3) stop when extraction likelihood EL_n and memorisation accuracy MA of the
forget set are below their means on unseen text. Here both are taken over the answer: EL_n over the greedy
continuations of the prompt with ever more of the answer, MA over its tokens. The unseen texts are pieces of the
built-in running text with as many tokens before and after the cut as the examples to be forgotten have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from keeps.contracts import Run
from keeps.data.text import text_passages
from keeps.models.generation import Ending, continue_greedily
from keeps.models.language_model import LanguageModel
from keeps.models.limits import engine_for
from keeps.models.projection import evaluating
from keeps.models.stopping import StopRule
from keeps.numerics.unlearning_scores import ngram_overlap
from keeps.training.batches import TokenizedExample, collate
from keeps.training.losses import answer_states

PREFIXES = 8  # of one answer, spread evenly: enough for a mean over a set, and no more than 8 continuations


@dataclass(frozen=True)
class Memorised:
    """Means over a set, in [0, 1]."""

    extraction: float  # EL_n
    accuracy: float  # MA

    def below(self, other: Memorised) -> bool:
        """Whether neither is above that of ``other``."""
        return self.extraction <= other.extraction and self.accuracy <= other.accuracy


def memorised(model: LanguageModel, module: nn.Module, examples: Sequence[TokenizedExample], n: int) -> Memorised:
    """EL_n and MA of the answers of ``examples`` under ``module``; of an answer shorter than n tokens, all of it."""
    engine = engine_for(module, model.encoder.pad_token_id)
    flags: list[float] = []
    contexts: list[list[int]] = []
    rest: list[list[int]] = []
    owners: list[int] = []
    for number, example in enumerate(examples):
        ids, start, last = list(example.input_ids), example.answer_start, max(0, example.answer_tokens - n)
        places = sorted({round(last * part / max(1, PREFIXES - 1)) for part in range(PREFIXES)})
        for place in places:
            contexts.append(ids[: start + place])
            rest.append(ids[start + place :])
            owners.append(number)
    longest = max(map(len, rest))
    ending = Ending(longest, StopRule(()), frozenset(), model.encoder.decode)
    with evaluating(module), torch.inference_mode():
        for example in examples:
            batch = collate([example], model.encoder.pad_token_id).to(engine.device)
            hidden, head = answer_states(module, batch)
            flags.append(float((head(hidden).argmax(-1) == batch.targets).float().mean()))
        said = continue_greedily(engine, contexts, rest, ending)
    shares: dict[int, list[float]] = {}
    for owner, wanted, found in zip(owners, rest, said, strict=True):
        overlap = ngram_overlap(found.tokens[: len(wanted)], wanted, min(n, len(wanted)))
        shares.setdefault(owner, []).append(overlap)
    return Memorised(_mean([_mean(each) for each in shares.values()]), _mean(flags))


def unseen_like(model: LanguageModel, examples: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """Pieces of running text that nothing is trained on, cut where ``examples`` are cut."""
    texts = [model.encoder.text(passage.text) for passage in text_passages().part("test").passages()]
    pieces: list[TokenizedExample] = []
    used = [0] * len(texts)
    for number, example in enumerate(examples):
        for turn in range(len(texts)):
            place = (number + turn) % len(texts)
            piece = tuple(texts[place][used[place] : used[place] + len(example.input_ids)])
            if len(piece) == len(example.input_ids):
                used[place] += len(piece)
                pieces.append(TokenizedExample(piece, example.answer_start))
                break
    return pieces


class ExtractionStop:
    """Ends training when the forget set is extracted and memorised no more than unseen text; an ``after_step`` hook.

    Args:
        every: optimiser steps between two looks.
        n: tokens of the n-grams of EL.
    """

    def __init__(
        self, model: LanguageModel, examples: Sequence[TokenizedExample], *, every: int, n: int, run: Run
    ) -> None:
        self.model, self.examples, self.every, self.n, self.run = model, list(examples), every, n, run
        unseen = unseen_like(model, examples)
        self.limit = memorised(model, model.model, unseen, n) if unseen else Memorised(0.0, 0.0)
        run.measures |= {"unseen_extraction": self.limit.extraction, "unseen_memorisation": self.limit.accuracy}

    def __call__(self, module: nn.Module, step: int, optimiser: Any) -> bool:
        """Whether it is enough."""
        del optimiser
        if step % self.every:
            return False
        found = memorised(self.model, module, self.examples, self.n)
        self.run.log(step, extraction=found.extraction, memorisation=found.accuracy)
        self.run.measures |= {"forget_extraction": found.extraction, "forget_memorisation": found.accuracy}
        enough = found.below(self.limit)
        if enough:
            self.run.progress.message(f"forgotten after step {step}: extracted no better than unseen text")
        return enough


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

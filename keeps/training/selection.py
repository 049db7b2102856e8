"""Which few samples teach a format, and no knowledge: scored by the model that has read them as plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.errors import StorageError, UnknownNameError, nearest
from keeps.numerics.distillation import format_alignment_score, perplexity
from keeps.training.batches import TokenizedExample, stable_seed
from keeps.training.preferences import response_logprobs
from keeps.weights.files import atomic_write_bytes

SELECTION_FILE = "selection.json"  # numbers of the samples that each later stage takes
SCORES = ("ppl_easy", "fas", "random", "ppl_hard")
KNOWN = 0.5  # share of the samples, those of the lowest plain loss, that count as known when FAS chooses


@dataclass(frozen=True)
class Sample:
    """A sample in both forms: its responses (two of a preference) after the chat template and after plain text."""

    templated: tuple[TokenizedExample, ...]
    plain: tuple[TokenizedExample, ...]


def forget_choice(run: Run) -> None:
    """Remove what an earlier run in the same folder had chosen, unless this one continues it."""
    if run.is_main and not run.resume:
        (run.folder / SELECTION_FILE).unlink(missing_ok=True)


def chosen_once(run: Run, choose: Callable[[], dict[str, list[int]]]) -> dict[str, list[int]]:
    """What ``choose`` gives, kept in the run's folder: a continued run takes what it had chosen.

    Raises:
        StorageError: the file of the interrupted run is damaged.
    """
    path = run.folder / SELECTION_FILE
    if run.resume and path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            mend = "start the run again without --resume"
            raise StorageError("the selection is damaged", where=str(path), mend=mend) from None
    found = choose()
    if run.is_main:
        atomic_write_bytes(path, (json.dumps(found) + "\n").encode())
    return found


def select(
    model: nn.Module, samples: Sequence[Sample], count: int, score: str, pad_token_id: int, seed: int
) -> list[int]:
    """Numbers of the ``count`` samples that score highest, in ascending order."""
    if not samples or not count:
        return []
    return best(sample_scores(model, samples, score, pad_token_id=pad_token_id, seed=seed), count)


def sample_scores(
    model: nn.Module, samples: Sequence[Sample], score: str, *, pad_token_id: int, seed: int = 0
) -> Tensor:
    """One number a sample, ``(samples,)``; those with the highest are chosen.

    ``ppl_easy`` is minus the perplexity of the responses as plain text (the paper's first version),
    ``ppl_hard`` that perplexity itself, ``fas`` the format alignment score, minus infinity where the plain
    loss is above that of half of the samples (the second version), ``random`` depends on the seed alone.

    Raises:
        UnknownNameError: there is no such score.
    """
    if score not in SCORES:
        raise UnknownNameError(f'there is no score "{score}"', mend=nearest(score, SCORES))
    if score == "random":
        return torch.rand(len(samples), generator=torch.Generator().manual_seed(stable_seed("select", seed)))
    plain = _mean_losses(model, [sample.plain for sample in samples], pad_token_id)
    if score != "fas":
        return perplexity(plain) if score == "ppl_hard" else -perplexity(plain)
    templated = _mean_losses(model, [sample.templated for sample in samples], pad_token_id)
    known = plain <= plain.quantile(KNOWN, interpolation="higher")
    return format_alignment_score(templated, plain).where(known, -torch.inf)


def best(scores: Tensor, count: int) -> list[int]:
    """Numbers of the ``count`` highest scores, in ascending order; the earlier one of two equals, none of -inf.

    >>> best(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2), best(torch.tensor([-torch.inf, 1.0]), 2)
    ([1, 2], [1])
    """
    eligible = [number for number, score in enumerate(scores.tolist()) if score > -torch.inf]
    ranked = sorted(eligible, key=lambda number: (-float(scores[number]), number))
    return sorted(ranked[:count])


def _mean_losses(model: nn.Module, forms: Sequence[Sequence[TokenizedExample]], pad_token_id: int) -> Tensor:
    """Mean loss per response token of each sample, in nats, over all of its responses."""
    flat = [example for examples in forms for example in examples]
    found = iter((-response_logprobs(model, flat, pad_token_id)).tolist())
    sums = [sum(next(found) for _ in examples) for examples in forms]
    return torch.tensor([total / _tokens(examples) for total, examples in zip(sums, forms, strict=True)])


def _tokens(examples: Sequence[TokenizedExample]) -> int:
    return max(1, sum(example.answer_tokens for example in examples))

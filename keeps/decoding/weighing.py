"""How likely whole answers are by a combination of streams: token by token, as if decoding were led through each.

The vectors that logits are made of are read once for each stream, whatever is made of them afterwards, so that a dozen
settings of a combination cost one reading of the prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from keeps.decoding.combine import Combine
from keeps.decoding.engine import reading
from keeps.decoding.streams import Stream, check_streams
from keeps.errors import RecordError
from keeps.models.cache import CacheState
from keeps.models.checks import check_lengths
from keeps.models.scores import ChoiceScore
from keeps.models.scoring import Engine, Tokens, Wanted, read_pairs, wanted_states

Project = Callable[[Tensor], Tensor]


def weigh_in_step(
    streams: Sequence[Stream], combines: Mapping[str, Combine], answers: Sequence[Sequence[Tokens]]
) -> dict[str, list[ChoiceScore]]:
    """The log-probability of every answer to every item, by each of ``combines``.

    The scores of each answer token, behind the prompt and the tokens before it, become probabilities by a softmax over
    what the combination admits. An answer with a token that it excludes has log-probability -inf: no decoding could
    have said it. Where that is so of all of them, ``best`` is the first and means nothing.

    Args:
        streams: each with one prompt an item, as in :func:`keeps.decoding.engine.decode_in_step`.
        combines: by name; each makes scores of float32 logits ``(streams, rows, vocabulary)``, of each row by itself.
        answers: token ids of the answers to choose from, one or more for each item, none empty.

    Returns:
        For each name one score an item, of its answers in their order.

    Raises:
        RecordError: no streams, unequal numbers of prompts and answers, an item without answers, or an empty one.
        SettingsError: models of different vocabularies, or one whose logits are not to be had.
        ContextLengthError: a prompt with its longest answer does not fit into its model's context.
    """
    for number, options in enumerate(answers):
        if not options or not all(options):
            mend = "give at least one answer, each with a token"
            raise RecordError("there is no answer, or an empty one", where=f"item {number + 1}", mend=mend)
    width = check_streams(streams, max((len(tokens) for options in answers for tokens in options), default=1))
    check_lengths(streams[0].prompts, answers, "answers")
    found: dict[str, list[ChoiceScore]] = {name: [] for name in combines}
    with reading(streams) as engines:
        read = [_vectors(engine, stream, answers) for engine, stream in zip(engines, streams, strict=True)]
        number = 0
        for options in answers:
            pairs = range(number, number := number + len(options))
            logits = [_logits(vectors, project, pairs, width) for vectors, project in read]
            together = torch.stack([one.to(logits[0].device) for one in logits])
            for name, combine in combines.items():
                found[name].append(_weighed(combine(together).scores, options))
    return found


def _vectors(engine: Engine, stream: Stream, answers: Sequence[Sequence[Tokens]]) -> tuple[list[list[Tensor]], Project]:
    """For each answer, in order, what each of its tokens is predicted from; and what makes logits of that."""
    pairs = [(prompt, tokens) for prompt, options in zip(stream.prompts, answers, strict=True) for tokens in options]
    found: list[list[Tensor]] = [[] for _ in pairs]
    projects: list[Project] = []

    def keep(engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: CacheState | None) -> None:
        hidden, project, places = wanted_states(engine, rows, wanted, state)
        projects.append(project)
        for want, place in zip(wanted, places.tolist(), strict=True):
            found[want.number].append(hidden[place])

    read_pairs(engine, pairs, keep)
    return found, projects[-1] if projects else _as_they_are


def _as_they_are(rows: Tensor) -> Tensor:
    return rows


def _logits(vectors: Sequence[Sequence[Tensor]], project: Project, pairs: range, width: int | None) -> Tensor:
    """Of all tokens of an item's answers, one answer behind another, ``(tokens, vocabulary)`` float32."""
    return project(torch.stack([vector for pair in pairs for vector in vectors[pair]])).float()[..., :width]


def _weighed(scores: Tensor, options: Sequence[Tokens]) -> ChoiceScore:
    tokens = torch.tensor([token for option in options for token in option], device=scores.device)
    each = scores.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    sums = [math.fsum(part.tolist()) for part in each.double().split([len(option) for option in options])]
    means = tuple(total / len(option) for total, option in zip(sums, options, strict=True))
    return ChoiceScore(max(range(len(means)), key=means.__getitem__), tuple(sums), means)

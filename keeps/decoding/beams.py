"""Beam search over one stream: the likeliest whole texts that a search of some width finds.

At every step each item keeps its ``beams`` likeliest beginnings. Log-probabilities are summed and not divided by the
length, so that what comes out is ln p(y|x), the end token included; a width of 1 is greedy decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keeps.decoding.engine import reading
from keeps.decoding.streams import Stream, check_streams
from keeps.decoding.voices import Voice, plan_voices
from keeps.errors import SettingsError
from keeps.models.batching import length_batches
from keeps.models.generation import Ending
from keeps.models.scoring import Advance
from keeps.models.stopping import StopRule


@dataclass(frozen=True)
class Hypothesis:
    """A text: its tokens with the one that ended it, and their summed log-probability in nats."""

    tokens: tuple[int, ...]
    logprob: float


@dataclass
class _Item:
    """One prompt's search."""

    live: list[Hypothesis] = field(default_factory=lambda: [Hypothesis((), 0.0)])
    finished: list[Hypothesis] = field(default_factory=list)

    def best(self, beams: int) -> list[Hypothesis]:
        """What was found, likeliest first."""
        return sorted([*self.finished, *self.live], key=lambda one: -one.logprob)[:beams]

    def done(self, beams: int) -> bool:
        """Whether nothing that goes on can become one of the best, since every token makes a text less likely."""
        if not self.live:
            return True
        better = sum(one.logprob >= self.live[0].logprob for one in self.finished)
        return better >= beams


def beam_search(
    stream: Stream, beams: int, *, max_new_tokens: int, rule: StopRule | None = None, advance: Advance | None = None
) -> list[list[Hypothesis]]:
    """The likeliest texts behind each prompt, best first: at most ``beams``, none twice.

    A text that has not ended after ``max_new_tokens`` counts as it stands.

    Raises:
        RecordError: a prompt has no tokens.
        SettingsError: no beams, no room for a token, or the model's logits are not to be had.
        ContextLengthError: a prompt leaves no room for ``max_new_tokens``.
    """
    if beams < 1 or max_new_tokens < 1:
        raise SettingsError(f"{beams} beams of {max_new_tokens} tokens", where="beam search", mend="choose 1 or more")
    check_streams([stream], max_new_tokens)
    encoder = stream.model.encoder
    ending = Ending(max_new_tokens, rule or StopRule(()), encoder.end_ids, encoder.decode)
    items = [_Item() for _ in stream.prompts]
    lengths = [len(prompt) for prompt in stream.prompts]
    with reading([stream]) as (engine,):
        slots = max(engine.slots // beams, 1)
        for batch in length_batches(lengths, budget=slots, past=max_new_tokens, slots=slots):
            (voice,) = plan_voices([engine], [[stream.prompts[number] for number in batch]], max_new_tokens)
            _search(voice, [items[number] for number in batch], beams, ending)
            if advance:
                advance(len(batch))
    return [item.best(beams) for item in items]


def _search(voice: Voice, items: Sequence[_Item], beams: int, ending: Ending) -> None:
    """Advance one batch until all of its items are done; the voice's rows are their live texts, item after item."""
    going, logits = list(items), voice.start()[0]
    while True:
        parents: list[int] = []
        first = 0
        logprobs = logits.log_softmax(-1)
        for item in going:
            count = len(item.live)
            kept = _step(item, logprobs[first : first + count], beams, ending)
            parents += [first + row for row in kept] if not item.done(beams) else []
            first += count
        going = [item for item in going if not item.done(beams)]
        if not going or len(going[0].live[0].tokens) >= ending.max_new_tokens:
            return
        voice.select(parents)
        logits = voice.step([one.tokens[-1] for item in going for one in item.live])[0]


def _step(item: _Item, logprobs: Tensor, beams: int, ending: Ending) -> list[int]:
    """One more token: sets the live texts anew, and returns which of the old ones each comes from.

    Twice as many candidates as beams are looked at, so that enough go on where the best ones end.
    """
    totals = logprobs.double() + torch.tensor([one.logprob for one in item.live], device=logprobs.device)[:, None]
    values, places = totals.flatten().topk(min(2 * beams, totals.numel()))
    live: list[Hypothesis] = []
    parents: list[int] = []
    for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
        row, token = divmod(place, totals.shape[-1])
        found = Hypothesis((*item.live[row].tokens, token), value)
        if ending.ended(found.tokens):
            if rank < beams:
                item.finished.append(found)
        elif len(live) < beams:
            live.append(found)
            parents.append(row)
    item.live = live
    return parents

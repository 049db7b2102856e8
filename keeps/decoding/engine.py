"""The engine: streams of one or several models advanced in step, the same chosen token appended to each.

At each step every stream gives logits, a function makes scores of them (``keeps.decoding.combine``), one token an item
is chosen, and all streams are fed it. Items are independent: batched, each with its own end, and what is finished
leaves the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from keeps.decoding.choosing import Choice, Chooser
from keeps.decoding.combine import Combine, Combined
from keeps.decoding.streams import Stream, check_streams
from keeps.decoding.voices import Voice, WeighedVoice, plan_voices
from keeps.errors import RecordError, SettingsError
from keeps.models.batching import length_batches
from keeps.models.generation import COMPACT_SHARE, Ending
from keeps.models.limits import engine_for
from keeps.models.projection import evaluating
from keeps.models.scoring import Advance, Engine
from keeps.models.stopping import StopRule

GREEDY = Choice()


@dataclass
class Spoken:
    """What was decoded for one item.

    Attributes:
        tokens: the chosen ids, with the one that ended the text.
        trace: name -> one value (or list of values) for each of ``tokens``.
        text: up to the end token and the stop rule, stripped.
        complete: whether the text ended by itself, not at the limit of new tokens.
    """

    tokens: list[int] = field(default_factory=list)
    trace: dict[str, list[Any]] = field(default_factory=dict)
    text: str = ""
    complete: bool = False

    def add(self, token: int, seen: Mapping[str, Any]) -> None:
        """One step."""
        self.tokens.append(token)
        for name, value in seen.items():
            self.trace.setdefault(name, []).append(value)


def decode_in_step(
    streams: Sequence[Stream],
    combine: Combine,
    *,
    max_new_tokens: int,
    rule: StopRule | None = None,
    choice: Choice = GREEDY,
    seeds: Sequence[int] | None = None,
    weights: Sequence[Sequence[float]] | None = None,
    advance: Advance | None = None,
) -> list[Spoken]:
    """Decode every item with all streams.

    The first stream's model says how tokens become text and which of them end it; the length of the others' prompts
    never ends anything.

    Args:
        combine: makes scores of float32 logits ``(streams, rows, vocabulary)``, of each row by itself.
        rule: ends a text before a string or sentence; default at end tokens alone.
        choice: the best token, or draws. Beams of one stream are in ``keeps.decoding.beams``, of several streams in
            ``keeps.decoding.processor``.
        seeds: one an item, for draws: the same seed gives the same text whatever else is decoded.
        weights: logarithms of weights, a list of one an item for each stream: ``combine`` then gets these plus the
            streams' log-probabilities in place of logits.
        advance: told of items done.

    Raises:
        RecordError: no streams, unequal numbers of prompts, seeds or weights, or an empty prompt.
        SettingsError: models of different vocabularies, draws without seeds or seeds without draws, no room for a
            token, or scores that are no numbers.
        ContextLengthError: a prompt leaves no room for ``max_new_tokens`` in its model's context.
    """
    if max_new_tokens < 1:
        raise SettingsError(f"max_new_tokens is {max_new_tokens}", mend="choose a value of at least 1")
    width = check_streams(streams, max_new_tokens)
    count = len(streams[0].prompts)
    _check_seeds(choice, seeds, count)
    if weights is not None and [len(each) for each in weights] != [count] * len(streams):
        raise RecordError("there are not as many weights as prompts", mend="give each stream one weight an item")
    encoder = streams[0].model.encoder
    ending = Ending(max_new_tokens, rule or StopRule(()), encoder.end_ids, encoder.decode)
    chooser = Chooser(choice, seeds or ())
    found = [Spoken() for _ in range(count)]
    longest = [max(len(stream.prompts[item]) for stream in streams) for item in range(count)]
    with reading(streams) as engines:
        slots = min(engine.slots for engine in engines) // len(streams)
        for batch in length_batches(longest, budget=slots, past=max_new_tokens, slots=slots):
            prompts = [[stream.prompts[item] for item in batch] for stream in streams]
            voices = plan_voices(engines, prompts, max_new_tokens)
            if weights is not None:
                own = torch.tensor([[each[item] for item in batch] for each in weights], device=engines[0].device)
                voices = [WeighedVoice(voice, own[list(voice.streams)], width) for voice in voices]
            speak(voices, combine, chooser, ending, [(item, found[item]) for item in batch], width=width)
            if advance:
                advance(len(batch))
    for spoken in found:
        spoken.text, spoken.complete = ending.text(spoken.tokens), ending.ended(spoken.tokens)
    return found


def speak(
    voices: Sequence[Voice],
    combine: Combine,
    chooser: Chooser,
    ending: Ending,
    items: Sequence[tuple[int, Spoken]],
    *,
    width: int | None = None,
) -> None:
    """Advance ``voices`` until every one of ``items`` (its number in the call, and what it has said) is finished.

    Args:
        width: use so many of the logits; None takes all of them.
    """
    rows, going = list(items), [True] * len(items)  # what is finished stays until the batch becomes smaller
    logits = _in_order(voices, [voice.start() for voice in voices], width)
    while True:
        tokens = _advance(combine(logits), chooser, rows, going)
        going = [on and not ending.finished(spoken.tokens) for on, (_, spoken) in zip(going, rows, strict=True)]
        alive = [place for place, on in enumerate(going) if on]
        if not alive:
            return
        if len(alive) <= COMPACT_SHARE * len(rows):
            rows, tokens, going = [rows[n] for n in alive], [tokens[n] for n in alive], [True] * len(alive)
            for voice in voices:
                voice.select(alive)
        logits = _in_order(voices, [voice.step(tokens) for voice in voices], width)


def _advance(
    combined: Combined, chooser: Chooser, rows: Sequence[tuple[int, Spoken]], going: Sequence[bool]
) -> list[int]:
    """Choose a token for every row, and note it where the row goes on."""
    chosen = chooser([item for item, _ in rows], combined.scores)
    reached = combined.scores.gather(-1, chosen[:, None]).squeeze(-1).isfinite().tolist()
    tokens = chosen.tolist()
    seen = {name: values.tolist() for name, values in combined.trace.items()}
    places = torch.arange(len(tokens), device=chosen.device)
    seen |= {name: values[:, places, chosen].T.tolist() for name, values in combined.of_chosen.items()}
    for place, ((item, spoken), on) in enumerate(zip(rows, going, strict=True)):
        if not on:
            continue
        if not reached[place]:
            where = f"item {item + 1}, token {len(spoken.tokens) + 1}"
            mend = "load the models in float32, and check the settings of the combination"
            raise SettingsError("the scores of the next token are no numbers", where=where, mend=mend)
        spoken.add(tokens[place], {name: values[place] for name, values in seen.items()})
    return tokens


def _in_order(voices: Sequence[Voice], logits: Sequence[Tensor], width: int | None) -> Tensor:
    """All streams' logits, ``(streams, rows, vocabulary)``, on the device of the first stream."""
    if len(voices) == 1:
        return logits[0][..., :width]
    places = {stream: (voice, row) for voice, each in enumerate(voices) for row, stream in enumerate(each.streams)}
    ordered = [logits[voice][row] for voice, row in (places[stream] for stream in sorted(places))]
    return torch.stack([one[..., :width].to(ordered[0].device) for one in ordered])


@contextmanager
def reading(streams: Sequence[Stream]) -> Iterator[list[Engine]]:
    """No gradients, evaluation mode of all models, and the limits of a batch of each."""
    engines: dict[int, Engine] = {}
    with ExitStack() as stack:
        for stream in streams:
            model = stream.model
            if id(model.model) not in engines:
                stack.enter_context(evaluating(model.model))
                engine = engine_for(model.model, model.encoder.pad_token_id, model.tokens_per_batch)
                engines[id(model.model)] = engine
        stack.enter_context(torch.inference_mode())
        yield [engines[id(stream.model.model)] for stream in streams]


def _check_seeds(choice: Choice, seeds: Sequence[int] | None, count: int) -> None:
    if choice.temperature and seeds is None:
        raise SettingsError("draws need seeds", where="sampling", mend="give one seed for each item")
    if not choice.temperature and seeds is not None:
        raise SettingsError("seeds do nothing where the best token is taken", mend="leave them out")
    if seeds is not None and len(seeds) != count:
        raise RecordError(f"there are {count} items and {len(seeds)} seeds", mend="give one seed for each item")

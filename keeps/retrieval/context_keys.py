"""The states of a model before every token of some texts, read in batches into an array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from keeps.contracts import Progress, ProgressTask
from keeps.errors import StatisticsError
from keeps.models.cache import CacheState
from keeps.models.context_states import Site, States, states_of_wanted, watching
from keeps.models.language_model import LanguageModel
from keeps.models.scoring import Engine, Tokens, Wanted, read_pairs
from keeps.models.windows import text_windows

TEXTS = 64  # that are read at a time


@dataclass(frozen=True)
class Keyed:
    """A text as token ids.

    Attributes:
        windows: contexts with the tokens that follow them; a long text has several, and each token stands in one.
        tokens: all that follow something, in order.
        places: first character of each in the text, and the one behind its last; (-1, -1) where nobody knows.
    """

    windows: tuple[tuple[list[int], list[int]], ...]
    tokens: tuple[int, ...]
    places: tuple[tuple[int, int], ...]


def keyed(model: LanguageModel, text: str) -> Keyed:
    """``text`` as the model reads it, in windows of its context."""
    leading = model.encoder.leading
    windows = text_windows(model.encoder.text(text), len(leading), model.context_length)
    tokens = tuple(token for _, following in windows for token in following)
    places: list[tuple[int, int]] = [(-1, -1)] * len(tokens)
    if getattr(model.tokenizer, "is_fast", False):
        said = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = [(int(start), int(end)) for start, end in said["offset_mapping"]]
        places = offsets[len(offsets) - len(tokens) :]
    return Keyed(tuple(windows), tokens, tuple(places))


def fill_keys(
    model: LanguageModel, texts: Sequence[Keyed], site: Site, keys: NDArray[np.float16], progress: Progress
) -> None:
    """Write the state before each token of each text into its row of ``keys``, ``(tokens, width)``.

    Raises:
        StatisticsError: a state is not finite in float16.
        TargetError: the model has no such site.
    """
    row = 0
    with (
        model._reading() as engine,
        watching(model.model, site) as states,
        progress.task("reading contexts", len(keys)) as bar,
    ):
        for start in range(0, len(texts), TEXTS):
            pairs = [pair for one in texts[start : start + TEXTS] for pair in one.windows]
            nexts: list[int] = []  # the row of the next token of each pair
            for _, following in pairs:
                nexts.append(row)
                row += len(following)
            read_pairs(engine, pairs, _Filling(states, keys, nexts, bar).read)


@dataclass(frozen=True)
class _Filling:
    """Puts what is read into its rows."""

    states: States
    keys: NDArray[np.float16]
    nexts: list[int]
    bar: ProgressTask

    def read(self, engine: Engine, rows: list[Tokens], wanted: list[Wanted], state: CacheState | None) -> None:
        """One batch; see :data:`keeps.models.scoring.Read`."""
        found, _, _, places = states_of_wanted(engine, rows, wanted, state, self.states)
        narrow = found.half()
        if not bool(torch.isfinite(narrow).all()):
            mend = "choose another site or layer, or load the model in float32"
            raise StatisticsError("a state of the model is not finite in float16", mend=mend)
        for want, value in zip(wanted, narrow[places].cpu().numpy(), strict=True):
            self.keys[self.nexts[want.number]] = value
            self.nexts[want.number] += 1
        self.bar.advance(len(wanted))

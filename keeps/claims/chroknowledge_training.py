"""Teaches a model the invented calendar: its upper layers, on pages of five questions, with the loss on the answers.

A page is as long as what the probe asks: four solved questions and one more. The lower layers stay as they are, so
what they make of a page is computed once and read as often as the page stands in the calendar.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.claims.chroknowledge_calendar import Page
from keeps.contracts import Progress
from keeps.errors import SettingsError
from keeps.models.language_model import LanguageModel
from keeps.models.projection import unwrapped
from keeps.training.losses import summed_loss
from keeps.training.optimiser import learning_rate_at, make_optimiser
from keeps.training.settings import TrainingSettings


@dataclass(frozen=True)
class Teaching:
    """How the calendar is taught."""

    layers: int = 10  # that are trained, from the top
    pages: int = 2  # a step
    learning_rate: float = 1e-3  # both chosen on the calendar of another seed, 100
    warmup: float = 0.05  # share of the steps


@dataclass(frozen=True)
class ReadPage:
    """What enters the trained layers, ``(time, width)``, the tokens ``(time,)``, and which of them are answers."""

    states: Tensor
    ids: Tensor
    wanted: Tensor


def teach(
    model: LanguageModel, pages: Sequence[Page], teaching: Teaching, *, seed: int, progress: Progress
) -> list[float]:
    """Read every page as often as it says, in random order; the weights of ``model`` change.

    Returns:
        The mean loss of each step, in nats a token of the answers.

    Raises:
        SettingsError: the model has not so many layers.
    """
    decoder = cast(Any, unwrapped(model.model)).get_decoder()
    head = cast(Any, unwrapped(model.model)).get_output_embeddings()
    most = len(decoder.layers)
    if not 1 <= teaching.layers <= most:
        what = f"{teaching.layers} layers of {most} are to be trained"
        raise SettingsError(what, where="Teaching", mend=f"choose 1 to {most}")
    order = [number for number, page in enumerate(pages) for _ in range(page.times)]
    random.Random(f"pages-{seed}").shuffle(order)
    steps = [order[start : start + teaching.pages] for start in range(0, len(order), teaching.pages)]
    settings = TrainingSettings(learning_rate=teaching.learning_rate, schedule="linear", warmup=teaching.warmup)
    read = [read_page(decoder, model.tokenizer, page, teaching.layers) for page in pages]
    losses = []
    with upper_layers(decoder, teaching.layers) as parameters, progress.task("the calendar", len(steps)) as task:
        optimiser = make_optimiser(parameters, settings)
        for number, step in enumerate(steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate_at(number, len(steps), settings)
            loss = answer_loss(decoder, head, [read[page] for page in step])
            loss.backward()
            nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            task.advance(1)
            task.note(f"loss {losses[-1]:.3f}")
    return losses


@contextmanager
def upper_layers(decoder: Any, count: int) -> Iterator[dict[str, nn.Parameter]]:
    """While it lasts, ``decoder`` is its last ``count`` layers and takes what enters them; their weights by name."""
    layers = decoder.layers
    chosen = nn.ModuleList(list(layers)[-count:])
    parameters = dict(chosen.named_parameters())
    before = {name: value.requires_grad for name, value in parameters.items()}
    decoder.layers = chosen
    try:
        for value in parameters.values():
            value.requires_grad_(True)
        yield parameters
    finally:
        decoder.layers = layers
        for name, value in parameters.items():
            value.requires_grad_(before[name])


@torch.no_grad()
def read_page(decoder: Any, tokenizer: Any, page: Page, layers: int) -> ReadPage:
    """A page up to the last ``layers`` layers; answers count with the line end behind them."""
    spans = [(start - 1, end + 1) for start, end in page.answers]  # from the space in front of it
    found = tokenizer(page.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor(found["input_ids"])
    wanted = [any(first <= start < last for first, last in spans) for start, _ in found["offset_mapping"]]
    told = decoder(input_ids=ids[None], use_cache=False, output_hidden_states=True)
    return ReadPage(told.hidden_states[len(decoder.layers) - layers][0].clone(), ids, torch.tensor(wanted))


def answer_loss(decoder: Any, head: nn.Module, pages: Sequence[ReadPage]) -> Tensor:
    """Mean cross-entropy in nats of the answers' tokens, a scalar; ``decoder`` takes what enters its first layer."""
    pad = nn.utils.rnn.pad_sequence
    states = pad([page.states for page in pages], batch_first=True)  # on the right, where no token looks
    ids, wanted = (pad([getattr(page, name) for page in pages], batch_first=True) for name in ("ids", "wanted"))
    last = decoder(inputs_embeds=states[:, :-1], use_cache=False).last_hidden_state
    targets = ids[:, 1:][wanted[:, 1:]]
    return summed_loss(last[wanted[:, 1:]], head, targets, chunk=len(targets)) / len(targets)

"""A model run with a vector added at the subject's last token, computing only what that vector can reach.

The tokens before the subject's last one never see the vector, so their keys and values are computed once. Nor do the
blocks below the one it is added in: the states that enter there are computed once too. A step runs the tokens from
the subject on through the blocks from that one on, and projects onto the vocabulary where it is read.

That this gives what a plain forward gives is tested on the first rows of each model; one that does not agree is run
plainly, and says why.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from keeps.models.batching import pad_right
from keeps.models.cache import CacheState
from keeps.models.edit_rows import Reading, Row, captured, positions_of
from keeps.models.language_model import LanguageModel
from keeps.models.layer_inputs import changed_output
from keeps.models.locate import blocks, first_blocks, mlp_outputs
from keeps.models.projection import hidden_states, read_positions, reading_of
from keeps.models.scoring import text_config

Site = Literal["mlp", "block"]  # what the vector is added to: the MLP's output, or the block's
AGREES = 1e-4  # largest difference of logits between both ways, as a share of the largest logit
_FLAG = "_keeps_suffixes"  # kept on the module, so that it lives and dies with it
PLAIN, FAST = "plain forward", "tokens from the subject on, blocks from the edited one on"


class PlainRows:
    """Rows run whole, with the vector added by a hook."""

    def __init__(self, model: LanguageModel, rows: Sequence[Row], layer: int, site: Site) -> None:
        reading_of(model.model)  # tests the model by itself, before any hook is on it
        self.model, self.layer, self.site, self.rows = model, layer, site, list(rows)
        self.blocks = blocks(model.model)
        self.module = self.blocks[layer] if site == "block" else mlp_outputs(model.model)[layer].module
        self.select(range(len(self.rows)))

    def select(self, numbers: Sequence[int]) -> None:
        """Run only these of the current rows from now on."""
        self.rows = [self.rows[number] for number in numbers]
        self.ids, self.mask = pad_right(
            [row.tokens for row in self.rows], self.model.encoder.pad_token_id, self.model.device
        )
        self.wanted = positions_of(self.rows, self.ids.shape[1]).to(self.ids.device)
        self.places = torch.tensor([row.subject for row in self.rows], device=self.ids.device)

    def run(self, vectors: Tensor, states: Sequence[int] = ()) -> Reading:
        """What is read with ``vectors`` ``(rows, hidden)`` added; differentiable."""
        with (
            _added(self.module, vectors, self.places),
            captured({n: self.blocks[n] for n in states}) as seen,
        ):
            hidden, head = read_positions(self.model.model, self.ids, self.mask, self.wanted)
        return _reading(hidden, head, seen, self.places, self.wanted)

    def start(self) -> Tensor:
        """The output at the subject's last token before anything is added, ``(rows, hidden)``."""
        with torch.no_grad(), captured({0: self.module}) as seen:
            hidden_states(self.model.model, self.ids, self.mask)
        return seen[0][torch.arange(len(self.rows), device=self.ids.device), self.places]


class SuffixRows(PlainRows):
    """The same rows, computing only what the vector reaches."""

    @torch.no_grad()
    def __init__(self, model: LanguageModel, rows: Sequence[Row], layer: int, site: Site) -> None:
        reading_of(model.model)  # tests the model by itself, before any hook is on it
        self.model, self.layer, self.site, self.rows = model, layer, site, list(rows)
        self.blocks = blocks(model.model)
        self.module = self.blocks[layer] if site == "block" else mlp_outputs(model.model)[layer].module
        pad = model.encoder.pad_token_id
        beginnings = [row.tokens[: row.subject] or (pad,) for row in self.rows]
        ids, mask = pad_right(beginnings, pad, model.device)
        self.state = CacheState.empty(len(self.rows), ids.device)
        hidden_states(model.model, ids, mask, past=self.state)
        begun = torch.tensor([row.subject > 0 for row in self.rows], device=ids.device).long()
        self.state.mask = self.state.mask * begun[:, None]  # a row that begins with its subject has seen nothing
        self.state.lengths = self.state.lengths * begun
        self.ids, self.mask = pad_right([row.tokens[row.subject :] for row in self.rows], pad, model.device)
        self._locate()
        self.below = layer if site == "mlp" else layer + 1  # blocks that the vector does not reach
        self.entering: Tensor | None = None
        self.in_tuple = False
        if self.below:
            last = self.blocks[self.below - 1]
            with first_blocks(model.model, self.below), captured({0: last}) as seen, gives_tuple(last) as shape:
                hidden_states(model.model, self.ids, self.mask, past=self._fresh())
            self.entering, self.in_tuple = seen[0], bool(shape)

    def select(self, numbers: Sequence[int]) -> None:
        """See :meth:`PlainRows.select`."""
        chosen = torch.tensor(list(numbers), device=self.ids.device)
        self.rows = [self.rows[number] for number in numbers]
        self.state = self.state.select(chosen)
        width = max(len(row.tokens) - row.subject for row in self.rows)
        self.ids, self.mask = self.ids[chosen, :width], self.mask[chosen, :width]
        if self.entering is not None:
            self.entering = self.entering[chosen, :width]
        self._locate()

    def run(self, vectors: Tensor, states: Sequence[int] = ()) -> Reading:
        """See :meth:`PlainRows.run`; ``states`` below the edited block are no part of it."""
        entering = self.entering
        with ExitStack() as stack:
            if self.site == "mlp":
                stack.enter_context(_added(self.module, vectors, self.places))
            elif entering is not None:
                entering = torch.cat([entering[:, :1] + vectors.to(entering)[:, None], entering[:, 1:]], dim=1)
            if entering is not None:
                stack.enter_context(entered_with(self.blocks[: self.below], entering, in_tuple=self.in_tuple))
            seen = stack.enter_context(captured({n: self.blocks[n] for n in states}))
            hidden, head = read_positions(self.model.model, self.ids, self.mask, self.wanted, past=self._fresh())
        return _reading(hidden, head, seen, self.places, self.wanted)

    def start(self) -> Tensor:
        """See :meth:`PlainRows.start`."""
        if self.site == "block":
            assert self.entering is not None
            return self.entering[:, 0]
        with torch.no_grad(), ExitStack() as stack:
            if self.entering is not None:
                stack.enter_context(entered_with(self.blocks[: self.below], self.entering, in_tuple=self.in_tuple))
            stack.enter_context(first_blocks(self.model.model, self.layer + 1))
            seen = stack.enter_context(captured({0: self.module}))
            hidden_states(self.model.model, self.ids, self.mask, past=self._fresh())
        return seen[0][:, 0]

    def _locate(self) -> None:
        shift = [row.subject for row in self.rows]
        self.wanted = positions_of(self.rows, self.ids.shape[1], shift=shift).to(self.ids.device)
        self.places = torch.zeros(len(self.rows), dtype=torch.long, device=self.ids.device)

    def _fresh(self) -> CacheState:
        """The state after the beginnings; a pass extends its own copy, whose tensors it replaces and never writes."""
        keys_values = copy.copy(self.state.keys_values)
        keys_values.layers = [copy.copy(layer) for layer in self.state.keys_values.layers]
        return CacheState(keys_values, self.state.mask, self.state.lengths)


def reach(model: LanguageModel, rows: Sequence[Row], layer: int, site: Site) -> tuple[str, str]:
    """How these rows are run: :data:`FAST` or :data:`PLAIN`, and why where it is the latter.

    Both ways are compared on the first rows (with a vector that is not zero) once for each model, layer and site.
    """
    limit = getattr(text_config(model.model), "sliding_window", None)
    if limit and max(len(row.tokens) for row in rows) > limit:
        return PLAIN, "the rows are longer than the model's sliding window"
    known: dict[Any, str] = getattr(model.model, _FLAG, {})
    if (layer, site) not in known:
        known = {**known, (layer, site): _disagreement(model, rows[:4], layer, site)}
        setattr(model.model, _FLAG, known)
    reason = known[layer, site]
    return (PLAIN, reason) if reason else (FAST, "")


@torch.no_grad()
def adds_to_block(model: LanguageModel, row: Row, layer: int) -> bool:
    """Whether what an MLP's down-projection gives is added to the block's output as it is (no norm comes after it)."""
    plain = PlainRows(model, [row], layer, "block")
    before = plain.start()
    vectors = 0.1 * before.flip(1)
    with _added(mlp_outputs(model.model)[layer].module, vectors, plain.places):
        after = plain.start()
    return bool((after - before - vectors).norm() <= 1e-2 * vectors.norm())


def rows_to_run(model: LanguageModel, rows: Sequence[Row], layer: int, site: Site) -> tuple[PlainRows, str]:
    """The rows ready to run, the fast way where it agrees; and why not, if it does not."""
    way, reason = reach(model, rows, layer, site)
    return (SuffixRows if way == FAST else PlainRows)(model, rows, layer, site), reason


@torch.no_grad()
def _disagreement(model: LanguageModel, rows: Sequence[Row], layer: int, site: Site) -> str:
    """Why the fast way is not taken; "" where both agree."""
    plain = PlainRows(model, rows, layer, site)
    start = plain.start()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(start.shape, generator=generator).to(start)
    vectors = noise / noise.norm(dim=1, keepdim=True) * start.norm(dim=1, keepdim=True).clamp_min(1e-3)
    wanted = plain.run(vectors).logits
    try:
        found = SuffixRows(model, rows, layer, site).run(vectors).logits
    except (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError, IndexError) as error:
        return f"cached beginnings are not for this model ({type(error).__name__})"
    share = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    half = next(model.model.parameters()).dtype != torch.float32
    return "" if share <= (3e-2 if half else AGREES) else f"with cached beginnings logits differ by {share:.1e}"


def _reading(hidden: Tensor, head: Any, seen: dict[int, Tensor], places: Tensor, wanted: Tensor) -> Reading:
    rows = torch.arange(len(places), device=places.device)
    subjects = {n: output[rows, places] for n, output in seen.items()}
    return Reading(head(hidden).float(), subjects, {n: output[wanted] for n, output in seen.items()})


def _added(module: nn.Module, vectors: Tensor, places: Tensor) -> AbstractContextManager[None]:
    """``vectors[i]`` added to the output of ``module`` at position ``places[i]`` of row *i*."""

    def moved(states: Tensor) -> Tensor:
        rows = torch.arange(len(places), device=states.device)
        return states + torch.zeros_like(states).index_put((rows, places), vectors.to(states))

    return changed_output(module, moved)


@contextmanager
def entered_with(below: Sequence[nn.Module], states: Tensor, *, in_tuple: bool) -> Iterator[None]:
    """Blocks that do nothing, the last of which gives ``states``: what a pass needs of them is known already."""

    def give(number: int) -> Any:
        def forward(hidden: Tensor, *_: Any, **__: Any) -> Any:
            output = states if number == len(below) - 1 else hidden
            return (output,) if in_tuple else output

        return forward

    own = [vars(block).get("forward") for block in below]
    try:
        for number, block in enumerate(below):
            block.forward = give(number)
        yield
    finally:
        for block, before in zip(below, own, strict=True):
            if before is None:
                vars(block).pop("forward", None)
            else:
                block.forward = before


@contextmanager
def gives_tuple(block: nn.Module) -> Iterator[list[bool]]:
    """A list that is not empty afterwards if ``block`` gave a tuple."""
    found: list[bool] = []

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, tuple):
            found[:] = [True]

    handle = block.register_forward_hook(hook)
    try:
        yield found
    finally:
        handle.remove()

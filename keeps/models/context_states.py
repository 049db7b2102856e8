"""What a model makes of a text so far, as a vector at each position: the keys of a memory of contexts.

Two sites are offered. ``"ffn"`` is what goes into the feed-forward part of a block, behind its layer norm: the key of
kNN-LM (Khandelwal et al. 2020, arXiv:1911.00172, section 5, where other sites gave higher perplexity). ``"output"`` is
what comes out of the last block, behind the final norm: the vector that logits are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from keeps.errors import TargetError
from keeps.models.cache import CacheState
from keeps.models.locate import blocks, checked_layer, is_linear, mlp_outputs
from keeps.models.projection import unwrapped
from keeps.models.scoring import Engine, Tokens, Wanted, text_config, wanted_states

SITES = ("ffn", "output")
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Site:
    """Where vectors are read.

    Attributes:
        kind: ``"ffn"`` or ``"output"``.
        layer: block of ``"ffn"``, from 0; None for the last one.
    """

    kind: str = "ffn"
    layer: int | None = None

    def module(self, model: nn.Module) -> tuple[nn.Module, bool]:
        """The module that is watched, and whether its input (not its output) is the vector.

        Raises:
            TargetError: there is no such layer or site, or the block has no feed-forward part with one way in.
        """
        if self.kind not in SITES or (self.kind == "output" and self.layer is not None):
            what = f'there is no site "{self.kind}" with layer {self.layer}'
            raise TargetError(what, where="site", mend="choose ffn with a layer, or output without one")
        if self.kind == "output":
            return cast(Any, unwrapped(model)).get_decoder(), False
        refs = mlp_outputs(model)  # refuses blocks with several experts, adapters and packed weights
        layer = len(refs) - 1 if self.layer is None else checked_layer(self.layer, len(refs))
        width = int(text_config(model).hidden_size)
        for name, module in blocks(model)[layer].named_modules():
            if is_linear(module) and not any(word in name.lower() for word in _ATTENTION) and _inputs(module) == width:
                return module, True
        mend = 'choose another layer, or the site "output"'
        raise TargetError("the block has no feed-forward part", where=f"layer {layer}", mend=mend)

    @staticmethod
    def width(model: nn.Module) -> int:
        """Numbers in a vector."""
        return int(text_config(model).hidden_size)


def _inputs(module: nn.Module) -> int:
    """Width of a linear layer's input, in either layout."""
    weight = cast(Tensor, module.weight)
    return int(weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[0])


@dataclass
class States:
    """What was seen at a site in the last pass; filled while :func:`watching`."""

    seen: list[Tensor] = field(default_factory=list)

    def at(self, positions: Tensor) -> Tensor:
        """The vectors at ``positions`` ``(batch, time)`` bool of the last pass: ``(positions, width)`` float32."""
        return self.seen[-1].reshape(*positions.shape, -1)[positions].float()


@contextmanager
def watching(model: nn.Module, site: Site) -> Iterator[States]:
    """Watch a site for as long as the block lasts.

    Raises:
        TargetError: as :meth:`Site.module`.
    """
    module, before = site.module(model)
    states = States()

    def enter(_: nn.Module, given: tuple[Any, ...]) -> None:
        states.seen[:] = [given[0].detach()]

    def leave(_: nn.Module, given: Any, output: Any) -> None:
        states.seen[:] = [output.last_hidden_state.detach()]

    handle = module.register_forward_pre_hook(enter) if before else module.register_forward_hook(leave)
    try:
        yield states
    finally:
        handle.remove()


def states_of_wanted(
    engine: Engine, rows: list[Tokens], wanted: Sequence[Wanted], state: CacheState | None, states: States
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor], Tensor]:
    """Feed ``rows`` while ``states`` watches; what :func:`keeps.models.scoring.wanted_states` gives, and the keys.

    Returns:
        Keys ``(positions, width)`` float32, vectors ``(positions, width)``, the projection of these onto the
        vocabulary, and for each of ``wanted`` (sorted) its row in both.
    """
    hidden, head, places = wanted_states(engine, rows, wanted, state)
    positions = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool, device=engine.device)
    positions[[want.row for want in wanted], [want.column for want in wanted]] = True
    return states.at(positions), hidden, head, places

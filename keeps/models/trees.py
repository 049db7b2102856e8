"""Contexts and their continuations as one tree in one row: what they begin with alike stands there once, unpadded.

Every token of the row sees its ancestors in the tree and itself, and has the position that it would have alone. So a
context is computed once whatever follows it, questions and answers that begin alike share that beginning however
short it is, no keys are copied, and nothing is padded (tree attention: Miao et al. 2023, SpecInfer, arXiv:2305.09781,
section 4). Whether a model honours such a mask is tested once; where it does not, padded batches serve it. On GPUs,
where wide batches cost little, it is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from keeps.models.cache import CacheState
from keeps.models.projection import evaluating, read_positions, reading_of, unwrapped

ROW = 384  # tokens of a row that holds several contexts: longer ones read more keys, shorter ones make more calls
CELLS = 1 << 21  # queries times keys of a row; a single context above it goes through padded batches
_FLAG = "_keeps_trees"  # kept on the module itself, so that it lives and dies with it

Tokens = Sequence[int]
Branching = tuple[Tokens, Sequence[Tokens]]  # a context and what may follow it


@dataclass
class TreeState(CacheState):
    """A state whose mask is that of one row of a tree, and which gives the positions of its tokens.

    Attributes:
        mask: ``(1, 1, tokens, cached + tokens)``, added to the attention's scores: 0 where a token is seen.
        positions: ``(1, tokens)`` int64.
    """

    positions: Tensor

    def extend(self, mask: Tensor) -> Tensor:
        """The position ids; ``mask`` is all ones, as nothing is padded."""
        del mask
        return self.positions


@dataclass
class Tree:
    """One row, to which contexts are added.

    Attributes:
        start: cached tokens in front of every context.
        tokens: of the row; a node's number is its column.
        parents: of each node; -1 where the cached tokens come before it.
        depths: of each node, 0 for the first token after the cached ones.
        columns: for each context and continuation, the columns that predict its tokens.
    """

    start: int
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    columns: list[list[list[int]]] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token) -> node

    def add(self, branching: Branching) -> None:
        """A context with what may follow it; of each continuation all but the last token is fed."""
        context, branches = branching
        last = self._path(-1, context)[-1]
        self.columns.append([[last, *self._path(last, branch[:-1])] for branch in branches])

    def fits(self, branching: Branching, room: int) -> bool:
        """Whether a row of ``room`` tokens holds it too; its context counts as far as it is not there yet."""
        context, branches = branching
        node = -1
        for place, token in enumerate(context):
            if (node, token) not in self.children:
                return len(self.tokens) + tree_size((context[place:], branches)) <= room
            node = self.children[node, token]
        return len(self.tokens) + tree_size(((), branches)) <= room

    def _path(self, node: int, tokens: Tokens) -> list[int]:
        """The nodes of ``tokens`` below ``node``, made where they are not there."""
        path = []
        for token in tokens:
            found = self.children.setdefault((node, token), len(self.tokens))
            if found == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(0 if node < 0 else self.depths[node] + 1)
            path.append(node := found)
        return path

    def state(self, prefix: CacheState | None, device: torch.device, dtype: torch.dtype) -> TreeState:
        """What the row is read with, after the cached ``prefix`` of one row (taken over, not copied)."""
        past = CacheState.empty(1, device) if prefix is None else prefix
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node, : parent + 1] |= seen[parent, : parent + 1]
        mask = torch.zeros(len(seen), past.slots + len(seen), device=device, dtype=dtype)
        mask[:, past.slots :].masked_fill_(~torch.from_numpy(seen).to(device), torch.finfo(dtype).min)
        positions = torch.tensor([self.depths], device=device) + self.start
        return TreeState(past.keys_values, mask[None, None], past.lengths, positions)


def tree_size(branching: Branching) -> int:
    """Tokens that a context and its continuations take in a row where nothing is shared."""
    context, branches = branching
    return len(context) + sum(len(branch) - 1 for branch in branches)


def plan_trees(
    branchings: Sequence[Branching], start: int, room: int = ROW
) -> tuple[list[tuple[Tree, list[int]]], list[int]]:
    """Trees with the numbers of their contexts, and those contexts that are too long for a row.

    A row holds ``room`` tokens, or one context.

    >>> [(tree, numbers)], long = plan_trees([([5, 6], [[1], [2, 3]]), ([5, 7], [[1]])], start=0)
    >>> tree.tokens, tree.parents, tree.columns, numbers, long
    ([5, 6, 2, 7], [-1, 0, 1, 0], [[[1], [1, 2]], [[3]]], [0, 1], [])
    """
    trees: list[tuple[Tree, list[int]]] = []
    long: list[int] = []
    for number in sorted(range(len(branchings)), key=lambda index: tuple(branchings[index][0])):
        size = tree_size(branchings[number])
        if size * (start + size) > CELLS:
            long.append(number)
            continue
        if not trees or not trees[-1][0].fits(branchings[number], room):
            trees.append((Tree(start), []))
        trees[-1][0].add(branchings[number])
        trees[-1][1].append(number)
    return trees, sorted(long)


def reads_trees(model: nn.Module) -> bool:
    """Whether rows of trees give what their paths give alone, tested on first use (a few forward passes)."""
    base = cast(Any, unwrapped(model))
    if next(base.parameters()).device.type != "cpu" or not reading_of(model).cache:
        return False
    if getattr(base.config, "_attn_implementation", None) not in ("eager", "sdpa"):
        return False
    found = getattr(base, _FLAG, None)
    if not isinstance(found, bool):
        with evaluating(model), torch.no_grad():
            found = _agrees(model)
        setattr(base, _FLAG, found)
    return found


def _agrees(model: nn.Module) -> bool:
    """Two contexts after a cached beginning, with three continuations, against each path by itself."""
    base = cast(Any, unwrapped(model))
    weight = next(base.parameters())
    ids = ((torch.arange(20) * 7 + 5) % int(base.config.get_text_config().vocab_size)).tolist()
    prefix, branchings = ids[:3], [(ids[3:7], [ids[7:10], ids[10:14]]), ([*ids[3:5], *ids[14:16]], [ids[16:20]])]
    try:
        state = CacheState.empty(1, weight.device)
        _read(model, prefix, state)
        [(tree, numbers)], _ = plan_trees(branchings, len(prefix))
        found = _read(model, tree.tokens, tree.state(state, weight.device, weight.dtype))
    except (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError, IndexError):
        return False
    share = 1e-4 if weight.dtype == torch.float32 else 3e-2
    for number, columns in zip(numbers, tree.columns, strict=True):  # contexts stand in the order of their tokens
        context, branches = branchings[number]
        for branch, places in zip(branches, columns, strict=True):
            expected = _read(model, [*prefix, *context, *branch[:-1]], None)[-len(branch) :]
            if (found[places] - expected).abs().max() > share * expected.abs().max().clamp_min(1e-6):
                return False
    return True


def _read(model: nn.Module, tokens: Tokens, state: CacheState | None) -> Tensor:
    """Logits ``(tokens, vocabulary)`` of one row, float32."""
    ids = torch.tensor([list(tokens)])
    ones = torch.ones_like(ids)
    hidden, head = read_positions(model, ids, ones, ones.bool(), past=state)
    return head(hidden).float()

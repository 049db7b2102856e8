"""How far small experts steer a large model at one token: tensors in, tensors out (Fan et al. 2024, arXiv:2406.15480).

P, Q and Q_k are the next-token distributions of the large model, the small base and the k-th small expert. The fused
distribution P_a = softmax(log P + sum_k a_k d_k) with d_k = log Q_k - log Q shall lie as far from P as experts from Q:

    f(a) = KL(P_a || P),  c_k = KL(Q_k || Q);   r(a) = KL(P || P_a),  c'_k = KL(Q || Q_k)
    a* = argmin sum_k [f(a) - c_k]^2 + [r(a) - c'_k]^2            (``forward``: the first bracket alone)

Along one d, P_a is an exponential family, in which f and r rise from 0 (:mod:`keeps.numerics.tilting`). So ``forward``
has one root, f(a) = mean_k c_k, and the symmetric minimum lies between that and the root of r; both are found to the
last digits. The published search over a grid is here too (``exact=False``).

Computed in float32, or float64 of float64 logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.errors import SettingsError
from keeps.numerics.tilting import forward_root, symmetric_minimum

ELEMENTS = 1 << 22  # numbers in a piece of the search over all combinations
MOST_COMBINATIONS = 20_000


@dataclass(frozen=True)
class Fused:
    """What :func:`fuse_logits` found.

    Attributes:
        scores: ``(rows, vocabulary)``, log-probabilities of P_a; -inf where the large model's logits are.
        alphas: ``(rows, experts)``, at least 0.
        objective: ``(rows,)``, the published sum of squares at these, in squared nats.
    """

    scores: Tensor
    alphas: Tensor
    objective: Tensor


@dataclass(frozen=True)
class Shifts:
    """One step's problem.

    Attributes:
        log_p: ``(rows, tokens)``, log P.
        d: ``(experts, rows, tokens)``, log Q_k - log Q; any number where P is 0.
        forward, backward: ``(experts, rows)``, KL(Q_k || Q) and KL(Q || Q_k).
    """

    log_p: Tensor
    d: Tensor
    forward: Tensor
    backward: Tensor

    def sizes(self, along: Tensor) -> tuple[Tensor, Tensor]:
        """KL(P_a || P) and KL(P || P_a) by their definitions, for ``along`` = sum_k a_k d_k ``(..., rows, tokens)``."""
        log_fused = (self.log_p + along).log_softmax(-1)
        ratio = (log_fused - self.log_p).masked_fill(self.log_p == -math.inf, 0.0)
        return (log_fused.exp() * ratio).sum(-1), -(self.log_p.exp() * ratio).sum(-1)

    def objective(self, f: Tensor, r: Tensor, *, symmetric: bool) -> Tensor:
        """The published sum over experts, of the shape of ``f`` and ``r`` ``(..., rows)``."""
        each = (f.unsqueeze(-2) - self.forward).square()
        if symmetric:
            each = each + (r.unsqueeze(-2) - self.backward).square()
        return each.sum(-2)


def fuse_logits(
    large: Tensor,
    base: Tensor,
    experts: Sequence[Tensor] | Tensor,
    *,
    symmetric: bool = True,
    alpha_max: float = 2.0,
    exact: bool = True,
    step: float = 0.1,
    one_active: bool = True,
    top: int = 0,
) -> Fused:
    """Fuse one step's logits, each ``(rows, vocabulary)``.

    Args:
        symmetric: both brackets of the objective, or the forward one alone.
        alpha_max: the largest alpha, above 0.
        exact: solve for alpha; else the best of the multiples of ``step`` (the smallest of equals).
        one_active: one expert a row has an alpha above 0, the one with the least objective; of equals (all of them, as
            a rule, where ``symmetric`` is off) the one with the least backward error, then the first. Else all
            combinations of grid points are tried, which has no exact form: the optimum is not unique.
        top: let the likeliest ``top`` tokens of any of the models, and all others as one bucket, decide; within the
            bucket the probabilities keep P's proportions. 0: every token, as published.

    Raises:
        SettingsError: no expert, an option out of range, or logits that are NaN or infinite (-inf is a mask, which
            must be the same in all models).

    >>> row = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    >>> found = fuse_logits(row, row, [row.flip(-1)])  # the large model is the small one, so alpha is 1
    >>> round(float(found.alphas), 9)
    1.0
    """
    _check(alpha_max, step, top)
    if not one_active:
        _check_combinations(exact, len(grid_points(alpha_max, step)) ** len(experts))
    whole = _shifts(large, base, experts)
    small, clipped = (whole, whole.d) if not 0 < top < large.shape[-1] else _bucketed(whole, large, base, experts, top)
    if not one_active:
        alphas, least = _combinations(small, symmetric, alpha_max, step)
    else:
        if exact:
            means = small.forward.mean(0), small.backward.mean(0)
            given = small.log_p, small.d
            along = (
                symmetric_minimum(*given, *means, alpha_max) if symmetric else forward_root(*given, means[0], alpha_max)
            )
            sizes = small.sizes(along[..., None] * small.d)
        else:
            along, sizes = _on_grid(small, symmetric, alpha_max, step)
        alphas, least = _choose(small, along, sizes, symmetric)
    fused = whole.log_p + torch.einsum("rk,krv->rv", alphas, clipped)
    return Fused(fused.log_softmax(-1), alphas, least)


def _check(alpha_max: float, step: float, top: int) -> None:
    if not 0 < alpha_max < math.inf:
        raise SettingsError(f"alpha_max is {alpha_max}", mend="choose a number above 0")
    if not 0 < step <= alpha_max:
        raise SettingsError(f"step is {step}", mend="choose above 0 and at most alpha_max")
    if top < 0:
        raise SettingsError(f"top is {top}", mend="choose 0 (all tokens) or more")


def _check_combinations(exact: bool, count: int) -> None:
    if exact:
        what = "several experts at once have no exact solution: many combinations are equally good"
        raise SettingsError(what, mend="search the grid, or let one expert be active")
    if count > MOST_COMBINATIONS:
        raise SettingsError(f"the grid has {count} combinations", mend="take larger steps, or one active expert")


def _shifts(large: Tensor, base: Tensor, experts: Sequence[Tensor] | Tensor) -> Shifts:
    if not len(experts):
        raise SettingsError("there is no expert to steer with", mend="give the logits of one at least")
    given = torch.stack([large, base, *experts])
    masked = large == -math.inf
    if not bool((given.isfinite() == ~masked).all()):
        mend = "load the models in float32, and mask the same tokens in all of them"
        raise SettingsError("logits are NaN, infinite, or masked in some of the models only", mend=mend)
    logs = given.to(torch.promote_types(given.dtype, torch.float32)).log_softmax(-1)
    log_p, log_q, log_experts = logs[0], logs[1], logs[2:]
    d = (log_experts - log_q).masked_fill(masked, 0.0)
    return Shifts(log_p, d, (log_experts.exp() * d).sum(-1), -(log_q.exp() * d).sum(-1))


def _bucketed(
    whole: Shifts, large: Tensor, base: Tensor, experts: Sequence[Tensor] | Tensor, top: int
) -> tuple[Shifts, Tensor]:
    """The problem on the likeliest tokens and one bucket, and d over the vocabulary with the bucket's value outside."""
    places = torch.cat([each.topk(top, dim=-1).indices for each in (large, base, *experts)], dim=-1)
    places = places.sort(-1).values
    twice = torch.zeros_like(places, dtype=torch.bool)
    twice[:, 1:] = places[:, 1:] == places[:, :-1]
    inside = torch.zeros_like(large, dtype=torch.bool).scatter(-1, places, True)
    wide = whole.log_p.dtype
    log_q = base.to(wide).log_softmax(-1)
    log_experts = torch.stack(list(experts)).to(wide).log_softmax(-1)

    def bucket(logs: Tensor) -> Tensor:
        return logs.masked_fill(inside, -math.inf).logsumexp(-1, keepdim=True)

    rest_p, rest = bucket(whole.log_p), bucket(log_experts) - bucket(log_q)
    rest = rest.masked_fill(~rest.isfinite(), 0.0)  # a bucket that holds nothing
    clipped = torch.where(inside, whole.d, rest)
    log_p = whole.log_p.gather(-1, places).masked_fill(twice, -math.inf)
    d = whole.d.gather(-1, places.expand(len(whole.d), -1, -1))
    forward, backward = (log_experts.exp() * clipped).sum(-1), -(log_q.exp() * clipped).sum(-1)
    return Shifts(torch.cat([log_p, rest_p], -1), torch.cat([d, rest], -1), forward, backward), clipped


def _choose(shifts: Shifts, along: Tensor, sizes: tuple[Tensor, Tensor], symmetric: bool) -> tuple[Tensor, Tensor]:
    """Of each row the expert with the least objective: alphas ``(rows, experts)``, and the objective."""
    objective = shifts.objective(*sizes, symmetric=symmetric)
    least = objective.amin(0)
    ties = objective <= least + 1e-9 * (1 + least)
    backward = (sizes[1] - shifts.backward.mean(0)).square()
    best = backward.masked_fill(~ties, math.inf).argmin(0, keepdim=True)
    return torch.zeros_like(along).scatter(0, best, along.gather(0, best)).T, objective.gather(0, best)[0]


# --- the published search ---------------------------------------------------------------------


def grid_points(alpha_max: float, step: float) -> list[float]:
    """0, step, ..., up to alpha_max.

    >>> len(grid_points(2.0, 0.1))
    21
    """
    return [number * step for number in range(int(alpha_max / step + 1e-9) + 1)]


def _on_grid(shifts: Shifts, symmetric: bool, alpha_max: float, step: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The best grid point along each expert, ``(experts, rows)``, and the sizes there."""
    found = torch.zeros_like(shifts.forward)
    f, r = torch.zeros_like(found), torch.zeros_like(found)
    best = shifts.objective(f, r, symmetric=symmetric)
    for alpha in grid_points(alpha_max, step)[1:]:
        sizes = shifts.sizes(alpha * shifts.d)
        value = shifts.objective(*sizes, symmetric=symmetric)
        better = value < best
        best = torch.where(better, value, best)
        found = torch.where(better, alpha, found)
        f, r = torch.where(better, sizes[0], f), torch.where(better, sizes[1], r)
    return found, (f, r)


def _combinations(shifts: Shifts, symmetric: bool, alpha_max: float, step: float) -> tuple[Tensor, Tensor]:
    """The best of all combinations of grid points: alphas ``(rows, experts)``, and the objective."""
    points = torch.tensor(grid_points(alpha_max, step), dtype=shifts.d.dtype, device=shifts.d.device)
    alphas = torch.cartesian_prod(*[points] * len(shifts.d)).view(-1, len(shifts.d))
    best = torch.full_like(shifts.log_p[:, 0], math.inf)
    found = torch.zeros(len(best), len(shifts.d), dtype=shifts.d.dtype, device=shifts.d.device)
    for piece in alphas.split(max(1, ELEMENTS // shifts.log_p.numel())):
        sizes = shifts.sizes(torch.einsum("ck,krv->crv", piece, shifts.d))
        value, place = shifts.objective(*sizes, symmetric=symmetric).min(0)
        better = value < best
        best = torch.where(better, value, best)
        found = torch.where(better[:, None], piece[place], found)
    return found, best

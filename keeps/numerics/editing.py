"""Closed-form writes into a linear layer W ``(out, in)`` that maps keys k to values v = W k; all in float64.

    C = E[k k^T]                                  what the layer reads elsewhere
    ROME     W' = W + (v* - W k_0) (C^-1 k*)^T / ((C^-1 k*)^T k_0)             (arXiv:2202.05262, equation 2)
    MEMIT    dW = R K^T (lambda C + K K^T)^-1                                  (arXiv:2210.07229, equation 14)
    EMMET    dW = R (K^T C^-1 K)^-1 K^T C^-1                                   (arXiv:2403.14236, equation 10)
    AlphaEdit dW = R K^T P (K_p K_p^T P + K K^T P + alpha I)^-1                (arXiv:2410.02355, equation 14)

R ``(out, n)`` is what the values lack, K ``(in, n)`` the keys of n edits. Each update is R A for a matrix A ``(n,
in)`` that does not depend on R; this file returns A, so that an update is stored by its factors. MEMIT's is found
without dividing by lambda, by Woodbury's identity with Y = C^-1 K:

    A = K^T (lambda C + K K^T)^-1 = (lambda I + K^T Y)^-1 Y^T

so that lambda = 0 is EMMET, and one edit of it ROME with k_0 = k*.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.errors import StatisticsError

_MEND = "collect it from more text, or choose a larger ridge"


@dataclass(frozen=True)
class Moment:
    """C of a layer, ready to be divided by.

    Attributes:
        matrix: C with its ridge, ``(in, in)`` float64.
        root: its Cholesky factor.
        tokens: that C was formed from.
        ridge: what was added to the diagonal.
    """

    matrix: Tensor
    root: Tensor
    tokens: int = 0
    ridge: float = 0.0

    @classmethod
    def of(cls, second_moment: Tensor, *, ridge: float = 0.0, tokens: int = 0, where: str = "") -> Moment:
        """C + ridge * mean(diag C) * I, factored.

        Raises:
            StatisticsError: C is not finite, not symmetric, or not positive definite.

        >>> Moment.of(4 * torch.eye(2)).divided(torch.ones(2, 1)).tolist()  # whose root is exact
        [[0.25], [0.25]]
        """
        c = second_moment.double()
        if not torch.isfinite(c).all():
            raise StatisticsError("the covariance holds NaN or infinity", where=where, mend="collect it in float32")
        if (c - c.T).abs().max() > 1e-6 * c.abs().max():
            raise StatisticsError("the covariance is not symmetric", where=where, mend="collect it again")
        c = (c + c.T) / 2
        added = ridge * float(c.diagonal().mean())
        c.diagonal().add_(added)
        root, failed = torch.linalg.cholesky_ex(c)
        if int(failed):
            raise StatisticsError("the covariance is not positive definite", where=where, mend=_MEND)
        return cls(c, root, tokens, added)

    @property
    def plain(self) -> Tensor:
        """C without its ridge, whose eigenvalues say what is used; a new tensor, ``(in, in)`` float64."""
        c = self.matrix.clone()
        c.diagonal().sub_(self.ridge)
        return c

    def divided(self, keys: Tensor) -> Tensor:
        """C^-1 K, ``(in, n)`` float64."""
        return torch.cholesky_solve(keys.to(self.root), self.root)


def output_size(weight: Tensor, moment: Moment) -> float:
    """The size of what a layer gives elsewhere, sqrt(E ||W k||^2) = sqrt(tr(W C W^T)), for W ``(out, in)``.

    >>> output_size(torch.eye(2), Moment.of(torch.diag(torch.tensor([9.0, 16.0]))))
    5.0
    """
    w = weight.to(moment.matrix)
    return max(float((w @ moment.matrix * w).sum()), 0.0) ** 0.5


def update_size(a: Tensor, b: Tensor, moment: Moment) -> float:
    """The same of an update B A, from its factors ``(n, in)`` and ``(out, n)``: sqrt(tr(A C A^T B^T B)).

    >>> update_size(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0]]), Moment.of(torch.diag(torch.tensor([9.0, 16.0]))))
    12.0
    """
    a, b = a.to(moment.matrix), b.to(moment.matrix)
    if len(a) >= len(b):  # no fewer edits than outputs: the factors save nothing
        return output_size(b @ a, moment)
    return max(float((a @ moment.matrix @ a.T * (b.T @ b)).sum()), 0.0) ** 0.5


def rank_one(residual: Tensor, key: Tensor, moment: Moment, *, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """ROME's update as factors (A ``(1, in)``, B ``(out, 1)``).

    Args:
        residual: v* - W k_0, ``(out,)``.
        key: k*, ``(in,)``: the direction that is written to.
        at: k_0, ``(in,)``, where the new value is to be met exactly; k* itself by default (R-ROME, arXiv:2403.07175,
            takes one key for both).

    Raises:
        StatisticsError: the denominator vanishes.
    """
    direction = moment.divided(key[:, None]).squeeze(1)
    denominator = float(direction @ (key if at is None else at).to(direction))
    if abs(denominator) < 1e-12 * float(direction.norm() * key.double().norm() + 1e-300):
        what = "the key of the edit and that of its bare prompt have nothing in common"
        raise StatisticsError(what, mend="edit another layer, or use r_rome")
    return (direction / denominator)[None], residual.double()[:, None]


def least_squares(keys: Tensor, moment: Moment, strength: float) -> Tensor:
    """A of MEMIT, ``(n, in)``; ``strength`` is lambda, and 0 gives EMMET's exact fit.

    Raises:
        StatisticsError: with lambda = 0, keys depend on each other (two edits of one subject and prompt, or more
            edits than inputs).
    """
    k = keys.double()
    y = moment.divided(k)
    gram = k.T @ y
    gram.diagonal().add_(strength)
    root, failed = torch.linalg.cholesky_ex(gram)
    dependent = bool(failed) or float(root.diagonal().min()) < 1e-5 * float(root.diagonal().max())
    if dependent:
        mend = "take doubled edits out, or solve with a strength above 0 (memit)"
        raise StatisticsError("the keys of the edits depend on each other, so no exact fit exists", mend=mend)
    return torch.cholesky_solve(y.T.contiguous(), root)


def null_basis(second_moment: Tensor, threshold: float) -> Tensor:
    """U ``(in, room)`` of P = U U^T: the eigenvectors of C with an eigenvalue below ``threshold``.

    Raises:
        StatisticsError: C is not finite, or no direction is free.
    """
    if not torch.isfinite(second_moment).all():
        raise StatisticsError("the covariance holds NaN or infinity", mend="collect it in float32")
    values, vectors = torch.linalg.eigh(second_moment.double())
    free = values < threshold
    if not free.any():
        mend = f"choose a threshold above the smallest eigenvalue, {float(values[0]):.2g}"
        raise StatisticsError("the null space is empty: every direction is used", mend=mend)
    return vectors[:, free]


class SparedKeys:
    """The keys of edits in the null space of a layer, and AlphaEdit's update that spares them.

    With U the basis of P, Q = U^T K and S = [Q_p, Q],

        A = Q^T (S S^T + alpha I)^-1 U^T = (Q^T - Q^T S (alpha I + S^T S)^-1 S^T) U^T / alpha

    which equals K^T P (K_p K_p^T P + K K^T P + alpha I)^-1 and inverts a matrix of as many rows as there are edits.
    Its Cholesky factor grows by the rows of the new keys, so that the p-th of a sequence costs p^2, not p^3.

    Args:
        basis: U, ``(in, room)`` float64.
        strength: alpha, above 0.
    """

    def __init__(self, basis: Tensor, strength: float) -> None:
        self.basis, self.strength = basis, strength
        self.inside = basis.new_zeros(basis.shape[1], 0)  # Q_p
        self.root = basis.new_zeros(0, 0)  # of alpha I + Q_p^T Q_p, lower

    def add(self, keys: Tensor) -> None:
        """Spare ``keys`` ``(in, n)`` from now on."""
        self.inside, self.root = self._with(self.basis.T @ keys.to(self.basis))

    def update(self, keys: Tensor) -> Tensor:
        """A of AlphaEdit for new ``keys`` ``(in, n)``: ``(n, in)`` float64, rows in the null space."""
        q = self.basis.T @ keys.to(self.basis)
        s, root = self._with(q)
        inner = torch.cholesky_solve(s.T @ q, root)
        return ((q - s @ inner) / self.strength).T @ self.basis.T

    def _with(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """S = [Q_p, Q] and the factor of alpha I + S^T S, from that of Q_p alone."""
        held, new = self.root.shape[0], q.shape[1]
        root = q.new_zeros(held + new, held + new)
        root[:held, :held] = self.root
        beside = torch.linalg.solve_triangular(self.root, self.inside.T @ q, upper=False)  # (p, n)
        root[held:, :held] = beside.T
        corner = q.T @ q - beside.T @ beside
        corner.diagonal().add_(self.strength)
        root[held:, held:] = torch.linalg.cholesky(corner)
        return torch.cat([self.inside, q], dim=1), root


def in_null_space(keys: Tensor, basis: Tensor, earlier: Tensor | None, strength: float) -> Tensor:
    """A of AlphaEdit, ``(n, in)``: rows in the null space, which spare the keys ``earlier`` ``(in, p)``, if any."""
    spared = SparedKeys(basis.double(), strength)
    if earlier is not None and earlier.numel():
        spared.add(earlier)
    return spared.update(keys)

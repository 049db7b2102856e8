"""The directions that data hardly uses, and how far a change that stays in them reaches the data.

Let C = E[x x^T] be the second moment of a layer's input. Its trailing eigenvectors W, ``(in, room)``, span the
*room* beside what the data uses: P = W W^T, and E||P x||^2 = tr(W^T C W) is the *residual* energy. A low-rank
change s B A with A = A P moves the layer's output on that data by

    E||s B A x||^2  <=  s^2 min( ||B A||_2^2 * residual,  ||B A||_F^2 * lambda )

lambda being the largest eigenvalue of W^T C W. As ||B A||_2 <= ||B||_2 ||A||_2, this is never looser than the
product of those norms. Where A lies in the room up to rounding only, what leaks out of it is counted too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.errors import SettingsError
from keeps.numerics.oriented import check_covariance
from keeps.numerics.products import spectral_norm, squared_norm


@dataclass(frozen=True)
class NullSpace:
    """The room that the inputs of a layer leave.

    Attributes:
        basis: W, ``(in, room)`` float32 with orthonormal columns.
        total: E||x||^2 = tr(C).
        residual: E||W^T x||^2, at most (1 - energy) of the total unless room had to be made.
        largest: the largest eigenvalue of W^T C W.
        made: dimensions that the energy asked for and that were left free all the same, to make room.
    """

    basis: Tensor
    total: float
    residual: float
    largest: float
    made: int = 0

    @property
    def room(self) -> int:
        """Dimensions that a change may read."""
        return self.basis.shape[1]

    @property
    def used(self) -> int:
        """Dimensions that nothing may read."""
        return self.basis.shape[0] - self.basis.shape[1]


def null_space(second_moment: Tensor, energy: float, *, leave: int = 1) -> NullSpace:
    """What is left beside the fewest eigenvectors of C that hold a share ``energy`` of its trace.

    The eigenvectors are found in float32, which is ten times faster and precise enough for a share; residual
    and largest eigenvalue are those of the very basis that is returned, so that a bound made of them is one.

    Args:
        second_moment: C, ``(in, in)``, symmetric positive semi-definite.
        energy: share of the trace, above 0 and below 1.
        leave: dimensions to leave free whatever the energy asks for.

    Raises:
        StatisticsError: C is not square, not finite or all zero.
        SettingsError: the energy is out of range, or more room is asked for than there are dimensions.
    """
    check_covariance(second_moment)
    width = second_moment.shape[0]
    if not 0 < energy < 1:
        raise SettingsError(f"{energy} is no share of the trace", mend="choose an energy between 0 and 1")
    if not 0 < leave <= width:
        raise SettingsError(f"{leave} dimensions of {width} cannot be left free", mend="choose a rank that fits")
    moment = second_moment.double()
    moment = (moment + moment.T) / 2
    total = float(moment.trace())
    values, vectors = torch.linalg.eigh((moment / total).float())  # ascending
    rest = values.double().clamp_min(0).cumsum(0)  # energy of the i + 1 least used directions
    room = int((rest <= (1 - energy) * rest[-1]).sum())
    made = max(leave - room, 0)
    basis = torch.linalg.qr(vectors[:, : room + made].double())[0].float().contiguous()
    inner = basis.double().T @ moment @ basis.double()
    largest = max(float(torch.linalg.eigvalsh(inner)[-1]), 0.0)
    return NullSpace(basis, total, max(float(inner.trace()), 0.0), largest, made)


def project(rows: Tensor, basis: Tensor) -> Tensor:
    """X P = (X W) W^T, in the dtype of X.

    Args:
        rows: ``(..., in)``.
        basis: W, ``(in, room)``, orthonormal columns.
    """
    w = basis.to(rows)
    return (rows @ w) @ w.T


def change_bound(a: Tensor, b: Tensor, scaling: float, space: NullSpace) -> float:
    """The bound of E||s B A x||^2 over the data that ``space`` was made of; see the head of this file.

    It holds for every A: what A reads outside the room enters with all the energy that there is
    (Minkowski's inequality), which for a projected A is nothing but rounding.

    Args:
        a: ``(rank, in)``.
        b: ``(out, rank)``.
        scaling: s.
    """
    w = space.basis.double()
    inside = a.double() @ w  # A W, (rank, room)
    leak = spectral_norm(a.double() - inside @ w.T, b) * math.sqrt(space.total)
    spectral = spectral_norm(inside, b) ** 2 * space.residual
    frobenius = float(squared_norm(inside, b.double())) * space.largest
    return (abs(scaling) * (math.sqrt(min(spectral, frobenius)) + leak)) ** 2

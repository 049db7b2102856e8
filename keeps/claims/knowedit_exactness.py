"""What can be known exactly of the closed forms: checked on real keys, weights and statistics of the default model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from keeps.claims.base import Check
from keeps.data.edits import Edit
from keeps.models.edit_rows import edit_rows, subject_inputs
from keeps.models.language_model import LanguageModel
from keeps.models.locate import mlp_outputs
from keeps.models.moments import second_moments, stored_null_basis
from keeps.numerics.editing import Moment, in_null_space, least_squares, rank_one

TOLERANCE = 1e-5
THRESHOLD = 2e-2  # of AlphaEdit's null space


def exact_checks(model: LanguageModel, edits: tuple[Edit, ...], layer: int, tokens: int) -> Iterator[Check]:
    """The identities of ROME, MEMIT and AlphaEdit, each a relative error against its threshold.

    Args:
        edits: whose subjects give the keys K.
        tokens: behind the statistics.
    """
    w = mlp_outputs(model.model)[layer].matrix.double().cpu()
    rows = [own[0] for own in edit_rows(model, edits, essence=False)]
    k = subject_inputs(model, rows, [layer])[0][layer].T.cpu()  # (in, n)
    c = second_moments(model, [layer], tokens=tokens)[layer].matrix
    moment = Moment.of(c, ridge=1e-4)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(w.shape[0], generator=generator, dtype=torch.float64)
    key = k[:, 0]
    a, b = rank_one(v - w @ key, key, moment)
    change = (b.float() @ a.float()).double()  # as it is stored
    yield _below("ROME: ||W'k* - v*|| / ||v*||", (((w + change) @ key - v).norm() / v.norm()))
    left, right = change @ key / key.norm(), change.T @ (change @ key)  # of a matrix of rank one all of it
    rest = change - torch.outer(left, right) * (left @ (change @ right) / (left @ left) / (right @ right))
    yield _below("ROME: ||W' - W - its best rank-one part|| / ||W' - W||", rest.norm() / change.norm())
    direction = moment.divided(key[:, None])[:, 0]
    q = torch.randn(len(key), generator=generator, dtype=torch.float64)
    q -= direction * (q @ direction) / (direction @ direction)
    yield _below("ROME: ||W'q - Wq|| / ||Wq|| of q orthogonal to C^-1 k*", (change @ q).norm() / (w @ q).norm())
    r = torch.randn(w.shape[0], k.shape[1], generator=generator, dtype=torch.float64)
    exact = r @ least_squares(k, moment, 1e-9)
    yield _below("MEMIT, lambda to 0: ||dW K - R|| / ||R||", (exact @ k - r).norm() / r.norm())
    still = r @ least_squares(k, moment, 1e12)
    yield _below("MEMIT, large lambda: ||dW|| / ||dW of lambda to 0||", still.norm() / exact.norm())
    basis = stored_null_basis(moment.matrix, THRESHOLD)
    inside = r @ in_null_space(k, basis, None, 1.0)
    yield _below("AlphaEdit: ||dW (I - P)|| / ||dW||", (inside - inside @ basis @ basis.T).norm() / inside.norm())


def _below(name: str, measured: torch.Tensor) -> Check:
    value = float(measured)
    return Check(name, value, f"below {TOLERANCE:g}", value < TOLERANCE)

"""Logit swap self-distillation, and the formulas of format alignment, on tensors (Mix-CPT, arXiv:2407.10804).

With teacher logits l (..., vocabulary) and the true next token y, the numbers l[argmax l] and l[y] change
places. Then the true token is the likeliest, and whatever else the teacher knew about the position stays:

    p~ = softmax(swap(l, y)),   LSSD = sum over positions of KL(p~ || student)

Logits at position i predict token i + 1: labels are shifted by whoever reads them, and a label that is
off by one turns the loss into noise without a sign (see that argmax p~ is the label everywhere).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from keeps.errors import SettingsError, nearest
from keeps.numerics.divergences import kl_divergence

IGNORED = -100  # the label of a position that does not count
REDUCTIONS = ("token_mean", "sum")


def swap_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits with those of the likeliest and of the true token exchanged.

    >>> swap_logits(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2])).tolist()
    [[2.0, 1.0, 3.0]]

    Args:
        logits: (..., vocabulary).
        labels: (...), int64 tokens of the vocabulary.

    Returns:
        A new tensor of the same shape; equal to ``logits`` where the label is the likeliest already.
    """
    top, true = logits.argmax(-1, keepdim=True), labels.unsqueeze(-1)
    high, low = logits.gather(-1, top), logits.gather(-1, true)  # both read before either is overwritten
    return logits.scatter(-1, top, low).scatter(-1, true, high)


def distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 1.0, swap: bool = True
) -> Tensor:
    """KL(teacher || student) at each position, the teacher swapped unless told otherwise.

    In float32 or, of float64 logits, in float64 (over a vocabulary of 49,152 float32 is right to 1e-4 nats).

    Both sides are divided by ``temperature``, and the result is multiplied by its square, so that the size of
    the gradient does not depend on it (Hinton et al. 2015). At temperature 1 the gradient by the student's
    logits is softmax(student) - p~.

    Args:
        student: logits, (positions, vocabulary).
        teacher: logits of the same shape; no gradient is taken.
        labels: (positions,), int64.

    Returns:
        (positions,).
    """
    wide = torch.promote_types(teacher.dtype, torch.float32)  # before anything is divided
    wanted = teacher.detach().to(wide)
    wanted = swap_logits(wanted, labels) if swap else wanted
    return temperature**2 * kl_divergence(wanted / temperature, student.to(wide) / temperature)


def lssd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    reduction: str = "token_mean",
    temperature: float = 1.0,
    swap: bool = True,
    chunk: int = 1024,
) -> Tensor:
    """The self-distillation loss over all positions whose label is not -100.

    Args:
        student: logits, (..., vocabulary), aligned with ``labels``: those that predict them.
        teacher: logits of the unchanged model, same shape.
        labels: (...), int64; -100 leaves a position out.
        reduction: ``"token_mean"`` divides by the positions that count, not by the rows of the batch.
        chunk: positions at a time. Beyond one chunk each is computed once more in the backward pass, so
            that softmax and divergence of one chunk alone are in memory.

    Returns:
        A scalar, 0 where no position counts.

    Raises:
        SettingsError: the vocabularies differ, the temperature or the chunk is not above 0, or an unknown reduction.
    """
    if student.shape != teacher.shape or student.shape[:-1] != labels.shape:
        what = f"logits of shape {tuple(student.shape)} and {tuple(teacher.shape)} for labels {tuple(labels.shape)}"
        raise SettingsError(what, where="lssd_loss", mend="distil from a model with the same vocabulary and tokens")
    if not (temperature > 0 and chunk > 0):
        what = f"temperature {temperature:g}, chunk {chunk}"
        raise SettingsError(what, where="lssd_loss", mend="choose values above 0")
    if reduction not in REDUCTIONS:
        raise SettingsError(f'reduction is "{reduction}"', where="lssd_loss", mend=nearest(reduction, REDUCTIONS))
    counts = labels != IGNORED
    pieces = zip(student[counts].split(chunk), teacher[counts].split(chunk), labels[counts].split(chunk), strict=True)

    def piece(rows: Tensor, wanted: Tensor, tokens: Tensor) -> Tensor:
        return distillation(rows, wanted, tokens, temperature=temperature, swap=swap).sum()

    total = torch.stack([checkpoint(piece, *each, use_reentrant=False) for each in pieces]).sum()
    return total / counts.sum().clamp_min(1) if reduction == "token_mean" else total


def perplexity(loss: Tensor) -> Tensor:
    """exp of the mean loss per token, in nats."""
    return loss.exp()


def format_alignment_score(templated: Tensor, plain: Tensor) -> Tensor:
    """FAS = L(r | template(q)) / L(r | plain(q)): high where the format is strange and the content is not.

    The paper does not fix the formula; this is the ratio of the mean losses of the *response* after the
    question in the chat template and after the question as plain text.

    Args:
        templated: (samples,), mean loss per token of the responses, in nats.
        plain: the same without a template.
    """
    return templated / plain.clamp_min(torch.finfo(plain.dtype).tiny)


def dpo_loss(chosen: Tensor, rejected: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """-log sigmoid(beta [log pi(r+) / pi_ref(r+) - log pi(r-) / pi_ref(r-)]) (Rafailov et al. 2023, eq. 7).

    Args:
        chosen: (pairs,), log-probability of the preferred responses, summed over their tokens.
        rejected: (pairs,), of the others.
        reference: (pairs, 2), of both under the reference model, the preferred one first.

    Returns:
        (pairs,): log 2 where the model is the reference.
    """
    margin = (chosen - reference[:, 0]) - (rejected - reference[:, 1])
    return -functional.logsigmoid(beta * margin)

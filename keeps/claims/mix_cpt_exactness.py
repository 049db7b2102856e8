"""Identities of logit swap self-distillation on the default model's own logits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from keeps.claims.base import Check
from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.distillation import distillation, lssd_loss, swap_logits
from keeps.training.batches import collate
from keeps.training.distilled import LiveTeacher
from keeps.training.mixture import plain_examples
from keeps.training.reference import Reference

NOISE = 0.5  # added to the teacher's logits to have a student that differs


def exactness_checks(model: LanguageModel, texts: RecordSet) -> Iterator[Check]:
    """Swap, divergence, gradient, chunks, and the stored teacher against the live one."""
    examples = plain_examples(model, texts.records[:8], 128)
    batch = collate(examples, model.encoder.pad_token_id).to(model.device)
    with tempfile.TemporaryDirectory() as folder:
        stored = Reference.of(model, examples, run=Run(Path(folder))).logits(batch)
    teacher = stored.double()  # identities are shown in float64: sums over the vocabulary cost float32 four digits
    labels = batch.targets
    target = swap_logits(teacher, labels)
    wrong = int((target.argmax(-1) != labels).sum()) + int((target.sort(-1).values != teacher.sort(-1).values).sum())
    yield Check("positions whose swapped target is wrong or holds other numbers", wrong, "none", wrong == 0)

    p = teacher.softmax(-1)
    top, true = p.max(-1).values, p.gather(-1, labels[:, None])[:, 0]
    closed = (top - true) * (top / true).log()
    error = float((distillation(teacher, teacher, labels) - closed).abs().max())
    yield Check("largest |KL(p~ || p) - (p_top - p_y) log(p_top / p_y)|, nats", error, "below 1e-6", error < 1e-6)

    noise = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0)).to(teacher)
    found = []
    for chunk in (len(labels), 7):
        student = (teacher + NOISE * noise).requires_grad_(True)
        loss = lssd_loss(student, teacher, labels, reduction="sum", chunk=chunk)
        loss.backward()
        found.append((float(loss.detach()), student.grad if student.grad is not None else torch.zeros(1)))
    expected = (teacher + NOISE * noise).softmax(-1) - target.softmax(-1)
    error = float((found[0][1] - expected).abs().max())
    yield Check("largest |gradient - (softmax(student) - p~)|", error, "below 1e-6", error < 1e-6)
    error = abs(found[0][0] - found[1][0]) / abs(found[0][0]) + float((found[0][1] - found[1][1]).abs().max())
    yield Check("chunked against whole, loss and gradient", error, "below 1e-6", error < 1e-6)

    rows, head = LiveTeacher(model.model).read(batch)
    with torch.no_grad():
        error = float((head(rows) - stored).abs().max())
    yield Check("stored teacher against the model run again, logits", error, "below 1e-3", error < 1e-3)

"""Logit swap, its divergence and gradient, chunks, and the formulas of format alignment."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from keeps.errors import SettingsError
from keeps.numerics.distillation import (
    distillation,
    dpo_loss,
    format_alignment_score,
    lssd_loss,
    perplexity,
    swap_logits,
)


def case(seed: int = 0, positions: int = 40, vocabulary: int = 17, spread: float = 2.0) -> Any:
    """Student, teacher and labels; some labels are the teacher's likeliest token."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = spread * torch.randn(2, positions, vocabulary, generator=generator)
    labels = torch.randint(vocabulary, (positions,), generator=generator)
    labels[::5] = teacher[::5].argmax(-1)
    return student, teacher, labels


sizes = st.tuples(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 40), st.floats(0.1, 6))


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_the_swapped_target_peaks_at_the_label_and_keeps_all_its_numbers(size: tuple[int, int, int, float]) -> None:
    _, teacher, labels = case(*size)
    swapped = swap_logits(teacher, labels)
    assert torch.equal(swapped.argmax(-1), labels)
    assert torch.equal(swapped.sort(-1).values, teacher.sort(-1).values)
    assert torch.equal(swap_logits(swapped, teacher.argmax(-1)), teacher), "swapping back gives the teacher"
    others = torch.ones_like(teacher, dtype=torch.bool)
    others.scatter_(-1, labels[:, None], False).scatter_(-1, teacher.argmax(-1, keepdim=True), False)
    assert torch.equal(swapped[others], teacher[others])


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_the_divergence_of_the_swap_has_its_closed_form(size: tuple[int, int, int, float]) -> None:
    """KL(p~ || p) = (p_top - p_y) log(p_top / p_y), which is 0 where the label is the likeliest token."""
    _, teacher, labels = case(*size)
    teacher = teacher.double()
    p = teacher.softmax(-1)
    top, true = p.max(-1).values, p.gather(-1, labels[:, None])[:, 0]
    found = distillation(teacher, teacher, labels)
    torch.testing.assert_close(found, (top - true) * (top / true).log(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(
        distillation(teacher.float(), teacher.float(), labels).double(), found, atol=1e-5, rtol=1e-5
    )
    right = labels == teacher.argmax(-1)
    assert not found[right].any()


@pytest.mark.parametrize(("swap", "temperature"), [(True, 1.0), (False, 1.0), (True, 2.5)])
def test_the_gradient_is_student_minus_target(swap: bool, temperature: float) -> None:
    student, teacher, labels = case()
    student.requires_grad_(True)
    lssd_loss(student, teacher, labels, reduction="sum", swap=swap, temperature=temperature).backward()
    target = teacher.clone()
    if swap:  # one position after the other
        for row, label in zip(target, labels.tolist(), strict=True):
            top = int(row.argmax())
            row[top], row[label] = float(row[label]), float(row[top])
    wanted = temperature * ((student.detach() / temperature).softmax(-1) - (target / temperature).softmax(-1))
    torch.testing.assert_close(student.grad, wanted, atol=1e-6, rtol=1e-5)


def test_the_loss_differs_from_soft_label_cross_entropy_by_a_constant() -> None:
    student, teacher, labels = case()
    target = swap_logits(teacher, labels).softmax(-1)
    entropy = -(target * target.log()).sum()
    wanted = functional.cross_entropy(student, target, reduction="sum") - entropy
    torch.testing.assert_close(lssd_loss(student, teacher, labels, reduction="sum"), wanted)


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
@pytest.mark.parametrize("reduction", ["sum", "token_mean"])
def test_chunks_change_neither_loss_nor_gradient(chunk: int, reduction: str) -> None:
    results = []
    for size in (chunk, 10_000):
        student, teacher, labels = case()
        labels[3:9] = -100
        student.requires_grad_(True)
        loss = lssd_loss(student, teacher, labels, reduction=reduction, chunk=size)
        loss.backward()
        results.append((loss.detach(), student.grad))
    torch.testing.assert_close(results[0], results[1])


def test_ignored_positions_count_neither_in_the_sum_nor_in_the_mean() -> None:
    student, teacher, labels = case()
    labels[10:] = -100
    shape = (4, 10)
    parts = student.view(*shape, -1), teacher.view(*shape, -1), labels.view(shape)
    total = sum(distillation(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1]).item() for i in range(10))
    assert lssd_loss(*parts, reduction="sum").item() == pytest.approx(total, rel=1e-5)
    assert lssd_loss(*parts).item() == pytest.approx(total / 10, rel=1e-5), "by tokens, not by rows"
    assert lssd_loss(student, teacher, torch.full_like(labels, -100)).item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature 0"),
        ({"chunk": 0}, "chunk 0"),
        ({"reduction": "mean"}, 'did you mean "token_mean"'),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        lssd_loss(*case(), **change)


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    student, teacher, labels = case()
    with pytest.raises(SettingsError, match="same vocabulary"):
        lssd_loss(student, teacher[:, :-1], labels)


def test_scores_are_perplexity_and_the_ratio_of_losses() -> None:
    templated, plain = torch.tensor([3.0, 1.0]), torch.tensor([1.5, 2.0])
    assert perplexity(templated).tolist() == pytest.approx([math.e**3, math.e])
    assert format_alignment_score(templated, plain).tolist() == [2.0, 0.5]
    assert torch.isfinite(format_alignment_score(torch.zeros(1), torch.zeros(1))).all()


def test_dpo_is_log_two_at_the_reference_and_falls_with_the_margin() -> None:
    reference = torch.tensor([[-5.0, -3.0], [-2.0, -9.0]])
    chosen, rejected = reference.unbind(1)
    assert dpo_loss(chosen, rejected, reference, beta=0.1).tolist() == pytest.approx([math.log(2)] * 2)
    moved = dpo_loss(chosen + 2, rejected - 1, reference, beta=0.5)
    assert moved.tolist() == pytest.approx([math.log(1 + math.exp(-1.5))] * 2), "margin 3 times beta 0.5"

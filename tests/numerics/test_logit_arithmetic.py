from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from keeps.numerics.logit_arithmetic import (
    GATES,
    cad,
    ck_adjust,
    classifier_free_guidance,
    entropy,
    head_vocabulary,
    shifted,
)

Z_C, Z_P = torch.tensor([[1, 1.2, 0, -1]]), torch.tensor([[4.0, 0, 0, 0]])  # the published worked example
WORKED = {
    0.0: [0.0105, 0.7008, 0.2111, 0.0776],
    0.25: [0.0679, 0.5831, 0.2371, 0.1120],
    0.5: [0.3247, 0.3589, 0.1970, 0.1195],
    "adaptive": [0.8284, 0.0696, 0.0557, 0.0463],
    1.0: [0.9479, 0.0174, 0.0174, 0.0174],
}
WIDTH = 30
# multiples of 1/64: ties are exact, and no other two logits are so near that rounding decides
rows = arrays(np.float64, (3, WIDTH), elements=st.integers(-768, 768).map(lambda number: number / 64))
shares = st.floats(0, 1)


def by_probabilities(z_c: np.ndarray, z_p: np.ndarray, alpha: float | str, offset: float, rho: float, top: int):
    """The method as it is written down, one row, with probabilities and loops: nothing in common with the code."""

    def softmax(z: np.ndarray, kept: list[int]) -> dict[int, float]:
        total = sum(math.exp(z[v] - max(z)) for v in kept)
        return {v: math.exp(z[v] - max(z)) / total for v in kept}

    def head(z: np.ndarray) -> set[int]:
        p = softmax(z, list(range(len(z))))
        ordered = sorted(p.values(), reverse=True)
        least = min(ordered[top - 1], rho * ordered[0])
        return {v for v in p if p[v] >= least * (1 - 1e-12)}

    kept = sorted(head(z_c) | head(z_p))
    p_c, p_p = softmax(z_c, kept), softmax(z_p, kept)
    h_c, h_p = (-sum(p * math.log(p) for p in q.values() if p > 0) for q in (p_c, p_p))
    adjusted = h_p - h_c < offset * h_c
    if alpha == "adaptive":
        alpha = h_c / (h_c + h_p) if h_c + h_p > 0 else 0.5
    assert isinstance(alpha, float)
    if not adjusted:
        return {v: p_c[v] for v in kept}, adjusted, alpha, h_c, h_p
    weight = {v: alpha * math.log(p_p[v]) + (1 - alpha) * math.log(p_c[v] / p_p[v]) for v in kept}
    largest = max(weight.values())
    total = sum(math.exp(w - largest) for w in weight.values())
    return {v: math.exp(weight[v] - largest) / total for v in kept}, adjusted, alpha, h_c, h_p


@pytest.mark.parametrize("alpha", WORKED)
def test_the_worked_example_has_the_published_entropies_and_distributions(alpha: float | str) -> None:
    found = ck_adjust(Z_C, Z_P, alpha)  # type: ignore[arg-type]
    assert found.h_context.item() == pytest.approx(1.14703, abs=1e-5)
    assert found.h_param.item() == pytest.approx(0.26183, abs=1e-5)
    assert found.gain.item() == pytest.approx(-0.88520, abs=2e-5)
    assert found.adjusted.item() is True
    assert found.scores.softmax(-1)[0].tolist() == pytest.approx(WORKED[alpha], abs=1e-4)
    if alpha == "adaptive":
        assert found.alpha.item() == pytest.approx(0.81416, abs=1e-5)


@given(rows, rows, shares | st.just("adaptive"), st.sampled_from(["cg", "code", "always"]), st.integers(1, 12))
def test_scores_are_those_of_the_method_written_with_probabilities(
    z_c: np.ndarray, z_p: np.ndarray, alpha: float | str, gate: str, top: int
) -> None:
    found = ck_adjust(torch.from_numpy(z_c), torch.from_numpy(z_p), alpha, gate=gate, top=top)  # type: ignore[arg-type]
    for row in range(len(z_c)):
        p, adjusted, weight, h_c, h_p = by_probabilities(z_c[row], z_p[row], alpha, GATES[gate], 0.01, top)
        assert (found.h_context[row].item(), found.h_param[row].item()) == pytest.approx((h_c, h_p), abs=1e-9)
        assume(gate == "always" or abs(h_p - h_c - GATES[gate] * h_c) > 1e-9)  # on the edge rounding decides
        assert bool(found.adjusted[row]) is (adjusted or gate == "always")
        if alpha != "adaptive" or h_c + h_p > 1e-9:
            assert found.alpha[row].item() == pytest.approx(weight, abs=1e-6)
        got = found.scores[row].softmax(-1)
        assert {v for v in range(WIDTH) if torch.isfinite(found.scores[row, v])} == set(p)
        if adjusted or gate != "always":
            assert [got[v].item() for v in p] == pytest.approx(list(p.values()), abs=1e-8)


@given(rows, rows, st.sampled_from(["cg", "code", "always"]))
def test_alpha_one_half_is_half_the_context_and_alpha_one_the_memory(
    z_c: np.ndarray, z_p: np.ndarray, gate: str
) -> None:
    context, memory = torch.from_numpy(z_c).float(), torch.from_numpy(z_p).float()
    half = ck_adjust(context, memory, 0.5, gate=gate)  # type: ignore[arg-type]
    kept = half.scores.isfinite()
    factor = torch.where(half.adjusted, 0.5, 1.0)[:, None].expand_as(context)
    assert torch.equal(half.scores[kept], (factor * context)[kept])  # exactly: no token can change places
    assert torch.equal(half.scores.amax(-1), (factor * context).amax(-1))
    one = ck_adjust(context, memory, 1.0, gate=gate)  # type: ignore[arg-type]
    expected = torch.where(one.adjusted[:, None], memory, context)
    assert torch.equal(one.scores[kept], expected[kept])


@given(rows, rows, shares, st.integers(0, WIDTH - 1), st.integers(0, WIDTH - 1))
def test_the_margin_of_two_tokens_is_affine_in_alpha(
    z_c: np.ndarray, z_p: np.ndarray, alpha: float, original: int, other: int
) -> None:
    scores = ck_adjust(torch.from_numpy(z_c), torch.from_numpy(z_p), alpha, gate="always").scores
    both = scores[:, [original, other]].isfinite().all(-1)
    d_c, d_p = (torch.from_numpy(z[:, original] - z[:, other]) for z in (z_c, z_p))
    margin = scores[:, original] - scores[:, other]
    expected = alpha * d_p + (1 - alpha) * (d_c - d_p)
    assert torch.allclose(margin[both], expected[both], atol=1e-5)


@given(rows, rows, shares | st.just("adaptive"), st.floats(-50, 50), st.permutations(range(3)))
def test_constants_change_nothing_and_rows_have_nothing_to_do_with_each_other(
    z_c: np.ndarray, z_p: np.ndarray, alpha: float | str, constant: float, order: list[int]
) -> None:
    context, memory = torch.from_numpy(z_c), torch.from_numpy(z_p)
    plain = ck_adjust(context, memory, alpha)  # type: ignore[arg-type]
    assume(bool((plain.gain.abs() > 1e-9).all()))
    moved = ck_adjust(context[order] + constant, memory[order] - constant, alpha)  # type: ignore[arg-type]
    assert torch.equal(moved.adjusted, plain.adjusted[order])
    # a token that stands exactly at the threshold may move across it by rounding
    same = (moved.scores.isfinite() == plain.scores[order].isfinite()).all(-1)
    found, expected = moved.scores.softmax(-1)[same], plain.scores[order].softmax(-1)[same]
    assert torch.allclose(found, expected, atol=1e-7)


@given(rows, rows)
def test_the_released_scale_keeps_the_order_and_has_the_released_ratio(z_c: np.ndarray, z_p: np.ndarray) -> None:
    context, memory = torch.from_numpy(z_c), torch.from_numpy(z_p)
    paper = ck_adjust(context, memory, "adaptive", gate="always")
    code = ck_adjust(context, memory, "adaptive", gate="always", scale="code")
    assert torch.equal(paper.scores.argmax(-1), code.scores.argmax(-1))
    h_c, h_p = paper.h_context, paper.h_param
    assume(bool((h_c + h_p > 1e-6).all()))
    n = 1 + (h_c - h_p).abs() / (h_c + h_p)
    of_memory, of_context = (2 * h[:, None] / (h_c + h_p * n)[:, None] for h in (h_c, h_p))
    released = of_memory * memory + of_context * (context - memory)  # as the released loop writes it
    kept = code.scores.isfinite()
    assert torch.allclose(code.scores[kept], released[kept], atol=1e-9)


def test_two_certain_streams_fall_back_on_one_half() -> None:
    certain = torch.tensor([[0.0, -1e6, -1e6]])
    found = ck_adjust(certain, certain, "adaptive", gate="always", top=1)
    assert found.alpha.tolist() == [0.5]
    assert found.scores.argmax(-1).tolist() == [0]
    assert ck_adjust(certain, certain, "adaptive", gate="always", top=1, scale="code").scores.isfinite().any()


def test_the_released_gate_opens_where_memory_has_less_than_twice_the_entropy() -> None:
    z_c = torch.log(torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.97, 0.01, 0.01, 0.01]]))
    z_p = torch.log(torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.5, 0.2, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]))
    opened = {gate: ck_adjust(z_c, z_p, 0.3, gate=gate).adjusted.tolist() for gate in ("cg", "code", "always")}  # type: ignore[arg-type]
    assert opened == {"cg": [True, False, False], "code": [True, True, False], "always": [True, True, True]}
    found = ck_adjust(z_c, z_p, 0.3, gate="code")
    assert torch.equal(found.adjusted, found.h_param < 2 * found.h_context)
    assert ck_adjust(z_c, z_p, 0.3, gate=-0.5).adjusted.tolist() == [True, False, False]


def test_entropies_are_those_of_the_candidates_not_of_the_vocabulary() -> None:
    tail = torch.full((1, 10000), -6.0)  # unlikely one by one, likely together
    z = torch.cat([torch.tensor([[0.0, -0.5]]), tail], dim=1)
    kept = head_vocabulary(z, rho=0.01, top=2)
    assert kept.sum().item() == 2
    two = torch.tensor([0.0, -0.5]).softmax(-1)
    assert entropy(z, kept).item() == pytest.approx(-(two * two.log()).sum().item(), abs=1e-6)
    assert entropy(z, torch.ones_like(kept)).item() > 5


def test_a_token_that_is_likely_in_one_stream_alone_is_a_candidate_unless_the_context_has_the_floor() -> None:
    z_c = torch.tensor([[2.0, 1.9, -9.0, -20.0]])
    z_p = torch.tensor([[-9.0, -9.0, 3.0, -20.0]])
    free = ck_adjust(z_c, z_p, 0.0, gate="always", top=1)
    assert free.scores.isfinite().tolist() == [[True, True, True, False]]
    floored = ck_adjust(z_c, z_p, 0.0, gate="always", top=1, context_floor=True)
    assert floored.scores.isfinite().tolist() == [[True, True, False, False]]
    above = ck_adjust(z_c, z_p, 0.5, gate="always", top=1, context_floor=True)
    assert torch.equal(above.scores, ck_adjust(z_c, z_p, 0.5, gate="always", top=1).scores)


def test_a_row_may_have_an_alpha_of_its_own() -> None:
    z_c, z_p = Z_C.repeat(2, 1), Z_P.repeat(2, 1)
    each = ck_adjust(z_c, z_p, torch.tensor([0.25, 1.0])).scores
    for row, alpha in enumerate((0.25, 1.0)):
        assert torch.equal(each[row], ck_adjust(Z_C, Z_P, alpha).scores[0])


def test_half_precision_is_widened_and_more_candidates_than_tokens_are_all_tokens() -> None:
    found = ck_adjust(Z_C.bfloat16(), Z_P.bfloat16(), 0.5, top=99)
    assert found.scores.dtype == torch.float32
    assert found.scores.isfinite().all()


@given(rows, rows, st.floats(0, 3))
def test_cad_is_guidance_towards_the_context_and_guidance_one_is_the_context(
    z_c: np.ndarray, z_p: np.ndarray, alpha: float
) -> None:
    context, memory = torch.from_numpy(z_c), torch.from_numpy(z_p)
    found = cad(context, memory, alpha)
    assert torch.allclose(found, (1 + alpha) * context - alpha * memory, atol=1e-9)
    assert torch.allclose(found, classifier_free_guidance(context, memory, 1 + alpha), atol=1e-9)
    assert torch.equal(cad(context, memory, 0.0), context)
    assert torch.allclose(classifier_free_guidance(context, memory, 1.0), context, atol=1e-12)
    assert torch.equal(classifier_free_guidance(context, memory, 0.0), memory)


def test_guidance_is_that_of_transformers() -> None:
    from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

    class Fixed:
        def __call__(self, *_: object, **__: object) -> object:
            return type("Output", (dict,), {"logits": Z_P[:, None]})()

    theirs = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.7, Fixed(), torch.tensor([[0]]))  # type: ignore[arg-type]
    expected: Tensor = theirs(torch.tensor([[0]]), Z_C)  # type: ignore[arg-type]
    assert torch.allclose(classifier_free_guidance(Z_C, Z_P, 1.7).softmax(-1), expected.softmax(-1), atol=1e-6)


def test_plausible_keeps_what_has_a_share_of_the_best_probability_with_the_context() -> None:
    z_c = torch.log(torch.tensor([[0.6, 0.35, 0.05]]))
    assert cad(z_c, torch.zeros(1, 3), 1.0, plausible=0.1).isfinite().tolist() == [[True, True, False]]


def test_an_expert_of_the_large_model_itself_takes_its_place() -> None:
    large, base, expert = torch.randn(3, 2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(shifted(large, large, [expert], [1.0]), expert)
    assert torch.equal(shifted(large, base, [base], [1.0]), large)
    two = shifted(large, base, [expert, large], [0.5, -0.25])
    assert torch.allclose(two, large + 0.5 * (expert - base) - 0.25 * (large - base))

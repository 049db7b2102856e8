"""Task vectors and adapters are subtracted as products; what changes nothing changes no bit."""

from __future__ import annotations

import pytest
import torch

from keeps.numerics.task_vectors import (
    deficiency,
    extracted_before_subtracted,
    negated,
    negated_factors,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_zero_vector_gives_the_start_bit_for_bit() -> None:
    start = drawn(5, 7)
    assert torch.equal(negated(start, start.clone(), 1.0), start)
    assert torch.equal(negated(start, drawn(5, 7, seed=1), 0.0), start)


def test_the_difference_is_reflected_in_proportion_to_the_strength() -> None:
    start, tuned = drawn(3, 4), drawn(3, 4, seed=1)
    for strength in (0.25, 1.0):
        torch.testing.assert_close(start - negated(start, tuned, strength), strength * (tuned - start))


@pytest.mark.parametrize("factor", ["a", "b"])
def test_one_negated_factor_negates_the_product_and_both_leave_it_as_it_is(factor: str) -> None:
    a, b = drawn(2, 6), drawn(5, 2, seed=1)
    one, two = negated_factors(a, b, 0.5, factor=factor)  # type: ignore[arg-type]
    torch.testing.assert_close(two @ one, -0.5 * (b @ a))
    one, two = negated_factors(a, b, factor="both")
    assert torch.equal(two @ one, b @ a), "negating both is the identity"
    with pytest.raises(ValueError, match="no factor"):
        negated_factors(a, b, factor="c")  # type: ignore[arg-type]


def test_what_is_subtracted_is_orthogonal_to_what_both_share() -> None:
    good, bad = drawn(4, 9).double(), drawn(4, 9, seed=1).double()
    shared = good / good.norm(dim=1, keepdim=True) + bad / bad.norm(dim=1, keepdim=True)
    a, b = deficiency(good, bad)
    torch.testing.assert_close(((a * bad + b * good) * shared).sum(1), torch.zeros(4).double(), atol=1e-12, rtol=0)
    unit = shared / shared.norm(dim=1, keepdim=True)
    torch.testing.assert_close(a * bad + b * good, bad - (bad * unit).sum(1, keepdim=True) * unit)
    a, b = deficiency(good, good)
    assert float((a * good + b * good).abs().max()) < 1e-12, "what both learned is not subtracted"


def test_a_row_in_which_one_of_them_learned_nothing_is_subtracted_whole() -> None:
    bad = drawn(3, 5)
    a, b = deficiency(torch.zeros(3, 5), bad)
    assert torch.equal(a * bad.double() + b * 0, bad.double())
    a, b = deficiency(bad, torch.zeros(3, 5))
    assert not (b * bad.double()).any(), "of nothing nothing is subtracted"


def test_the_factors_of_twice_the_rank_are_the_expert_minus_the_deficiency() -> None:
    good, bad = (drawn(2, 9, seed=0), drawn(6, 2, seed=1)), (drawn(2, 9, seed=2), drawn(6, 2, seed=3))
    a, b = extracted_before_subtracted(good, bad, 0.7)
    assert (a.shape, b.shape) == ((4, 9), (6, 4))
    v_good, v_bad = good[1] @ good[0], bad[1] @ bad[0]
    first, second = deficiency(v_good, v_bad)
    expected = v_good.double() - 0.7 * (first * v_bad + second * v_good)
    torch.testing.assert_close((b @ a).double(), expected, atol=1e-5, rtol=1e-5)

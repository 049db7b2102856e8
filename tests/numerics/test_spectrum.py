"""The score of a spectrum, and ranks shared out by it, against trying every way to share them out."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.numerics.oriented import damped, oriented_start
from keeps.numerics.spectrum import allocated_ranks, compactness, components_for, described, held, rank_bounds


def test_the_energy_of_a_start_is_that_of_its_whole_spectrum_and_the_score_is_the_cards() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 7, generator=generator), torch.randn(30, 7, generator=generator).double()
    context = damped(x.T @ x)
    values = torch.linalg.svdvals(weight.double() @ context.matrix)
    total = float(values.square().sum())
    for mode, part in (("ipm", values[:2]), ("kpm", values[-2:])):
        start = oriented_start(weight, context, 2, 1.0, mode)  # type: ignore[arg-type]
        assert start.energy == pytest.approx(total)
        share = float(part.square().sum()) / total
        assert held(start.values, start.energy) == pytest.approx(share)
        score = compactness(start.values, start.energy, largest=mode == "ipm")
        assert score == pytest.approx(share if mode == "ipm" else 1 - share)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_a_start_that_is_cut_is_the_start_of_fewer_components(mode: str, balance: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(6, 9, generator=generator), torch.randn(40, 9, generator=generator).double()
    context = damped(x.T @ x)
    wide = oriented_start(weight, context, 5, 2.0, mode, balance=balance)  # type: ignore[arg-type]
    cut = wide.cut(2, largest=mode == "ipm", balance=balance)
    direct = oriented_start(weight, context, 2, 2.0, mode, balance=balance)  # type: ignore[arg-type]
    for found, wanted in ((cut.a, direct.a), (cut.b, direct.b), (cut.values, direct.values)):
        torch.testing.assert_close(found, wanted)
    assert cut.energy == direct.energy


@given(
    spectra=st.lists(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3), min_size=2, max_size=4),
    spare=st.integers(0, 8),
    largest=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_with_equal_costs_no_other_way_to_share_ranks_out_is_more_compact(
    spectra: list[list[float]], spare: int, largest: bool
) -> None:
    names = [f"layer{n}" for n in range(len(spectra))]
    shares = {
        name: torch.tensor(sorted(row, reverse=largest), dtype=torch.float64)
        for name, row in zip(names, spectra, strict=True)
    }
    costs, bounds = dict.fromkeys(names, 5), dict.fromkeys(names, (1, 3))
    budget = 5 * (len(names) + min(spare, 2 * len(names)))
    ranks = allocated_ranks(shares, costs, bounds, budget, largest=largest)

    def taken(chosen: tuple[int, ...]) -> float:
        return sum(float(shares[name][:rank].sum()) for name, rank in zip(names, chosen, strict=True))

    ways = [way for way in itertools.product((1, 2, 3), repeat=len(names)) if 5 * sum(way) == budget]
    best = (max if largest else min)(map(taken, ways))
    assert 5 * sum(ranks.values()) == budget
    assert taken(tuple(ranks.values())) == pytest.approx(best)


def test_the_budget_is_of_parameters_and_is_spent_as_far_as_it_goes() -> None:
    shares = {"dear": torch.tensor([0.9, 0.5, 0.4]), "cheap": torch.tensor([0.3, 0.2, 0.1])}
    costs, bounds = {"dear": 10, "cheap": 2}, {"dear": (1, 3), "cheap": (1, 3)}
    assert allocated_ranks(shares, costs, bounds, 12, largest=True) == {"dear": 1, "cheap": 1}
    assert allocated_ranks(shares, costs, bounds, 17, largest=True) == {"dear": 1, "cheap": 3}  # 0.2 / 2 > 0.5 / 10
    assert allocated_ranks(shares, costs, bounds, 99, largest=True) == {"dear": 3, "cheap": 3}


def test_bounds_stay_within_the_layer_and_hold_the_uniform_rank() -> None:
    assert rank_bounds(16, 2.0, 100) == (8, 32)
    assert rank_bounds(5, 2.0, 7) == (3, 7)
    assert rank_bounds(1, 64, 8) == (1, 8)


def test_a_flat_spectrum_needs_all_components_and_a_steep_one_few() -> None:
    assert components_for(torch.ones(10), 0.99) == 10
    assert components_for(torch.tensor([10.0, *[0.1] * 9]), 0.99) == 1
    line = described(torch.tensor([4.0, 2.0, 1.0]), 1, largest=False)
    assert line["ipm"] == pytest.approx(16 / 21)
    assert line["kpm"] == pytest.approx(1 / 21)
    assert line["compactness"] == pytest.approx(20 / 21)
    assert (line["components"], line["rank"], line["components_99"]) == (3, 1, 3)

"""The parts of the claim on capacity: exact identities, mixtures as they are meant, and checks that can fail."""

from __future__ import annotations

import pytest
import torch

from keeps.claims import capacity
from keeps.claims.base import ClaimRun
from keeps.claims.capacity_toy import JUNK, extraction, mixed_batches, mixture_trained, trained
from keeps.data.biography_tokens import DOMAIN, TokenBiographies
from keeps.numerics.capacity import Losses
from keeps.numerics.quantisation import Quantiser
from keeps.probe.capacity_report import CapacityReport, size_of
from keeps.training.scratch import PADDING


def test_the_identities_hold() -> None:
    checks = list(capacity._identities())
    assert len(checks) == 3
    assert all(check.holds for check in checks)


@pytest.mark.parametrize("options", [{}, {"domain": True}, {"repeated": 5}])
def test_mixtures_show_everybody_equally_often_and_seven_times_as_much_junk(options: dict[str, int]) -> None:
    corpus = TokenBiographies(20, seed=2)
    batches = list(mixed_batches(corpus, 6, 32, seed=0, **options))  # type: ignore[arg-type]
    rows = torch.cat(batches)
    marked = "domain" in options
    assert len(rows) == 20 * 6 * (1 + JUNK)
    own = {tuple(name): 0 for name in corpus.people[:, :3].tolist()}
    others: set[tuple[int, ...]] = set()
    for row in rows.tolist():
        name = _name(row)
        if name in own:
            own[name] += 1
            assert (row[1] == DOMAIN) == marked
        else:
            others.add(name)
            assert row[1] != DOMAIN
            assert (row[-1] == PADDING) == marked
    assert set(own.values()) == {6}
    assert len(others) == 5 if "repeated" in options else len(others) > 800
    shares = [sum(_name(row) in own for row in batch.tolist()) for batch in batches[:-1]]
    assert min(shares) < max(shares) < 16  # useful documents are spread over the batches, not in a block


def _name(row: list[int]) -> tuple[int, ...]:
    return tuple(row[2:5] if row[1] == DOMAIN else row[1:4])


def test_toys_are_trained_rounded_and_asked() -> None:
    done = trained(10, 40, 10, seed=1)
    report = done.report()
    assert 0 < report.ratio <= report.most
    assert done.rounded_report(Quantiser(2, "uniform_absmax")).ratio < report.ratio
    assert done.report().ratio == report.ratio
    mixed = mixture_trained(6, 5, 40, seed=1, domain=True)
    assert mixed.domain
    assert mixed.report().losses.p1 > 0
    seen, unseen = extraction(done, 2, 10)
    assert 0 <= min(seen, unseen) <= max(seen, unseen) <= 1


def test_checks_of_exposures_fail_where_little_was_learned() -> None:
    corpus = TokenBiographies(300)
    size = size_of(corpus)
    counted = trained(2, 1, 2, seed=0).report().parameters
    perfect = CapacityReport(size.perfect, size, counted)
    nothing = CapacityReport(Losses(12.0, 27.0), size, counted)
    good = list(capacity._exposure_checks([perfect], [nothing], [perfect]))
    assert [check.holds for check in good] == [True, False, True]  # 300 persons are no bit a parameter
    bad = list(capacity._exposure_checks([perfect, nothing], [perfect], [nothing]))
    assert not any(check.holds for check in bad)


def test_a_share_of_nothing_passes_no_check() -> None:
    assert capacity._share(1.0, 4.0) == 0.25
    assert capacity._share(0.0, 0.0) == float("inf")


def test_rounding_checks_read_every_seed() -> None:
    done = trained(10, 40, 10, seed=1)
    run = ClaimRun()
    checks = list(capacity._rounding_checks(run, [(done, done.report())]))
    assert len(checks) == 2
    assert set(run.tables["share of R kept after rounding"]) >= {"8 bits, uniform_absmax", "4 bits, nf"}
    assert checks[0].measured is not None
    assert checks[0].measured > 0.9

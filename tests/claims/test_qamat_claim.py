"""QAMAT's claim: the world keeps what is held out apart, and its checks can fail."""

from __future__ import annotations

import pytest
import torch

import keeps.claims.qamat as claim
from keeps.claims.qamat_people import TWO_HOPS, PeopleWorld


@pytest.fixture(scope="module")
def world() -> PeopleWorld:
    return PeopleWorld(people=60, held_out=20, companies=20)


def test_nothing_that_is_learned_from_names_held_out_people_or_the_seats_of_held_out_companies(
    world: PeopleWorld,
) -> None:
    names = {person["name"] for person in world.held_out}
    seats = {f"{firm['name']}:seat" for firm in world.held_out_firms}
    passages = world.passages(200)
    learned = [*world.questions(200, held_out=False), *world.two_hops(100, world.learned, world.learned_firms)]
    texts = [passage.text for passage in passages] + [one.question for one in learned]
    assert not any(name in text for name in names for text in texts)
    used = {name for passage in passages for name in passage.relevant[0]} | {
        name for one in learned for name in one.pairs
    }
    assert not used & seats
    tested = [*world.questions(50, held_out=True), *world.two_hops(50, world.held_out, world.firms)]
    assert all(any(name in one.question for name in names) for one in tested)


def test_every_answer_is_that_of_its_pairs_in_other_words_than_theirs(world: PeopleWorld) -> None:
    by_id = {pair.id: pair for pair in world.pairs}
    assert len(by_id) == len(world.pairs) == 60 * 4 + 20
    for one in [*world.questions(40, held_out=True), *world.two_hops(40, world.held_out, world.held_out_firms)]:
        assert by_id[one.pairs[-1]].answer == one.answer
        assert one.question not in {pair.question for pair in world.pairs}
    for passage in world.passages(40):
        assert passage.target.removeprefix("<extra_id_0> ") == by_id[passage.relevant[0][0]].answer
        assert len(passage.relevant[0]) == 1
    assert all("{name}" in form for form in TWO_HOPS)
    moved = world.moved(world.firms)
    assert not any(new["seat"] == old["seat"] for new, old in zip(moved, world.firms, strict=True))
    for pair in world.pairs[:40]:
        assert world.other(pair) != pair.answer


def test_the_same_seed_gives_the_same_world() -> None:
    one, other = PeopleWorld(30, 10, 8), PeopleWorld(30, 10, 8)
    assert one.pairs == other.pairs
    assert one.questions(5, held_out=True) == other.questions(5, held_out=True)
    assert PeopleWorld(30, 10, 8, seed=1).pairs != one.pairs


def test_the_formulas_hold_and_a_wrong_loss_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = claim.formulas()
    assert check.holds
    one_hot = lambda scores, relevant: -scores.log_softmax(1)[relevant].mean(0, keepdim=True)  # noqa: E731
    monkeypatch.setattr(claim, "relevance_losses", one_hot)
    (check,) = claim.formulas()
    assert not check.holds
    assert torch.is_grad_enabled()

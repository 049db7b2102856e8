"""Right entities by belief, name or documents; candidates around them; the one that is talked about."""

from __future__ import annotations

from keeps.claims.hybrid_dialog_world import TEMPLATES as TOLD
from keeps.data.entities import Entity, EntityBase, EntityDocument
from keeps.data.entity_dialogs import Reply
from keeps.training.dialog_labels import best_entity, document_matches, met, oracle, universe
from keeps.training.relocation import unstructured

ROWS = [("a", "north", "two"), ("b", "north", "four"), ("c", "south", "four"), ("d", "south", "two"),
        ("e", "west", "two")]  # fmt: skip
FULL = EntityBase(tuple(Entity("h", name, {"area": area, "stars": stars}) for name, area, stars in ROWS))
HISTORY = (("user", "north please"),)


def reply(text: str = "ok", **belief: str) -> Reply:
    return Reply("1", HISTORY, text, "h", belief)


def names(entities: list[Entity]) -> list[str]:
    return [entity.name for entity in entities]


def test_a_name_comes_before_constraints_and_documents_before_a_name() -> None:
    assert names(oracle(reply(area="north"), FULL)) == ["a", "b"]
    assert names(oracle(reply(area="north", name="c"), FULL)) == ["c"]
    assert names(oracle(reply(area="north", name="dontcare"), FULL)) == ["a", "b"]
    assert names(oracle(Reply("1", HISTORY, "ok", "h", {"name": "c"}, ("D",)), FULL)) == ["d"]
    assert oracle(reply(), FULL) == []


def test_documents_match_by_whole_words_beside_punctuation_and_empty_ones_by_nothing() -> None:
    told = {"h/a": [EntityDocument("", "In the north, near (four) trees.")], "h/b": [EntityDocument("", "northern")]}
    base = FULL.with_documents({**told, "h/c": [EntityDocument("", "")]})
    assert names(document_matches("h", {"area": "north"}, base)) == ["a"]
    assert names(document_matches("h", {"stars": "FOUR", "area": "any"}, base)) == ["a"]
    assert document_matches("h", {"area": ""}, base) == []


def test_candidates_are_right_ones_matches_and_random_ones_up_to_the_least_number() -> None:
    right = oracle(reply(area="north"), FULL)
    found = names(universe(reply(area="north"), FULL, right, least=1, seed=0))
    assert found[:2] == ["a", "b"]
    assert len(found) == 4, "twice as many as right ones"
    assert len(universe(reply(area="north"), FULL, right, least=10, seed=0)) == len(FULL), "no more than there are"
    assert universe(reply(area="north"), FULL, right, least=3, seed=5) == universe(
        reply(area="north"), FULL, right, least=3, seed=5
    )
    moved = unstructured(FULL, TOLD)
    candidates = universe(reply(area="north"), moved, right, least=1, seed=0)
    assert candidates[0] is moved.by_id["h/a"], "they are shown as the changed tables hold them"
    assert {"a", "b"} <= set(names(candidates))


def test_slots_that_no_entity_has_rule_nothing_out() -> None:
    assert names(oracle(reply(area="north", people="2", day="monday"), FULL)) == ["a", "b"]
    assert oracle(reply(people="2"), FULL) == [], "nothing is asked of the table"
    assert oracle(reply(area="north", stars="two"), unstructured(FULL, TOLD)) == [], "moved values are not in the table"


def test_random_candidates_are_of_every_domain() -> None:
    base = EntityBase((*FULL, *(Entity("r", name) for name in "uvwxyz")))
    found = universe(reply(area="north"), base, oracle(reply(area="north"), base), least=len(base), seed=0)
    assert {entity.id for entity in found} == {entity.id for entity in base}


def test_yes_and_no_match_documents_about_their_slot() -> None:
    told = {
        "h/a": [EntityDocument("Is there internet?", "No, there is none.")],
        "h/b": [EntityDocument("Can I park?", "Yes, there is room for cars.")],
    }
    assert names(document_matches("h", {"internet": "yes"}, FULL.with_documents(told))) == ["a"]


def test_the_entity_that_is_mentioned_most_is_the_one_that_was_answered_from() -> None:
    right = [Entity("h", "alpha lodge"), Entity("h", "beta inn")]
    told = Reply("1", (("user", "not alpha lodge"),), "beta inn, the beta inn", "h", {"area": "north"})
    assert best_entity(told, right, seed=0) is right[1]
    assert best_entity(reply(), right, seed=0) in right, "a random one where none is mentioned"
    assert best_entity(reply(), [], seed=0) is None


def test_what_is_met_is_looked_up_in_documents_too() -> None:
    moved = unstructured(FULL, TOLD).by_id["h/a"]
    assert met(reply(area="north", stars="four", name="A", type="any"), moved) == (["area", "name"], ["stars"])

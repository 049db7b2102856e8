"""Facts move from tables to documents and none is lost, whatever moves."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.claims.hybrid_dialog_world import TEMPLATES as TOLD
from keeps.claims.hybrid_dialog_world import conversations, town
from keeps.data.entities import Entity, EntityBase
from keeps.data.entity_dialogs import Reply
from keeps.data.entity_files import read_entities
from keeps.errors import RecordError
from keeps.numerics.dialog_scores import plain
from keeps.numerics.max_cut import cut_weight
from keeps.training.relocation import TEMPLATES, Template, moved_slots, relocated, unstructured, value_graph

FULL = town(0)
REPLIES = conversations(FULL, 0)
SHOP = EntityBase(
    (
        Entity("hotel", "Alpha", {"area": "north", "parking": "no", "price": {"single": "50", "double": "70"}}),
        Entity("hotel", "Beta", {"area": "south", "parking": "yes", "type": ("inn", "bar")}),
    )
)


def test_facts_are_the_same_in_all_variants_and_the_text_of_documents_states_them() -> None:
    variants = [
        moved_slots(FULL, ("stars",), TOLD),
        relocated(FULL, REPLIES, TOLD).base,
        unstructured(FULL, TOLD),
    ]
    for base in variants:
        assert base.facts() == FULL.facts()
        for entity in base:
            for document in entity.documents:
                assert all(f" {value} " in f" {document.body} " for _, value in document.states)
    assert all(not entity.slots for entity in variants[-1])
    assert all("stars" not in entity.slots and len(entity.slots) == 4 for entity in variants[0])


def test_the_cut_is_half_of_all_weight_or_more_and_better_than_random_sides() -> None:
    nodes, weights = value_graph(FULL, REPLIES)
    found = relocated(FULL, REPLIES, TOLD)
    chance = random.Random(0)
    split = [cut_weight(weights, [chance.random() < 0.5 for _ in nodes]) for _ in range(20)]
    assert found.total == sum(weights.values()) > 0
    assert found.cut >= found.total / 2
    assert found.cut >= max(split)
    assert set(found.moved) | set(found.kept) == set(nodes)
    assert not set(found.moved) & set(found.kept)
    moved = {(e.domain, slot, plain(value)) for e in found.base for d in e.documents for slot, value in d.states}
    assert moved == set(found.moved)


def test_edges_count_utterances_that_name_both_values() -> None:
    base = EntityBase((Entity("h", "a", {"area": "north", "stars": "four"}), Entity("h", "b", {"area": "south"})))
    before = (("user", "north with four stars, not south"),)
    replies = [Reply("1", before, "a has four", "h"), Reply("2", before, "four in the north", "h")]
    nodes, weights = value_graph(base, replies)
    by_name = {(nodes[a][2], nodes[b][2]): weight for (a, b), weight in weights.items()}
    assert by_name == {("north", "south"): 2.0, ("north", "four"): 3.0, ("south", "four"): 2.0}


def test_yes_and_no_lists_and_tables_move_part_by_part() -> None:
    found = unstructured(SHOP)
    alpha, beta = found
    assert alpha.slots == beta.slots == {}
    assert found.facts() == SHOP.facts()
    texts = {document.states[0]: document.body for document in (*alpha.documents, *beta.documents)}
    assert texts["parking", "no"] == TEMPLATES["parking"].no
    assert texts["parking", "yes"] == TEMPLATES["parking"].bodies[0]
    assert "50" in texts["price single", "50"]
    assert moved_slots(SHOP, ("price single",)).by_id["hotel/Alpha"].slots["price"] == {"double": "70"}


@given(st.sets(st.sampled_from(sorted(TOLD))))
def test_any_choice_of_slots_keeps_every_fact(slots: set[str]) -> None:
    found = moved_slots(FULL, sorted(slots), TOLD)
    assert found.facts() == FULL.facts()
    assert all(set(entity.slots) == set(TOLD) - slots for entity in found)


def test_a_slot_without_template_and_a_template_that_states_nothing_are_refused() -> None:
    with pytest.raises(RecordError, match="no template for area"):
        unstructured(FULL, {})
    with pytest.raises(RecordError, match="does not state the value"):
        Template("What?", ("{name} is nice.",))


def test_the_assignment_is_recorded_and_the_same_for_a_seed(tmp_path: Path) -> None:
    found = relocated(FULL, REPLIES, TOLD, seed=3)
    assert found == relocated(FULL, REPLIES, TOLD, seed=3)
    found.write(tmp_path / "assignment.json")
    read = json.loads((tmp_path / "assignment.json").read_text())
    assert [tuple(node) for node in read["documents"]] == list(found.moved)
    assert (read["cut"], read["total"]) == (found.cut, found.total)


@pytest.mark.shared_data
def test_published_tables_move_whole(shared_data: Path) -> None:
    tables = [shared_data / "multiwoz" / f"db_{name}.jsonl" for name in ("hotel", "restaurant", "attraction")]
    base = read_entities(tables, leave_out=("location", "introduction"))
    found = unstructured(base)
    assert found.facts() == base.facts()
    assert all(not entity.slots for entity in found)
    added = {domain: sum(len(e.documents) for e in found.of(domain)) / len(found.of(domain)) for domain in ("hotel",)}
    assert 8 <= added["hotel"] <= 14, "the published set has 10 more a hotel"

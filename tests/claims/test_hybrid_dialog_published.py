"""The published form of JointLM's claim reads its files, and both sides of its checks can be reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keeps.claims import hybrid_dialog as claim
from keeps.claims import hybrid_dialog_published as published
from keeps.claims.base import Check, ClaimRun
from keeps.claims.hybrid_dialog_models import ids, tool_checks
from keeps.claims.hybrid_dialog_multiwoz import (
    ASKED,
    FILES,
    LEARNED_FROM,
    UNKNOWN,
    conversations,
    dealt,
    dialogues,
    knowledge,
    phrases,
    restaurants,
    told_slots,
    vocabulary,
    word_model,
    words,
)
from keeps.claims.hybrid_dialog_published import PublishedScale
from keeps.data.entities import NAME, Entity, EntityBase
from keeps.data.entity_dialogs import parse_history
from keeps.errors import EmptySetError, InputFileError
from keeps.training.dialog_labels import oracle
from keeps.training.relocation import relocated, unstructured

AREAS, FOODS, PRICES = ("north", "south", "west"), ("thai", "british", "indian", "chinese"), ("cheap", "moderate")
ROWS = [
    {
        "name": f"house {word}", "area": AREAS[n % 3], "food": FOODS[n % 4], "pricerange": PRICES[n % 2],
        "address": f"{n} {word} road", "phone": f"0122{n:04}", "postcode": f"cb{n}xy", "id": str(n),
        "location": [0.1, 0.2], "introduction": "good", "type": "restaurant",
    }
    for n, word in enumerate(("amber", "birch", "cedar", "daisy", "elder", "fern", "grove", "hazel", "iris", "juniper"))
]  # fmt: skip
DIALOGUES = [
    {
        "id": f"d{n}.json",
        "user": ["a [value_price] [value_food] place in the [value_area] ?", f"what is the {slot} , please ?", "bye ."],
        "system": ["[restaurant_name] serves [value_food] food .", f"it is [restaurant_{slot}] . all ?", "bye ."],
    }
    for n, slot in enumerate(("phone", "address", "postcode") * 2)
]  # fmt: skip


def write(folder: Path, name: str, rows: Sequence[Any]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Invented files in the published format."""
    write(tmp_path, FILES[0], [*ROWS, {"name": "no phone", "area": "north"}])
    for name, domain in (("multiwoz/db_hotel.jsonl", "inn"), ("multiwoz/db_attraction.jsonl", "park")):
        write(tmp_path, name, [{"name": f"{domain} one", "area": "west", "phone": "01229999"}])
    snippets = [
        {"domain": "restaurant", "entity_id": "0", "entity": row["name"].upper(), "doc_id": str(n), "title": f"T{n}?",
         "body": f"Yes, {n}."}
        for row in ROWS
        for n in range(3)
    ]  # fmt: skip
    taxi = {"domain": "taxi", "entity_id": "*", "entity": None, "doc_id": "0", "title": "Tip?", "body": "No."}
    write(tmp_path, "dstc9_knowledge/snippets.jsonl", [*snippets, taxi])
    for name in (LEARNED_FROM, ASKED):
        write(tmp_path, name, DIALOGUES)
    return tmp_path


def test_tables_and_documents_meet_and_other_domains_are_left_out(data: Path) -> None:
    base = knowledge(data)
    assert {entity.domain for entity in base} == {"restaurant", "hotel", "attraction"}
    assert len(base.find("restaurant", "house amber").documents) == 3
    assert "introduction" not in base.find("restaurant", "house amber").slots
    full = restaurants(base)
    assert [entity.name for entity in full] == [row["name"] for row in ROWS], "what lacks an answer is not asked about"
    assert {len(entity.documents) for entity in full} == {2}


def test_dialogues_speak_of_one_restaurant_whose_values_stand_in_the_placeholders(data: Path) -> None:
    full = restaurants(knowledge(data))
    replies = conversations(dialogues(data, ASKED), full, 0)
    assert len(replies) == 2 * len(DIALOGUES), "replies that tell nothing of the restaurant are left out"
    for first, second in zip(replies[::2], replies[1::2], strict=True):
        (right,) = oracle(second, full)
        assert second.belief[NAME] == right.name
        assert NAME not in first.belief
        assert right in oracle(first, full)
        assert right.name in first.text
        assert len(told_slots(second, right)) == 1
        assert not told_slots(first, right)
        assert "[" not in "".join(text for _, text in second.history)
        assert parse_history("\n".join(f"{who}: {text}" for who, text in second.history)) == second.history
    assert conversations(dialogues(data, ASKED), full, 0) == replies
    assert conversations(dialogues(data, ASKED), full, 1) != replies


def test_dealt_tables_keep_every_value_and_hardly_a_row(data: Path) -> None:
    full = restaurants(knowledge(data))
    other = dealt(full, 3)
    for slot in full.entities[0].slots:
        assert sorted(str(e.slots[slot]) for e in other) == sorted(str(e.slots[slot]) for e in full)
    assert sorted(e.name for e in other) == sorted(e.name for e in full)
    same = {(e.name, dict(e.values())["phone"]) for e in other} & {(e.name, dict(e.values())["phone"]) for e in full}
    assert len(same) < len(full) // 2


@pytest.mark.parametrize(
    "row", [{"id": "x", "user": ["a"], "system": []}, {"id": "x", "user": [1], "system": ["b"]}, {"id": "x"}]
)
def test_dialogues_of_another_form_are_refused(data: Path, row: Any) -> None:
    write(data, ASKED, [row])
    with pytest.raises(InputFileError):
        dialogues(data, ASKED)


def test_a_missing_file_is_named(data: Path) -> None:
    (data / FILES[3]).unlink()
    with pytest.raises(InputFileError, match=r"snippets\.jsonl"):
        list(published.published(data, ClaimRun(data=data)))


def test_the_model_reads_the_words_that_the_vocabulary_counts() -> None:
    text = "Is it in Regent Street, please? <db> <slot> name <value> 09:15.\nyes"
    model = word_model(vocabulary([text], 1), 0, width=8, layers=1, heads=2, positions=32)
    pieces = [piece for piece in model.tokenizer.tokenize(text) if piece != "\n"]
    assert pieces == words(text)
    assert model.tokenizer.tokenize("unseen") == [UNKNOWN]


def test_names_and_values_of_several_words_are_read_and_written_whole(data: Path) -> None:
    full = restaurants(knowledge(data))
    whole = phrases(full)
    assert {"house amber", "0 amber road"} <= set(whole)
    assert "thai" not in whole
    model = word_model(["at", "amber"], 0, width=8, layers=1, heads=2, positions=32, whole=whole)
    assert model.tokenizer.tokenize("at House Amber, 0 Amber Road. amber") == [
        "at", "house amber", UNKNOWN, "0 amber road", UNKNOWN, "amber",
    ]  # fmt: skip
    assert model.encoder.decode(model.encode_prompt("at house amber")) == "at house amber"


def test_a_lost_fact_and_a_lost_document_are_found_out(data: Path) -> None:
    base = knowledge(data)
    replies = conversations(dialogues(data, ASKED), restaurants(base), 0)
    cut = relocated(base, replies, seed=0)
    made = {"hybrid": cut.base, "unstructured": unstructured(base)}
    assert all(check.holds for check in tool_checks(base, replies, made, cut, documents=True))
    first = base.entities[0]
    poorer = EntityBase((Entity(first.domain, first.name, {}, first.documents[1:]), *base.entities[1:]))
    facts, documents, *_ = tool_checks(base, replies, {**made, "hybrid": poorer}, cut, documents=True)
    assert not facts.holds
    assert not documents.holds


def checks_of(data: Path, found: str, *, blind: bool = False) -> list[Check]:
    """Invariance checks of a finder that is right, wrong, or right where facts lie in the table."""
    full = restaurants(knowledge(data))
    asked = conversations(dialogues(data, ASKED), full, 0)
    variants = {"original": full, "hybrid": relocated(full, asked).base, "unstructured": unstructured(full)}

    def first(name: str) -> list[Entity]:
        good = found == "right" or (found == "table" and name == "original")
        wrong = [next(e for e in full if e.id not in ids(reply, full)) for reply in asked]
        return [oracle(reply, full)[0] if good else other for reply, other in zip(asked, wrong, strict=True)]

    run = ClaimRun()
    shown = {**variants, "original": variants["unstructured"]} if blind else variants
    checks = list(published.invariance_checks({name: first(name) for name in shown}, shown, asked, full, run))
    assert set(run.tables["slot F1 of drawn values"]) == {"JointLM", "table alone"}
    return checks


def test_who_finds_the_restaurant_everywhere_is_invariant_and_the_table_alone_falls(data: Path) -> None:
    invariant, falls = checks_of(data, "right")
    assert invariant.holds
    assert invariant.measured == 0
    assert falls.holds
    assert falls.measured == pytest.approx(100)


def test_who_finds_it_nowhere_or_in_the_table_alone_is_not_and_a_table_that_had_nothing_does_not_fall(
    data: Path,
) -> None:
    assert not checks_of(data, "wrong")[0].holds
    assert not checks_of(data, "table")[0].holds
    assert not checks_of(data, "right", blind=True)[1].holds


def test_replies_that_tell_nothing_are_too_few(data: Path) -> None:
    full = restaurants(knowledge(data))
    asked = conversations(dialogues(data, ASKED), full, 0)[::2]
    with pytest.raises(EmptySetError, match="tells a value"):
        list(published.invariance_checks({"original": list(full)}, {"original": full}, asked, full, ClaimRun()))


def test_finding_more_than_words_must_be_significant(data: Path) -> None:
    full = restaurants(knowledge(data))
    asked = conversations(dialogues(data, ASKED), full, 0) * 6
    run = ClaimRun()
    everything = list(published.choice_checks([True] * len(asked), asked, full, full, run))
    nothing = list(published.choice_checks([False] * len(asked), asked, full, full, run))
    assert not any(check.holds for check in nothing)
    for check in everything:
        assert check.baseline is not None
        assert check.holds == (check.baseline < 1 - 5 / len(asked))
    assert set(run.tables["success@1"]) == {"JointLM", "TF-IDF", "BM25"}


def test_the_whole_runs_on_files_of_the_published_form(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.SCALES, "default", PublishedScale(1, 1, 6, 2, width=16, layers=1))
    run = ClaimRun(data=data)
    checks = list(claim.experiment(run))
    assert len(checks) == 9
    assert [check.holds for check in checks[:5]] == [True] * 5
    assert not any(check.holds for check in checks[5:7]), "a model that learned nothing"
    assert set(run.tables["replies written about the right restaurant"]) == {"original", "hybrid", "unstructured"}


@pytest.mark.shared_data
def test_the_published_files_are_read(shared_data: Path) -> None:
    base = knowledge(shared_data)
    assert (len(base), sum(len(entity.documents) for entity in base)) == (222, 2869)
    full = restaurants(base)
    asked = conversations(dialogues(shared_data, ASKED), full, 0)
    assert len(full) == 107
    assert len(asked) == 244
    assert all(oracle(reply, full) for reply in asked)
    assert sum(bool(told_slots(r, oracle(r, full)[0])) and NAME in r.belief for r in asked) > 60

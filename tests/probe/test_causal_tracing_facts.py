"""Facts to trace come from the world, from records and from files of facts and edits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.data.records import Example, Fact, RecordSet
from keeps.errors import EmptySetError, RecordError
from keeps.probe.causal_tracing_facts import TracedFact, traced_facts


def test_facts_come_from_the_world_from_records_and_from_edits(tmp_path: Path) -> None:
    oslo = traced_facts("world:capital")[0]
    assert oslo.subject in oslo.prompt
    file = tmp_path / "edits.jsonl"
    edit = {"subject": "Oslo", "relation": "r", "prompt": "Oslo lies in", "target_new": "Sweden"}
    file.write_text(json.dumps({**edit, "target_true": "Norway"}))
    assert traced_facts(str(file)) == [TracedFact("edit-1", "Oslo", "r", "Oslo lies in", ("Norway",))]
    file.write_text(json.dumps(edit))
    with pytest.raises(RecordError, match="does not say what is true"):
        traced_facts(str(file))
    file.write_text(json.dumps({"subject": "Oslo", "relation": "country", "object": "Norway"}))
    [fact] = traced_facts(str(file))
    assert (fact.relation, fact.answers) == ("country", ("Norway",))
    with pytest.raises(EmptySetError, match="no fact with a subject"):
        traced_facts(RecordSet("mine", (Example("1", "a", "b"),)))
    nameless = Fact("f", "Oslo", "r", ("Paris lies in",), ("France",))
    with pytest.raises(RecordError, match="does not name the subject"):
        traced_facts(RecordSet("mine", (nameless,)))

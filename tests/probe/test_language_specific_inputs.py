"""The probe of languages: what it refuses, what it stores, and that it runs on the default model and on real sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from language_answerers import (
    Scorer,
    Writer,
    asking,
    planted,
    questions,
)

import keeps
from keeps.data.records import RecordSet
from keeps.errors import EmptySetError, KeepsError, RecordError, SettingsError, UnknownNameError
from keeps.probe.base import Selection
from keeps.probe.journal import Journal
from keeps.probe.language_map import LanguageMap
from keeps.probe.language_specific import LanguageSpecific, LanguageSpecificSettings


def test_rows_are_plain_a_journal_changes_nothing_and_the_map_s_settings_ask_nothing_new(tmp_path: Path) -> None:
    data = questions(tmp_path)
    probe = asking(data, limit=60)
    rows = probe(Scorer(planted))
    assert [row.id for row in rows] == probe.ids
    assert len(set(probe.ids)) == 180
    assert json.loads(json.dumps([row.details for row in rows])) == [row.details for row in rows]
    with Journal(Scorer(planted), tmp_path / "asked.jsonl") as journal:
        assert probe(journal) == rows
    assert asking(data, limit=60, clusters=2, support=1, permutations=50).fingerprint == probe.fingerprint
    others = [asking(data, limit=61), asking(data, limit=60, asking="direct"), asking(data, limit=60, prefix="q: ")]
    assert len({probe.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    ("settings", "limit", "kind", "what"),
    [
        ({"languages": ("en",)}, None, SettingsError, "nothing to choose"),
        ({"languages": ("fr", "sw")}, None, SettingsError, "give English"),
        ({"languages": ("en", "tlh")}, None, UnknownNameError, 'no language "tlh"'),
        ({"countries": ("Atlantis",)}, None, UnknownNameError, 'no country "Atlantis"'),
        ({"clusters": 200}, None, SettingsError, "too few for 200 clusters"),
        ({"clusters": 10}, 9, SettingsError, "too few for 10 clusters"),
        ({"asking": "guess"}, None, SettingsError, "asking"),
        ({"clustering": "birch"}, None, SettingsError, "clustering"),
        ({"test_share": 1.0}, None, SettingsError, "test_share"),
        ({"transfer": "nowhere"}, None, KeepsError, "no map that can be read"),
        ({}, 0, SettingsError, "limit is 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(
    settings: dict[str, Any], limit: int | None, kind: type[KeepsError], what: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=what):
        asking(questions(tmp_path), limit=limit, **settings)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"id": "x"}, "not in all languages"), ({"id": "food1"}, "twice"), ({"answer": "pink"}, "not among the choices")],
)
def test_bad_sets_are_refused_before_anything_is_asked(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(RecordError, match=what):
        asking(questions(tmp_path, **change))


def test_sets_of_one_language_and_records_are_refused(tmp_path: Path) -> None:
    system = LanguageSpecific(LanguageSpecificSettings())
    with pytest.raises(SettingsError, match="not in several languages"):
        system.probe(Selection(RecordSet("it", ())))
    (tmp_path / "none").mkdir()
    with pytest.raises(EmptySetError):
        asking(tmp_path / "none")
    with pytest.raises(UnknownNameError, match="capital"):
        asking("world:capital")


def test_log_probabilities_cannot_be_asked_of_what_has_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no log-probabilities"):
        asking(questions(tmp_path), asking="likelihood")(Writer(planted))


@pytest.mark.shared_data
def test_geomlama_is_asked_in_five_languages(shared_data: Path) -> None:
    path = shared_data / "geomlama" / "prompts.jsonl"
    probe: Any = LanguageSpecific(LanguageSpecificSettings(clusters=4)).probe(Selection(str(path), 0, 60))
    assert len(probe.ids) == 300
    assert len({identity.partition("@")[2] for identity in probe.ids}) == 5


@pytest.mark.slow
def test_the_default_model_is_asked_and_its_map_is_written_beside_the_page(tmp_path: Path) -> None:
    settings = {"languages": "en,fr", "clusters": 2, "support": 5, "permutations": 99}
    outcome = keeps.probe(
        "smollm2-135m",
        "world:continent,world:language",
        system="language_specific",
        settings=settings,
        limit=24,
        workspace=tmp_path / "ledger",
        out=tmp_path / "page",
    )
    assert len(outcome.rows) == 48
    assert {path.name for path in outcome.files} >= {"map.json", "map.safetensors", "picture.png", "README.md"}
    assert LanguageMap.load(tmp_path / "page").made_of["clusters"] == 2
    again = keeps.probe(
        "smollm2-135m",
        "world:continent,world:language",
        system="language_specific",
        settings={**settings, "clusters": 3},
        limit=24,
        workspace=tmp_path / "ledger",
    )
    assert again.reused

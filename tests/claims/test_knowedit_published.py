"""Editing on published data: what is read of CounterFact and zsRE, and the checks on both sides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import keeps.claims.knowedit as whole
import keeps.claims.knowedit_published as claim
from keeps.claims.base import Check, ClaimRun
from keeps.contracts import Row
from keeps.errors import InputFileError
from keeps.models import LanguageModel

TOWNS = ("Oslo", "Bergen", "Trondheim")


def published(folder: Path) -> Path:
    """Invented files in both layouts; one row of zsRE wants nothing."""
    counterfact = [
        {"case_id": n, "relation_id": "P17", "subject": town, "prompt": f"{town} lies in", "target_new": "Sweden",
         "target_true": "Norway", "paraphrase_prompts": [f"One finds {town} in"],
         "neighborhood_prompts": ["Moss lies in", "Hamar lies in", "Mandal lies in"], "attribute_prompts": [],
         "generation_prompts": [f"{town} is"]}
        for n, town in enumerate(TOWNS)
    ]  # fmt: skip
    zsre = [
        {"subject": town, "question": f"Which country is {town} in?", "rephrase": f"Where is {town}?",
         "target_true": "Norway", "target_new": new, "locality_question": "who sang it", "locality_answer": "Ann"}
        for town, new in zip(TOWNS, ("Sweden", " ", "Finland"), strict=True)
    ]  # fmt: skip
    for name, rows in (("CounterFact", counterfact), ("zsRE", zsre)):
        write(folder / claim.SETS[name][0], rows)
    return folder


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_both_layouts_are_read_with_two_prompts_of_a_kind_at_most(tmp_path: Path) -> None:
    folder = published(tmp_path)
    first, *_ = claim.published_edits(folder, "CounterFact", 3)
    assert (first.sentence, first.target_true) == ("Oslo lies in Sweden.", "Norway")
    assert [asked.prompt for asked in first.locality] == ["Moss lies in", "Hamar lies in"]
    zsre = claim.published_edits(folder, "zsRE", 2)
    assert [(edit.id, edit.target_new) for edit in zsre] == [("zsRE-1", "Sweden"), ("zsRE-3", "Finland")]
    assert [edit.paraphrases for edit in zsre] == [("Where is Oslo?",), ("Where is Trondheim?",)]
    assert [edit.locality[0].kind for edit in zsre] == ["unrelated"] * 2
    assert claim.published_edits(folder, "zsRE", 1, 1) == zsre[1:]


def test_files_that_are_absent_or_too_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"no counterfact_full.jsonl"):
        claim.published_edits(tmp_path, "CounterFact", 1)
    with pytest.raises(InputFileError, match="2 edits, 3 are needed"):
        claim.published_edits(published(tmp_path), "zsRE", 3)
    write(tmp_path / claim.SETS["zsRE"][0], [{"question": "Q?"}])
    with pytest.raises(InputFileError, match="lacks rephrase"):
        claim.published_edits(tmp_path, "zsRE", 1)


def answer(identity: str, scope: str, text: str) -> Row:
    return Row(identity, scope, "", "", text, True, 0.0, 0.0, "fact", {"scope": scope})


def test_locality_is_agreement_with_the_unedited_model_on_locality_prompts_alone() -> None:
    before = [answer("1", "rewrite", "a"), answer("2", "locality", "Norway"), answer("3", "locality", "Ann")]
    after = [answer("1", "rewrite", "b"), answer("2", "locality", " norway"), answer("3", "locality", "Bo")]
    assert claim.as_before(before, after) == [True, False]


ALL, NONE = [True] * 20, [False] * 20
HELD = {"rome": ALL, "memit": ALL, "ft_m": NONE}


@pytest.mark.parametrize(
    ("success", "kept", "failing"),
    [
        ({"rome": ALL, "ft_m": ALL}, HELD, []),
        ({"rome": [*ALL[:17], *NONE[:3]], "ft_m": ALL}, HELD, [0]),
        ({"rome": ALL, "ft_m": NONE}, HELD, [1]),
        ({"rome": ALL, "ft_m": ALL}, {**HELD, "rome": NONE}, [2]),
        ({"rome": ALL, "ft_m": ALL}, {**HELD, "memit": [*ALL[:5], *NONE[:15]]}, [3]),  # p = 0.06
        ({"rome": ALL, "ft_m": ALL}, {**HELD, "ft_m": ALL}, [2, 3]),
    ],
)
def test_the_checks_hold_only_where_the_published_direction_is_seen(
    success: Mapping[str, list[bool]], kept: Mapping[str, list[bool]], failing: list[int]
) -> None:
    found = list(claim.checks(success, kept))
    assert [number for number, check in enumerate(found) if not check.holds] == failing


def test_the_form_runs_through_and_gives_the_weights_back(
    tmp_path: Path, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny_llama.fingerprint
    for name, value in (("EDITS", 1), ("SEEN", 1), ("SURE", ("ft_m",)), ("LOCAL", ("ft_m",))):
        monkeypatch.setattr(claim, name, value)
    run = ClaimRun(data=published(tmp_path))
    found = list(claim.published(tiny_llama, run, ("ft_m",), {"ft_m": {"layer": 0}}))
    assert [check.holds for check in found][-2:] == [False, True]  # no better than itself; weights are back
    assert set(run.tables) == {"CounterFact", "zsRE"}
    assert all(table["ft_m"]["edits"] == 1 for table in run.tables.values())
    assert tiny_llama.fingerprint == before


def test_with_data_the_claim_runs_the_identities_and_this_form_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = {name: Check(name, 1.0, "1", True) for name in ("exact_checks", "published", "_ike_check")}
    asked: list[Any] = []
    monkeypatch.setattr(whole.LanguageModel, "load", lambda *_, **__: None)
    monkeypatch.setattr(whole, "CODEBOOK", 2)
    for name, mark in marks.items():
        monkeypatch.setattr(whole, name, lambda *given, mark=mark: asked.append(given) or iter([mark]))
    assert list(whole.experiment(ClaimRun(data=published(tmp_path)))) == list(marks.values())
    assert [edit.subject for edit in asked[0][1]] == ["Oslo", "Bergen"]
    assert asked[1][2] == whole.PUBLISHED


def test_the_claim_names_its_files() -> None:
    assert whole.CLAIM.files == claim.FILES


@pytest.mark.shared_data
@pytest.mark.parametrize("name", list(claim.SETS))
def test_both_sets_as_published_give_enough_edits(name: str, shared_data: Path) -> None:
    edits = claim.published_edits(shared_data, name, claim.EDITS, claim.SEEN)
    assert len({edit.id for edit in edits}) == claim.EDITS
    assert all(edit.locality and edit.paraphrases and edit.target_new != edit.target_true for edit in edits)

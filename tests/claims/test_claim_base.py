"""What a claim's run comes to: its verdict, its evidence as JSON, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import keeps
from keeps.claims.base import Check, Claim, ClaimRun, Evidence, run_claim
from keeps.cli.evidence import evidence_folder, read_evidence
from keeps.errors import InputFileError, SettingsError, StorageError, UnknownNameError
from keeps.registry import claims
from keeps.versions import __version__

GOOD = Check("kept share", 0.9, "above LoRA's", True, baseline=0.5, interval=(0.1, 0.7), note="three seeds")
BAD = Check("steps", None, "fewer than LoRA", False, note="never reached")


def claim_of(*checks: Check, before: Callable[[ClaimRun], None] | None = None) -> Claim:
    def experiment(run: ClaimRun) -> Iterator[Check]:
        if before is not None:
            before(run)
        yield from checks

    return Claim("toy", "A toy keeps more.", "90 %", "arXiv:0000.00000", (0, 1), 1, experiment)


class Heard:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def task(self, description: str, total: float | None, done: float = 0) -> object:
        raise AssertionError(f"no bar was expected: {description}, {total}, {done}")


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [((), "not run"), ((GOOD,), "holds"), ((GOOD, GOOD), "holds"), ((GOOD, BAD), "does not hold")],
)
def test_a_claim_holds_when_every_check_does(checks: tuple[Check, ...], verdict: str) -> None:
    found = run_claim(claim_of(*checks), ClaimRun())
    assert found.verdict == verdict
    assert found.checks == checks


def test_each_check_is_told_when_it_is_there() -> None:
    progress = Heard()
    run_claim(claim_of(GOOD, BAD), ClaimRun(progress=progress))  # type: ignore[arg-type]
    assert progress.messages == [
        "holds: kept share (0.9 against 0.5; above LoRA's)",
        "does not hold: steps (; fewer than LoRA)",
    ]


def test_evidence_survives_being_written_as_json() -> None:
    def fill(run: ClaimRun) -> None:
        run.tables["seeds"] = {0: (1, 2.5), 1: [None, True]}

    found = run_claim(claim_of(GOOD, BAD, before=fill), ClaimRun(size="full", data=Path("my data")))
    assert found.command == "keeps reproduce toy --size full --data 'my data'"
    assert found.versions["keeps"] == __version__
    again = Evidence.from_mapping(json.loads(found.to_json()))
    assert again.checks == found.checks
    assert again == replace(found, tables={"seeds": {"0": [1, 2.5], "1": [None, True]}})
    assert Evidence.from_mapping(again.to_mapping()) == again


def test_a_figure_that_is_no_number_is_null_in_json() -> None:
    check = Check("ratio", float("nan"), "below 1", False, interval=(0.0, float("inf")))
    written = json.loads(run_claim(claim_of(check), ClaimRun()).to_json())
    assert written["checks"][0]["measured"] is None
    assert written["checks"][0]["interval"] == [0.0, None]


@pytest.mark.parametrize("lost", ["verdict", "checks", "seeds"])
def test_evidence_that_lacks_something_is_refused(lost: str) -> None:
    values = run_claim(claim_of(GOOD), ClaimRun()).to_mapping()
    del values[lost]
    with pytest.raises(InputFileError, match=f"no evidence of a claim .*{lost}"):
        Evidence.from_mapping(values)


@pytest.mark.parametrize(("name", "threshold"), [("", "above 0"), ("kept", " ")])
def test_a_check_without_name_or_threshold_is_none(name: str, threshold: str) -> None:
    with pytest.raises(ValueError, match="needs a name and a threshold"):
        Check(name, 1.0, threshold, True)


def test_an_unknown_card_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match='did you mean "corda"'):
        keeps.reproduce("corde")


def test_an_unknown_size_is_refused_before_the_experiment() -> None:
    with pytest.raises(SettingsError, match=r'size is "ful".*did you mean "full"'):
        keeps.reproduce("corda", size="ful")


def with_claim(monkeypatch: pytest.MonkeyPatch, claim: Claim) -> None:
    monkeypatch.setattr("keeps.registry.claims", lambda: {claim.card: claim})


def test_reproduce_writes_the_evidence_that_the_command_line_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_claim(monkeypatch, claim_of(GOOD))
    found = keeps.reproduce("toy", out=tmp_path / "evidence")
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == ["toy.json"]
    assert read_evidence("toy", tmp_path / "evidence") == found.to_mapping()


def test_a_folder_that_cannot_be_written_is_refused_before_the_experiment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spend(_: ClaimRun) -> None:
        raise AssertionError("minutes were spent")

    with_claim(monkeypatch, claim_of(GOOD, before=spend))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        keeps.reproduce("toy", out=tmp_path / "file")


def test_evidence_on_published_data_lies_beside_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spend(_: ClaimRun) -> None:
        raise AssertionError("minutes were spent")

    with_claim(monkeypatch, replace(claim_of(GOOD, before=spend), files=("set/rows.jsonl",)))
    with pytest.raises(InputFileError, match=r"no rows.jsonl.*holds set/rows.jsonl"):
        keeps.reproduce("toy", data=tmp_path)
    with_claim(monkeypatch, replace(claim_of(GOOD), files=("set/rows.jsonl",)))
    (tmp_path / "rows.jsonl").write_text("{}")
    keeps.reproduce("toy", data=tmp_path, out=tmp_path / "evidence")
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == ["toy_data.json"]


def test_data_for_a_claim_that_reads_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_claim(monkeypatch, claim_of(GOOD))
    with pytest.raises(SettingsError, match="toy has no form on published data"):
        keeps.reproduce("toy", data=tmp_path)


@pytest.mark.parametrize("card", sorted(claims()))
def test_every_claim_says_what_should_be_seen_and_what_was_published(card: str) -> None:
    claim = claims()[card]
    assert claim.card == card
    assert claim.statement.endswith(".")
    assert all((claim.published, claim.paper, claim.seeds))
    assert claim.minutes > 0


@pytest.mark.parametrize("path", sorted(evidence_folder().glob("*.json")), ids=lambda path: path.stem)
def test_committed_evidence_is_of_a_claim_and_each_of_its_checks_can_be_judged(path: Path) -> None:
    found = Evidence.from_mapping(read_evidence(path.stem, path.parent) or {})
    claim = claims()[path.stem.removesuffix("_data")]
    assert path.stem == claim.card or claim.files
    assert (found.card, found.claim, found.published) == (claim.card, claim.statement, claim.published)
    assert all(check.name and check.threshold for check in found.checks)
    assert len({check.name for check in found.checks}) == len(found.checks)
    assert found.verdict == ("holds" if all(check.holds for check in found.checks) else "does not hold")

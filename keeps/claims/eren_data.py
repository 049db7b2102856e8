"""The data of EREN's claim: facts of the built-in world with other objects, or CounterFact-Hard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.claims.published import published_rows
from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit, EditPrompt
from keeps.data.records import Fact
from keeps.data.select import load_records
from keeps.errors import InputFileError
from keeps.models.notebook import Note, notes_of
from keeps.probe.matching import matches, normalised

EDITS = 50  # corrected at once and reported; as many others are calibrated on
CALIBRATED_ON = "world:capital#25,world:currency#25"
REPORTED = "world:capital,world:currency"
WORDINGS, NEIGHBOURS = 2, 2  # questions an edit: in scope, and of each kind out of it
FILE = "eren/counterfact_hard.jsonl"
KINDS: Mapping[str, str] = {"same_relation": "neighbour", "same_subject": "same-subject"}


@dataclass(frozen=True)
class Job:
    """Notes, questions that they answer with their answers, and questions that they do not, by kind."""

    name: str
    notes: Sequence[Note]
    inside: Sequence[tuple[str, str]]
    outside: Mapping[str, Sequence[str]]
    calibration: Sequence[Edit]
    calibration_notes: Sequence[Note]
    right: Callable[[str, str], bool]  # text, target


def world_job() -> Job:
    """Capitals and currencies, half of each; what is calibrated on are other countries."""
    pool = [record for record in load_records("world") if isinstance(record, Fact)]
    calibrated = [record for record in load_records(CALIBRATED_ON) if isinstance(record, Fact)]
    taken = {fact.subject for fact in calibrated}
    chosen: dict[str, list[Fact]] = {}
    seen: set[str] = set()
    for record in load_records(REPORTED):
        if not isinstance(record, Fact) or record.subject in taken | seen:
            continue
        of_relation = chosen.setdefault(record.relation, [])
        if len(of_relation) < EDITS // 2:
            of_relation.append(record)
            seen.add(record.subject)
    edits = edits_from_facts([fact for facts in chosen.values() for fact in facts], pool=pool)
    calibration = edits_from_facts(calibrated, pool=pool)
    return _job("built-in world", edits, notes_of(edits), calibration, notes_of(calibration), _begins)


def counterfact_hard_job(data: Path) -> Job:
    """The first edits of CounterFact-Hard that have both kinds of negatives; the next ones are calibrated on.

    Raises:
        InputFileError: the folder lacks the file, or it has too few such rows.
    """
    rows = list(_edits(published_rows(data, FILE, "id", "edit_statement", "edit_scope", "unrelated")))[: 2 * EDITS]
    if len(rows) < 2 * EDITS:
        mend = f"give {2 * EDITS} edits with questions of both kinds"
        raise InputFileError(f"there are {len(rows)} edits with negatives of both kinds", where=str(data), mend=mend)
    edits, notes = [edit for edit, _ in rows], [note for _, note in rows]
    return _job("CounterFact-Hard", edits[:EDITS], notes[:EDITS], edits[EDITS:], notes[EDITS:], _contains)


def _edits(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Edit, Note]]:
    for row in rows:
        asked, unrelated = row["edit_scope"], row["unrelated"]
        kinds = {"same_relation": unrelated["neighbor_subj"], "same_subject": unrelated["same_subj"]}
        if not asked or not all(kinds.values()):
            continue
        locality = [EditPrompt(kind, prompt, ("-",)) for kind, some in kinds.items() for prompt in dict.fromkeys(some)]
        edit = Edit(
            str(row["id"]), "", asked[0][0], asked[0][1], paraphrases=tuple(prompt for prompt, _ in asked[1:]),
            locality=tuple(locality),
        )  # fmt: skip
        yield edit, Note(edit.id, row["edit_statement"])


def _job(
    name: str,
    edits: Sequence[Edit],
    notes: Sequence[Note],
    calibration: Sequence[Edit],
    calibration_notes: Sequence[Note],
    right: Callable[[str, str], bool],
) -> Job:
    inside = [(prompt, edit.target_new) for edit in edits for prompt in (edit.prompt, *edit.paraphrases)[:WORDINGS]]
    outside: dict[str, list[str]] = {shown: [] for shown in KINDS.values()}
    for edit in edits:
        for kind, shown in KINDS.items():
            prompts = [asked.prompt for asked in edit.locality if asked.kind == kind]
            outside[shown] += prompts[:NEIGHBOURS]
    return Job(name, notes, inside, outside, calibration, calibration_notes, right)


def _begins(text: str, target: str) -> bool:
    """A prompt that the target completes."""
    return matches(text, [target])


def _contains(text: str, target: str) -> bool:
    """A question, which a small model answers in a sentence."""
    words = normalised(text).replace(".", " ").replace(",", " ").split()
    return f" {normalised(target)} " in f" {' '.join(words)} "

"""What an edit job changes, keeps and asks: edits from a file, from facts or from a prompt; and what must not move."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keeps.contracts import Probe
from keeps.data.edits import Edit, check_edits, edits_fingerprint
from keeps.data.records import Fact, RecordSet
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError
from keeps.jobs.data import PROBE_PASSAGES, keep_questions
from keeps.probe.editing import EditingProbe, load_edits
from keeps.probe.facts import FactProbe
from keeps.probe.several import SeveralProbes
from keeps.probe.text import TextProbe

DEFAULT_KEEP = "world:known#60"
Edits = str | Path | Edit | Sequence[Edit]
_NAMES = re.compile(r"(?:[^\W\d_a-z][\w'’.-]*)(?:\s+(?:of|the|and|de|la|von|van)?\s*[^\W\d_a-z][\w'’.-]*)*")


@dataclass(frozen=True)
class EditData:
    """The data of one edit job, in the shape that an attempt at a job wants.

    Attributes:
        learn: the edits.
        keep: records that a method may use to keep.
        probe: the prompts of the edits, facts to keep and running text, asked before and after.
    """

    learn: tuple[Edit, ...]
    keep: RecordSet
    probe: Probe

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the three, by name."""
        own = edits_fingerprint(self.learn)
        return {"edits": own, "keep": self.keep.fingerprint, "probe": self.probe.fingerprint}


def edits_of(source: Edits, *, seed: int = 0, marks: Mapping[str, str] | None = None) -> tuple[Edit, ...]:
    """The edits that a user names: a file, facts of the world (which get other objects), or edits made in Python.

    Raises:
        RecordError: an edit contradicts itself or another one.
        KeepsError: as :func:`keeps.probe.editing.load_edits`.
    """
    if isinstance(source, Edit):
        found: tuple[Edit, ...] = (source,)
    elif isinstance(source, (str, Path)):
        found = load_edits(source, seed=seed, marks=marks)
    else:
        found = tuple(source)
    check_edits(found, str(source) if isinstance(source, (str, Path)) else "edits")
    refuse_contradictory(found)
    return found


def edit_from_words(prompt: str, target: str, subject: str | None = None) -> Edit:
    """The edit that a prompt and its new answer make; a subject that is not named is guessed.

    Raises:
        RecordError: the prompt or the target is empty.

    >>> edit_from_words("The capital of Mongolia is", "Darkhan").subject
    'Mongolia'
    """
    for name, text in (("prompt", prompt), ("target", target)):
        if not text.strip():
            raise RecordError(f"the {name} of the edit is empty", where="edit", mend="give a prompt and its new answer")
    chosen = guessed_subject(prompt) if subject is None else subject.strip()
    return Edit("edit-1", chosen, prompt.strip(), target.strip())


def guessed_subject(prompt: str) -> str:
    """The last name in a prompt: capitalised words that do not just begin it; "" where there is none.

    >>> guessed_subject("The mother tongue of Danielle Darrieux is"), guessed_subject("Oslo is the capital of")
    ('Danielle Darrieux', 'Oslo')
    """
    found = list(_NAMES.finditer(prompt))
    later = [match for match in found if match.start() > 0]
    if later:
        return later[-1].group().strip(" .")
    words = found[0].group().split() if found else []
    return "" if not words or words[0].lower() in {"the", "a", "an", "what", "who", "where", "in"} else " ".join(words)


def refuse_contradictory(edits: Sequence[Edit]) -> None:
    """Refuse two edits that want different answers to one prompt.

    Raises:
        RecordError: the two are named.
    """
    said: dict[str, Edit] = {}
    for edit in edits:
        other = said.setdefault(" ".join(edit.prompt.casefold().split()), edit)
        if other.target_new != edit.target_new:
            what = f'the edits {other.id} and {edit.id} want "{other.target_new}" and "{edit.target_new}" of one prompt'
            raise RecordError(what, where=edit.prompt, mend="keep one of them")


def edit_data(
    edits: Sequence[Edit],
    keep: str | RecordSet | None,
    *,
    marks: Mapping[str, str] | None = None,
    generation_tokens: int = 100,
) -> EditData:
    """What is asked about ``edits``, and what is to be kept: facts about other subjects, and held-out text."""
    subjects = {edit.subject.casefold() for edit in edits if edit.subject}
    prompts = {edit.prompt.casefold() for edit in edits}
    source = DEFAULT_KEEP if keep is None else keep
    records = load_records(source, marks=marks)
    left = tuple(
        record
        for record in records
        if not (isinstance(record, Fact) and record.subject.casefold() in subjects)
        and getattr(record, "prompt", "").casefold() not in prompts
    )
    if not left:
        raise EmptySetError("nothing is left to keep", where=records.source, mend="choose facts of other subjects")
    kept = replace(records, records=left)
    questions = [replace(item, id=f"keep/{item.id}") for item in keep_questions(kept, "keep")]
    probes: list[Probe] = [EditingProbe(edits, generation_tokens=generation_tokens)]
    if questions:
        probes.append(FactProbe(questions, name="keep"))
    known = {item.id for item in kept.passages()}
    text = [item for item in load_records("text").part("test").passages() if item.id not in known]
    probes.append(TextProbe([*kept.passages(), *text[:PROBE_PASSAGES]], group="text: held-out"))
    return EditData(tuple(edits), kept, SeveralProbes(probes, name="edits and keep"))

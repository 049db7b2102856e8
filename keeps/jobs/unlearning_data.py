"""What an unlearning job forgets, retains and asks.

The retain set is divided by subject as the keep set of an adaptation is: the method may train on its *train* part, and
what is reported as retained is its *test* part, which nothing was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keeps.contracts import Probe, Question
from keeps.data.records import RecordSet
from keeps.data.select import load_records
from keeps.errors import EmptySetError, RecordError
from keeps.jobs.data import (
    DEFAULT_KEEP,
    PROBE_PASSAGES,
    JobData,
    content_of,
    keep_questions,
    learn_questions,
    names_marks,
)
from keeps.probe.facts import FactProbe
from keeps.probe.several import SeveralProbes
from keeps.probe.text import TextProbe

FORGET, RETAIN, TRAINED = "forget", "retain", "retained in training"  # roles of the groups of the diff
WORLD = "world:"  # what the ids of built-in facts begin with


def unlearn_data(
    forget: str | RecordSet, retain: str | RecordSet | None, *, marks: Mapping[str, str] | None = None
) -> JobData:
    """Read both sets, divide the retain set, and say what is asked before and after.

    Built-in facts that both selections name are to be forgotten; anything else in both is refused.

    Raises:
        EmptySetError: nothing to forget, or no part of the retain set to train on or to report.
        RecordError: a record is in both sets.
    """
    gone = load_records(forget, marks=marks)
    if not len(gone):
        mend = "name what is to be forgotten with --forget"
        raise EmptySetError("there is nothing to forget", where=gone.source, mend=mend)
    kept = _without(load_records(DEFAULT_KEEP if retain is None else retain, marks=marks), gone)
    for part in ("train", "test"):
        if not len(kept.part(part)):
            raise EmptySetError(
                f"of the {len(kept)} records to retain, none falls into the {part} part",
                where=kept.source,
                mend="give more of them: by a hash of the subject, 2 in 5 are trained on and 2 in 5 reported",
            )
    return JobData(gone, kept.part("train"), _probe(gone, kept))


def check_unlearn_data(forget: str | RecordSet, retain: str | RecordSet | None) -> None:
    """Refuse bad data before a model is loaded; raises as :func:`unlearn_data`.

    A set that is empty for the default model's marks may hold something for those of another one.
    """
    try:
        unlearn_data(forget, retain)
    except EmptySetError:
        if not (names_marks(forget) or names_marks(DEFAULT_KEEP if retain is None else retain)):
            raise


def reported(retain: str | RecordSet | None, forget: RecordSet, marks: Mapping[str, str] | None = None) -> RecordSet:
    """The part of the retain set that no method trains on."""
    return _without(load_records(DEFAULT_KEEP if retain is None else retain, marks=marks), forget).part("test")


def _without(kept: RecordSet, gone: RecordSet) -> RecordSet:
    contents = {content_of(record) for record in gone}
    both = [record for record in kept if content_of(record) in contents]
    odd = [record.id for record in both if not record.id.startswith(WORLD)]
    if odd:
        what = f'the record "{odd[0]}" is to be forgotten and to be retained'
        raise RecordError(what, where=f"{gone.source}, {kept.source}", mend="take it out of one of them")
    return replace(kept, records=tuple(record for record in kept if content_of(record) not in contents))


def _probe(gone: RecordSet, kept: RecordSet) -> Probe:
    part, trained = kept.part("test"), kept.part("train")
    questions: list[Question] = [
        *learn_questions(gone, FORGET),
        *keep_questions(part, RETAIN),
        *keep_questions(trained, TRAINED),
    ]
    probes: list[Probe] = [FactProbe(questions, name="facts")] if questions else []
    text = load_records("text").part("test")
    for passages, group in (
        (gone.passages(), "forget: text"),
        (part.passages(), "retain: text"),
        (text.passages()[:PROBE_PASSAGES], "text: held-out"),
    ):
        if passages:
            probes.append(TextProbe(passages, group=group))
    return SeveralProbes(probes, name="forget and retain")
